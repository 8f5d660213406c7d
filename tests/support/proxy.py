"""An HTTP proxy in front of a real S3 server that does to each request what a test asks for.

It knows requests by their S3 operations, and signs again what it changes, so a server that checks
signatures accepts it. Path-style addresses only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

import aiohttp
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from multidict import CIMultiDict
from yarl import URL

_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets; `length` is the announced one, which may be wrong."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    length: int = -1  # -1: that of the body


@dataclass(slots=True)
class Call:
    """One request in flight: the `number`th of all, from 1; `key` is the prefix of a listing.

    All of it may be changed before `forward`.
    """

    number: int
    operation: str
    key: str
    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes
    forward: Callable[[], Awaitable[Answer]]


# What becomes of a request: its answer, or None for a connection that ends without one.
Handler = Callable[[Call], Awaitable[Answer | None]]


@dataclass(slots=True)
class Rule:
    """What is done to requests of an operation whose key holds `where`: the first `times` of them
    (-1: all) once `skip` of them have passed.

    It does not apply to the probe's requests, unless `where` says so.
    """

    operation: str
    handler: Handler
    where: str = ""
    times: int = 1
    skip: int = 0

    def applies(self, call: Call) -> bool:
        """Whether the rule applies to this request; counts it."""
        probing = "/probe/" in call.key and "/probe/" not in self.where
        if call.operation != self.operation or self.where not in call.key or probing:
            return False
        if self.skip or not self.times:
            self.skip -= bool(self.skip)
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class Proxy:
    """`url` is what clients connect to.

    `calls` are all requests so far; the first of `rules` that applies is followed; `always` sees
    every request.
    """

    url: str = ""
    rules: list[Rule] = field(default_factory=list)
    always: list[Callable[[Call], None]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def sent(self, operation: str, where: str = "") -> int:
        """How many requests of an operation came, without those of the probe."""
        return sum(
            call.operation == operation and where in call.key and "/probe/" not in call.key
            for call in self.calls
        )

    async def handle(self, call: Call) -> Answer | None:
        """What becomes of one request."""
        self.calls.append(call)
        for change in self.always:
            change(call)
        rule = next((rule for rule in self.rules if rule.applies(call)), None)
        return await (rule.handler(call) if rule else call.forward())


@asynccontextmanager
async def proxy(server: str, access_key: str, secret_key: str) -> AsyncIterator[Proxy]:
    """A proxy on a free loopback port, in front of the `server` at this URL with these keys."""
    found = Proxy()
    credentials = Credentials(access_key, secret_key)
    failures: list[Exception] = []
    added = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
    async with aiohttp.ClientSession(
        auto_decompress=False, skip_auto_headers=added, connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            if "Expect" in request.headers and request.transport is not None:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            call = _call(request, await request.read(), len(found.calls) + 1)
            before = (call.target, call.headers.copy(), call.body)

            async def forward() -> Answer:
                headers = (
                    call.headers
                    if (call.target, call.headers, call.body) == before
                    else _signed(call, server, credentials)
                )
                async with session.request(
                    call.method,
                    URL(f"{server}{call.target}", encoded=True),
                    headers=headers,
                    data=call.body,
                ) as answer:
                    return Answer(answer.status, CIMultiDict(answer.headers), await answer.read())

            call.forward = forward
            try:
                return await _reply(request, await found.handle(call))
            except aiohttp.ClientError:
                return await _reply(request, None)  # the server's own fault
            except Exception as failure:
                failures.append(failure)
                raise

        runner = web.ServerRunner(web.Server(respond), shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            found.url = f"http://{host}:{port}"
            yield found
        finally:
            await runner.cleanup()
    if failures:
        raise ExceptionGroup("the proxy itself failed", failures)


async def _never() -> Answer:
    raise NotImplementedError


def _call(request: web.BaseRequest, body: bytes, number: int) -> Call:
    path, _, query = request.raw_path.partition("?")
    _, _, key = unquote(path).removeprefix("/").partition("/")
    key = key or parse_qs(query).get("prefix", [""])[0]
    headers = CIMultiDict(
        (name, value)
        for name, value in request.headers.items()
        if name.title() not in (*_HOP_BY_HOP, "Expect")
    )
    operation = operation_of(
        request.method, path.rstrip("/").count("/") > 1, query, "x-amz-copy-source" in headers
    )
    return Call(number, operation, key, request.method, request.raw_path, headers, body, _never)


def operation_of(method: str, keyed: bool, query: str, copies: bool) -> str:
    """The S3 operation of a request, on a key or on the bucket."""
    names = set(parse_qs(query, keep_blank_values=True))
    match method, keyed:
        case "GET", False:
            return "ListMultipartUploads" if "uploads" in names else "ListObjectsV2"
        case "PUT", False:
            return "CreateBucket"
        case "POST", False:
            return "DeleteObjects"
        case "PUT", True:
            return (
                ("UploadPartCopy" if copies else "UploadPart")
                if "partNumber" in names
                else "PutObject"
            )
        case "POST", True:
            return "CreateMultipartUpload" if "uploads" in names else "CompleteMultipartUpload"
        case "DELETE", True:
            return "AbortMultipartUpload" if "uploadId" in names else "DeleteObject"
    return {"GET": "GetObject", "HEAD": "HeadObject"}.get(method, method)


def _signed(call: Call, server: str, credentials: Credentials) -> CIMultiDict[str]:
    own = (
        "authorization",
        "x-amz-date",
        "x-amz-content-sha256",
        "host",
        "content-length",
        "content-md5",
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "user-agent",
    )
    kept = {name: value for name, value in call.headers.items() if name.lower() not in own}
    request = AWSRequest(call.method, f"{server}{call.target}", headers=kept, data=call.body)
    S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    return CIMultiDict(request.headers.items())


async def _reply(request: web.BaseRequest, answer: Answer | None) -> web.StreamResponse:
    """Sends an answer; None, or one with a wrong length, ends the connection."""
    if answer is None or request.transport is None:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    headers = CIMultiDict(
        (name, value) for name, value in answer.headers.items() if name.title() not in _HOP_BY_HOP
    )
    if answer.length < 0:
        if request.method != "HEAD":
            headers["Content-Length"] = str(len(answer.body))
        return web.Response(
            status=answer.status,
            headers=headers,
            body=None if request.method == "HEAD" else answer.body,
        )
    headers["Content-Length"], headers["Connection"] = str(answer.length), "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request.transport.write(
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{head}\r\n".encode()
        + answer.body
    )
    request.transport.close()
    return web.Response()


def refusal(status: int, code: str) -> Handler:
    """An error instead of the server's answer: the request never gets there."""

    async def handle(call: Call) -> Answer:
        return error(status, code)

    return handle


