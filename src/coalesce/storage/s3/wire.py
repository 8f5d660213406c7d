"""Requests over our own connections, without the general client's work for each of them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from coalesce import errors
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.failure import connection_failure, failure_of, subject
from coalesce.storage.s3.origin import Origin
from coalesce.storage.s3.pool import Pool
from coalesce.storage.s3.signing import (
    EMPTY_SHA256,
    UNSIGNED,
    Keys,
    Signer,
    encode_path,
    encode_query,
)
from coalesce.storage.s3.xml import parse_error

# The longest answers besides objects are pages of a listing: about 4 MB for 1,000 keys of the
# greatest length (1,024 bytes) in URL encoding.
ANSWER_BYTES = 32 * 1024**2

# While one of these lasts, which may be minutes, S3 sends a space now and then (S3 API reference,
# "CompleteMultipartUpload").
_LONG = frozenset({"CompleteMultipartUpload", "UploadPartCopy"})


class Wire:
    """Connections to one bucket.

    `keys` gives the current credentials, None for anonymous requests; `stall` is in seconds;
    `common` are headers of every request.
    """

    def __init__(
        self,
        keys: Callable[[], Awaitable[Keys | None]],
        *,
        connections: int,
        stall: float,
        common: Mapping[str, str],
    ) -> None:
        self._keys = keys
        self._connections = connections
        self._stall = stall
        self._common = dict(common)
        self._origin: Origin | None = None
        self._pool: Pool | None = None
        self._path = "/"
        self._proxy_line = ""
        self._signer = Signer("us-east-1")

    @property
    def has_origin(self) -> bool:
        """Whether `locate` has been called."""
        return self._pool is not None

    def locate(self, url: str, region: str, *, tls: ssl.SSLContext | None, proxy: str) -> None:
        """Sets where all later requests go: `url` is that of a request on the bucket itself."""
        origin, parts = Origin.of(url, tls=tls, proxy=proxy), urlsplit(url)
        self._path = f"{parts.path.rstrip('/')}/"
        self._signer = Signer(region)
        self._common["host"] = parts.netloc
        if origin != self._origin:
            if self._pool is not None:
                self._pool.close()
            self._origin = origin
            self._pool = Pool(origin, limit=self._connections, stall=self._stall)
            self._proxy_line = origin.proxy_authorization if tls is None else ""

    async def send(
        self,
        operation: str,
        method: str,
        key: str | None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Sequence[bytes] = (),
        where: str = "",
        limit: int | None = ANSWER_BYTES,
        repeatable: bool = True,
    ) -> Answer:
        """One request on an object, or on the bucket where `key` is None.

        `where` names the prefix or key that a request on the bucket concerns, for messages; `limit`
        is the most bytes that the body of the answer may have, None for any number; what is not
        `repeatable` is sent on one connection only. Raises what the answer means, Unanswered where
        there is none, BadRequest for what HTTP cannot carry.
        """
        where = key or where
        if self._pool is None:
            raise errors.Unavailable(
                f"{subject(operation, where)}: the store has not been reached yet",
                key=where,
                operation=operation,
            )
        keys = await self._keys()
        try:
            head = self._sign(method, self._pool, key, query or {}, headers or {}, body, keys)
            answer = await self._pool.request(
                head,
                body,
                bodiless=method == "HEAD",
                limit=limit,
                repeatable=repeatable,
                may_trickle=operation in _LONG,
            )
        except (TimeoutError, OSError) as error:
            raise connection_failure(operation, where, error, str(self._origin)) from error
        except ValueError as error:
            raise errors.BadRequest(
                f"{subject(operation, where)}: cannot be sent: {error}",
                key=where,
                operation=operation,
            ) from error
        if answer.status >= 300:
            raise _refusal(operation, method, where, answer)
        return answer

    def _sign(
        self,
        method: str,
        pool: Pool,
        key: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Sequence[bytes],
        keys: Keys | None,
    ) -> bytes:
        """The signed head of a request."""
        path = self._path.rstrip("/") or "/" if key is None else f"{self._path}{encode_path(key)}"
        canonical = encode_query(query) if query else ""
        fields = {**self._common, **headers}
        if keys is not None:
            payload = UNSIGNED if body else EMPTY_SHA256
            self._signer.sign(method, path, canonical, fields, keys, time.time(), payload)
        if body or method in ("PUT", "POST"):
            fields["content-length"] = str(sum(map(len, body)))
        target = pool.target(f"{path}?{canonical}" if canonical else path)
        return _encode_head(f"{method} {target} HTTP/1.1", fields, self._proxy_line)

    async def close(self) -> None:
        """Closes all connections."""
        if self._pool is not None:
            self._pool.close()
            await asyncio.sleep(0)  # transports tell of their end in the loop's next turn


def _encode_head(line: str, headers: Mapping[str, str], more: str) -> bytes:
    """The head of a request; `more` are header lines that are whole already.

    Raises ValueError for a value that HTTP cannot carry: an ETag that a store made up must not
    become a header of its own.
    """
    lines = [line, *[f"{name}: {value}" for name, value in headers.items()]]
    head = "\r\n".join(lines)
    if not head.count("\n") == head.count("\r") == len(headers) or "\0" in head:
        raise ValueError("a header has a line break or a NUL byte")
    return f"{head}\r\n{more}\r\n".encode("latin-1")


def _refusal(operation: str, method: str, where: str, answer: Answer) -> errors.CoalesceError:
    error = parse_error(answer.data)
    # The answer to a HEAD has no body to say it in: `S3Store.head` knows whom to believe.
    implied = "NoSuchKey" if method == "HEAD" and answer.status == 404 else ""
    return failure_of(
        operation,
        where,
        status=answer.status,
        code=error.code or implied,
        message=error.message,
        request_id=error.request_id or answer.headers.get("x-amz-request-id", ""),
    )
