"""TLS: which certificates are trusted, what a refusal says, and what a connection costs."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from coalesce import errors
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from coalesce.storage.s3.connection import Connection
from coalesce.storage.s3.origin import Origin
from coalesce.storage.s3.pool import Pool
from coalesce.storage.s3.tls import start_tls
from support.scripted import Peer, Request, Server, answer, serving, store_of
from support.tls import certified, local_names, tls_buffer

BODY = b"0123456789" * 20_000


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificates but the test's."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def reply(request: Request) -> bytes:
    return answer(BODY, etag='"e"')


@asynccontextmanager
async def secured(
    context: ssl.SSLContext, **options: object
) -> AsyncIterator[tuple[S3Store, Server]]:
    chosen: dict[str, object] = {
        "region": "us-east-1",
        "addressing": "path",
        "access_key": "AK",
        "secret_key": "SK",
    } | options
    async with serving(store_of(reply), tls=context) as server:
        host, scheme = chosen.pop("host", "localhost"), chosen.pop("scheme", "https")
        async with open_s3(
            S3Options("bucket", endpoint_url=f"{scheme}://{host}:{server.port}", **chosen)
        ) as store:
            yield store, server


async def test_the_authority_in_ca_bundle_is_trusted(authority: trustme.CA, bundle: str) -> None:
    async with secured(certified(authority, "localhost"), ca_bundle=bundle) as (store, server):
        await store.check_access("")
        assert (await store.get("k", etag='"e"')).data == BODY
        part = await store.upload_part("k", "u", 1, [BODY] * 10, checksum=Checksum.NONE, value="")
        assert (part.size, server.requests[-1].body) == (len(BODY) * 10, BODY * 10)


async def test_a_scheme_in_capitals_is_the_same_scheme(authority: trustme.CA, bundle: str) -> None:
    async with secured(certified(authority, "localhost"), ca_bundle=bundle, scheme="HTTPS") as (
        store,
        _,
    ):
        await store.check_access("")
        assert (await store.get("k")).data == BODY


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
async def test_both_clients_trust_an_authority_from_the_environment(
    authority: trustme.CA, bundle: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, bundle)
    async with secured(certified(authority, "localhost")) as (store, _):
        await store.check_access("")
        assert (await store.get("k")).data == BODY


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_of_another_name_or_authority_is_refused(
    authority: trustme.CA, bundle: str, trusted: bool
) -> None:
    """By the general client, and by our own connections on their own."""
    context = certified(
        authority if trusted else trustme.CA(), "elsewhere.example" if trusted else "localhost"
    )
    async with secured(context, ca_bundle=bundle) as (store, server):
        with pytest.raises(errors.ConfigurationError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await store.check_access("")
        assert "--ca-bundle" in caught.value.hint
        store._wire.locate(
            f"https://localhost:{server.port}/bucket",
            "us-east-1",
            tls=store._client.tls,
            proxy="",
        )
        with pytest.raises(errors.ConfigurationError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await store.get("k")
        assert "--ca-bundle" in caught.value.hint
        assert server.requests == []


async def test_an_unknown_authority_is_not_trusted_by_default(authority: trustme.CA) -> None:
    async with secured(certified(authority, "localhost")) as (store, server):
        with pytest.raises(errors.ConfigurationError, match="CERTIFICATE_VERIFY_FAILED"):
            await store.check_access("")
        with pytest.raises(errors.ConfigurationError, match="CERTIFICATE_VERIFY_FAILED"):
            await store.get("k")
        assert server.requests == []


async def test_any_certificate_is_accepted_with_no_verify_ssl() -> None:
    async with secured(certified(trustme.CA(), "elsewhere.example"), verify_ssl=False) as (
        store,
        _,
    ):
        await store.check_access("")
        assert (await store.get("k")).data == BODY


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("contents", [None, "no certificate"])
async def test_a_ca_bundle_that_cannot_be_read_is_reported(
    contents: str | None, scheme: str, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if contents is not None:
        path.write_text(contents)
    with pytest.raises(errors.ConfigurationError, match="cannot read the certificates") as caught:
        async with open_s3(
            S3Options(
                "bucket",
                endpoint_url=f"{scheme}://localhost:1",
                ca_bundle=str(path),
                access_key="AK",
                secret_key="SK",
            )
        ):
            pass
    assert "--ca-bundle" in caught.value.hint


async def test_plain_http_reads_no_certificates_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a file that cannot be read does no harm, and a long one costs no time."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nothing.pem"))
    async with (
        serving(store_of(reply)) as server,
        open_s3(
            S3Options("bucket", endpoint_url=server.url, access_key="AK", secret_key="SK")
        ) as store,
    ):
        await store.check_access("")
        assert (await store.get("k", etag='"e"')).data == BODY
        assert store._client.tls is None


async def test_virtual_host_addressing_checks_the_name_of_the_bucket(
    authority: trustme.CA, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SNI, Host and certificate are those of bucket.localhost; path and signature begin at the
    root.
    """
    asked: list[str | None] = []
    context = certified(authority, "bucket.localhost")
    context.sni_callback = lambda connection, name, _: asked.append(name)
    local_names(monkeypatch, "bucket.localhost")
    async with secured(context, ca_bundle=bundle, addressing="virtual") as (store, server):
        assert (await store.get("k")).data == BODY
        request = server.requests[-1]
        assert (request.target, request.headers["host"]) == (
            "/k",
            f"bucket.localhost:{server.port}",
        )
        assert set(asked) == {"bucket.localhost"}
    async with secured(
        certified(authority, "localhost"), ca_bundle=bundle, addressing="virtual"
    ) as (store, _):
        with pytest.raises(errors.ConfigurationError, match="CERTIFICATE_VERIFY_FAILED"):
            await store.check_access("")