def error(status: int, code: str) -> Answer:
    """An error as S3 sends it, also under a 200, as Complete and UploadPartCopy may."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>made up</Message><RequestId>1</RequestId></Error>"
    )
    return Answer(status, CIMultiDict({"Content-Type": "application/xml"}), body.encode())


async def lost_before(call: Call) -> Answer | None:
    """The connection breaks before the server has seen the request."""
    return None


async def lost_after(call: Call) -> Answer | None:
    """The server has done it, and its answer is lost."""
    await call.forward()
    return None


def error_after(status: int, code: str) -> Handler:
    """The server has done it, and the client gets an error."""

    async def handle(call: Call) -> Answer:
        await call.forward()
        return error(status, code)

    return handle


async def stall(call: Call) -> Answer | None:
    """Never an answer; the connection stays open."""
    await asyncio.Event().wait()
    return None


async def cut(call: Call) -> Answer:
    """Half of the body, then the connection breaks."""
    answer = await call.forward()
    return replace(answer, body=answer.body[: len(answer.body) // 2], length=len(answer.body))


async def shortened(call: Call) -> Answer:
    """A body that is shorter than the object, with a matching length."""
    answer = await call.forward()
    return replace(answer, body=answer.body[:-3])


async def understated(call: Call) -> Answer:
    """The whole body, with a length that is too small."""
    answer = await call.forward()
    return replace(answer, length=len(answer.body) - 3)


async def flipped_answer(call: Call) -> Answer:
    """One bit of the answer's body is flipped."""
    answer = await call.forward()
    return replace(answer, body=_flip(answer.body))


async def flipped_request(call: Call) -> Answer:
    """One bit of the request's body is flipped; its headers are not changed."""
    call.body = _flip(call.body)
    return await call.forward()


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def without(operation: str, *headers: str) -> Callable[[Call], None]:
    """Removes headers from all requests of an operation: the server never sees the condition.

    A name that ends with `*` stands for all names that begin so.
    """

    def change(call: Call) -> None:
        if call.operation == operation:
            for name in list(call.headers):
                if any(
                    name.lower() == header
                    or (header.endswith("*") and name.lower().startswith(header[:-1]))
                    for header in headers
                ):
                    call.headers.popall(name, None)

    return change


def without_etags(call: Call) -> None:
    """Removes the ETags from a DeleteObjects: the server deletes whatever is there."""
    if call.operation == "DeleteObjects":
        call.body = re.sub(rb"<ETag>.*?</ETag>", b"", call.body)
