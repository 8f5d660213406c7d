"""Signed requests to one bucket without the general client's work for each of them."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

from coalesce import errors
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.failure import CERTIFICATE_HINT, failure_of
from coalesce.storage.s3.pool import Origin, Pool, proxy_authorization
from coalesce.storage.s3.signing import (
    EMPTY_SHA256,
    UNSIGNED,
    Keys,
    Signer,
    encoded_path,
    encoded_query,
)

_ELEMENT = re.compile(r"<(Code|Message|RequestId)>([^<]*)</")
_PORTS = {"http": 80, "https": 443}


class Wire:
    """Connections to one bucket.

    `keys` gives the credentials of the moment, None for anonymous requests; `stall` is in seconds.
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
    def located(self) -> bool:
        """Whether it is known where the bucket is."""
        return self._pool is not None

    def locate(self, url: str, region: str, *, tls: ssl.SSLContext | None, proxy: str) -> None:
        """Sends everything from now on to where `url`, that of a request on the bucket itself,
        points.
        """
        parts = urlsplit(url)
        origin = Origin(parts.hostname or "", parts.port or _PORTS[parts.scheme], tls, proxy)
        self._path = f"{parts.path.rstrip('/')}/"
        self._signer = Signer(region)
        self._common["host"] = parts.netloc
        if origin != self._origin:
            if self._pool is not None:
                self._pool.close()
            self._origin, self._pool = (
                origin,
                Pool(origin, limit=self._connections, stall=self._stall),
            )
            self._proxy_line = proxy_authorization(urlsplit(proxy)) if tls is None else ""

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
    ) -> Answer:
        """One request on an object, or on the bucket where `key` is None: `where` then says what it
        is about.

        Raises what the answer means; Unavailable for whatever breaks on the way.
        """
        where = key or where
        if self._pool is None:
            raise errors.Unavailable(
                f"{operation} {where!r}: it is not known where the bucket is",
                key=where,
                operation=operation,
            )
        path = self._path.rstrip("/") or "/" if key is None else f"{self._path}{encoded_path(key)}"
        canonical = encoded_query(query) if query else ""
        wanted = {**self._common, **(headers or {})}
        keys = await self._keys()
        if keys is not None:
            self._signer.sign(
                method,
                path,
                canonical,
                wanted,
                keys,
                time.time(),
                UNSIGNED if body else EMPTY_SHA256,
            )
        if body or method == "PUT":
            wanted["content-length"] = str(sum(map(len, body)))
        target = self._pool.target(f"{path}?{canonical}" if canonical else path)
        try:
            head = _head(f"{method} {target} HTTP/1.1", wanted, self._proxy_line)
            answer = await self._pool.request(head, body, bodiless=method == "HEAD")
        except ssl.SSLCertVerificationError as error:
            raise errors.ConfigurationError(
                f"{operation} {where!r}: {error}",
                key=where,
                operation=operation,
                hint=CERTIFICATE_HINT,
            ) from error
        except (TimeoutError, OSError) as error:
            raise errors.Unavailable(
                f"{operation} {where!r}: {type(error).__name__}: {error}",
                key=where,
                operation=operation,
            ) from error
        except ValueError as error:
            raise errors.BadRequest(
                f"{operation} {where!r} cannot be sent: {error}", key=where, operation=operation
            ) from error
        if answer.status >= 300:
            raise _refusal(operation, where, answer)
        return answer

    async def close(self) -> None:
        """Closes all connections."""
        if self._pool is not None:
            self._pool.close()
            await asyncio.sleep(0)  # transports tell of their end in the loop's next turn


def _head(line: str, headers: Mapping[str, str], more: str) -> bytes:
    """The head of a request.

    Raises ValueError for a value that HTTP cannot carry: an ETag that a store made up must not
    become a header of its own.
    """
    lines = [line, *[f"{name}: {value}" for name, value in headers.items()]]
    head = "\r\n".join(lines)
    if not head.count("\n") == head.count("\r") == len(headers) or "\0" in head:
        raise ValueError("a header's value has more than one line")
    return f"{head}\r\n{more}\r\n".encode("latin-1")


def _refusal(operation: str, where: str, answer: Answer) -> errors.CoalesceError:
    said = {
        name: unescape(text)
        for name, text in _ELEMENT.findall(answer.data.decode(errors="replace"))
    }
    request_id = said.get("RequestId", "") or answer.headers.get("x-amz-request-id", "")
    return failure_of(
        operation,
        where,
        status=answer.status,
        code=said.get("Code", ""),
        said=said.get("Message", ""),
        request_id=request_id,
    )
