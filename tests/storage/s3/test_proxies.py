"""Proxies between the job and the store: both clients take the same one, or say why not."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from coalesce import errors
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from support.scripted import EMPTY_LISTING, Peer, Server, answer, refusal, serving, store_of
from support.tls import certified, local_names, tls_buffer

BODY = b"0123456789" * 20_000


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy but the test's, and no pauses before retries."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("random.uniform", lambda low, high: 0)


async def relay(peer: Peer) -> None:
    """A proxy that answers requests for whole URLs itself; its tunnels all lead to this machine."""
    request = await peer.head()
    if request.method != "CONNECT":
        while True:
            await peer.send(answer(EMPTY_LISTING) if request.locates else answer(BODY, etag='"e"'))
            request = await peer.head()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(request.target.rpartition(":")[2])
    )
    await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

    pumps = [
        asyncio.ensure_future(pump(peer.reader, writer)),
        asyncio.ensure_future(pump(reader, peer.writer)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pumping in pumps:
            pumping.cancel()
        writer.transport.abort()


@asynccontextmanager
async def proxied(script: Callable[[Peer], Awaitable[None]] = relay) -> AsyncIterator[Server]:
    async with serving(script) as server:
        yield server


def options(url: str, **more: object) -> S3Options:
    chosen: dict[str, object] = {
        "region": "us-east-1",
        "addressing": "path",
        "access_key": "AK",
        "secret_key": "SK",
        "attempts": 1,
    } | more
    return S3Options("bucket", endpoint_url=url, **chosen)  # type: ignore[arg-type]


@asynccontextmanager
async def secure_store(
    tmp_path: Path, host: str = "localhost"
) -> AsyncIterator[tuple[S3Options, Server]]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with serving(
        store_of(lambda _: answer(BODY, etag='"e"')), tls=certified(authority, host)
    ) as server:
        yield options(f"https://{host}:{server.port}", ca_bundle=str(tmp_path / "ca.pem")), server


async def read(store: S3Store) -> None:
    await store.check_access("")
    assert (await store.get("k k", etag='"e"')).data == BODY


@pytest.mark.parametrize("spelling", ["http://{}", "{}", "//{}"])
async def test_a_proxy_of_an_http_store_is_asked_for_the_whole_url(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxied() as proxy:
        monkeypatch.setenv("HTTP_PROXY", spelling.format(f"127.0.0.1:{proxy.port}"))
        async with open_s3(options("http://store.example:8080")) as store:
            await read(store)
        general, lean = proxy.requests
        assert general.target.startswith("http://store.example:8080/bucket?")
        assert lean.target == "http://store.example:8080/bucket/k%20k"
        assert general.headers["host"] == lean.headers["host"] == "store.example:8080"
        assert not any("proxy-authorization" in request.headers for request in proxy.requests)


async def test_an_https_store_is_reached_through_a_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is still the store's, and the proxy sees no request."""
    async with secure_store(tmp_path) as (chosen, server), proxied() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with open_s3(chosen) as store:
            await read(store)
            part = await store.upload_part(
                "k", "u", 1, [BODY] * 20, checksum=Checksum.NONE, value=""
            )
            assert part.size == 20 * len(BODY)
            assert store._wire._pool is not None
            (connection,) = store._wire._pool._all
            assert len(tls_buffer(connection)) == 256 * 1024
        assert [request.line for request in proxy.requests] == [
            f"CONNECT localhost:{server.port} HTTP/1.1".encode()
        ] * 2
        assert server.requests[-1].body == BODY * 20


async def test_the_certificate_behind_a_tunnel_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_names(monkeypatch, "other.localhost")
    async with secure_store(tmp_path) as (chosen, server), proxied() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with open_s3(chosen) as store:
            store._wire.locate(
                f"https://other.localhost:{server.port}/bucket",
                "us-east-1",
                tls=store._client.tls,
                proxy=proxy.url,
            )
            with pytest.raises(errors.ConfigurationError, match="CERTIFICATE_VERIFY_FAILED"):
                await store.get("k")
        assert server.requests == []


@pytest.mark.parametrize("secure", [True, False])
async def test_a_proxy_gets_the_user_and_password_of_its_url(
    secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Percent-encoded in the URL; the store itself never sees them."""
    async with secure_store(tmp_path) as (chosen, server), proxied() as proxy:
        url = f"http://us%40er:p%3Aw@127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTPS_PROXY" if secure else "HTTP_PROXY", url)
        async with open_s3(chosen if secure else options("http://store.example")) as store:
            await read(store)
        expected = "Basic " + b64encode(b"us@er:p:w").decode()
        assert [request.headers["proxy-authorization"] for request in proxy.requests] == [
            expected
        ] * 2
        assert not any("proxy-authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize(
    "spelling", ["localhost", ".localhost", "localhost:{}", "*", "other, localhost"]
)
async def test_a_store_in_no_proxy_is_reached_directly(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secure_store(tmp_path) as (chosen, server), proxied() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", spelling.format(server.port))
        async with open_s3(chosen) as store:
            await read(store)
        assert proxy.requests == []


async def test_another_name_in_no_proxy_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secure_store(tmp_path) as (chosen, _), proxied() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "host")
        async with open_s3(chosen) as store:
            await read(store)
        assert len(proxy.requests) == 2


async def test_a_proxy_for_the_other_scheme_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with secure_store(tmp_path) as (chosen, _), proxied() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with open_s3(chosen) as store:
            await read(store)
        assert proxy.requests == []


@pytest.mark.parametrize(
    "status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"]
)
async def test_a_refused_tunnel_is_reported_without_the_password(
    status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"no", status))
        await peer.ended()

    async with proxied(script) as proxy:
        url = f"http://user:secret@127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTPS_PROXY", url)
        async with open_s3(options("https://store.example")) as store:
            with pytest.raises(errors.ConfigurationError) as caught:
                await store.check_access("")
            assert "proxy" in caught.value.message
            assert "secret" not in caught.value.message
            with pytest.raises(
                errors.Unavailable,
                match=f"the proxy refused a tunnel: {status[:3]}",
            ) as lean:
                await store.get("k")
            assert "secret" not in lean.value.message


@pytest.mark.parametrize("kind", ["https", "socks5"])
async def test_a_proxy_of_another_kind_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{kind}://user:secret@127.0.0.1:1")
    with pytest.raises(errors.ConfigurationError, match=f"the proxy {kind}://") as caught:
        async with open_s3(options("https://store.example")):
            pass
    assert "secret" not in caught.value.message


async def test_a_refusal_through_a_proxy_is_the_stores() -> None:
    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.send(
                answer(EMPTY_LISTING) if request.locates else refusal("404 Not Found", "NoSuchKey")
            )

    async with proxied(script) as proxy:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HTTP_PROXY", proxy.url)
            async with open_s3(options("http://store.example")) as store:
                with pytest.raises(errors.NotFound):
                    await store.get("k")