async def test_connections_share_what_tls_reads_into(authority: trustme.CA, bundle: str) -> None:
    async with secured(certified(authority, "localhost"), ca_bundle=bundle) as (store, _):
        await store.check_access("")
        await asyncio.gather(*[store.get("k") for _ in range(5)])
        assert store._wire._pool is not None
        buffers = [tls_buffer(connection).obj for connection in store._wire._pool._all]
        assert len(buffers) == 5
        assert {id(buffer) for buffer in buffers} == {id(buffers[0])}


async def eager(peer: Peer) -> None:
    """Speaks before it is asked, as an SSH server does."""
    await peer.send(b"SSH-2.0-x\r\n")
    await peer.ended()


async def plain(peer: Peer) -> None:
    """Answers whatever comes in HTTP."""
    await peer.reader.readexactly(1)
    await peer.send(answer(b"no TLS here", "400 Bad Request"))


async def gone(peer: Peer) -> None:
    """Closes in the middle of the handshake."""
    await peer.reader.readexactly(1)
    peer.reset()


@pytest.mark.parametrize("script", [eager, plain, gone])
async def test_a_server_without_tls_is_given_up_at_once(
    script: Callable[[Peer], Awaitable[None]], bundle: str
) -> None:
    async with serving(script) as server:
        context = ssl.create_default_context(cafile=bundle)
        pool = Pool(Origin("localhost", server.port, context), limit=1, stall=60)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                await pool.request(b"GET / HTTP/1.1\r\n\r\n")
            assert not isinstance(caught.value, TimeoutError)
        pool.close()


async def test_a_request_that_is_cancelled_while_tls_begins_closes_its_connection(
    bundle: str,
) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(1)
        asked.set()
        await peer.ended()
        ended.set()

    async with serving(script) as server:
        context = ssl.create_default_context(cafile=bundle)
        pool = Pool(Origin("localhost", server.port, context), limit=1, stall=60)
        task = asyncio.create_task(pool.request(b"GET / HTTP/1.1\r\n\r\n"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 10)
        pool.close()


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_connection_that_closes_before_tls_is_up_is_none(when: str, bundle: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.ended()

    async with serving(script) as server:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, "localhost", server.port)
        if when == "before":
            transport.abort()
            await asyncio.sleep(0)
        context = ssl.create_default_context(cafile=bundle)
        buffer = memoryview(bytearray(1024))
        connection = Connection(buffer, loop)
        task = asyncio.create_task(start_tls(transport, connection, context, "localhost", buffer))
        await asyncio.sleep(0)
        transport.abort()
        with pytest.raises(ConnectionResetError, match=when):
            await asyncio.wait_for(task, 10)


async def test_the_command_reports_an_untrusted_certificate_in_one_line(
    authority: trustme.CA,
) -> None:
    async with serving(store_of(reply), tls=certified(authority, "localhost")) as server:
        done = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable,
                "-m",
                "coalesce",
                "run",
                "-b",
                "bucket",
                "-p",
                "data",
                "--endpoint-url",
                f"https://localhost:{server.port}",
                "--region",
                "us-east-1",
            ],
            env={
                "PATH": "",
                "AWS_ACCESS_KEY_ID": "AK",
                "AWS_SECRET_ACCESS_KEY": "SK",
                "AWS_EC2_METADATA_DISABLED": "true",
                "HOME": "/nonexistent",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 10, done.stderr
    assert (
        len([line for line in done.stderr.splitlines() if "CERTIFICATE_VERIFY_FAILED" in line]) == 1
    )
    assert "--ca-bundle" in done.stderr
    assert "Traceback" not in done.stderr
