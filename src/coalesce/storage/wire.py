"""Signed requests to one bucket without the general client's work for each of them.

Where requests go, and for which region they are signed, is taken over from a request of the general client, which knows about addressing, partitions
and redirects.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from xml.sax.saxutils import unescape

from coalesce import errors
from coalesce.storage.connection import Answer
from coalesce.storage.failure import failure_of
from coalesce.storage.pool import Origin, Pool, proxy_authorization
from coalesce.storage.signing import EMPTY_SHA256, UNSIGNED, Keys, Signer, encoded, encoded_path

_ELEMENT = re.compile(r"<(Code|Message|RequestId)>([^<]*)</")
_PORTS = {"http": 80, "https": 443}


class Wire:
    """Connections to one bucket. `keys` gives the credentials of the moment, None for anonymous requests; `stall` is in seconds."""

    def __init__(
        self, *, connections: int, stall: float, tls: Callable[[], ssl.SSLContext], common: Mapping[str, str], keys: Callable[[], Awaitable[Keys | None]]
    ) -> None:
        self._connections = connections
        self._stall = stall
        self._tls = tls
        self._common = dict(common)
        self._keys = keys
        self._pool: Pool | None = None
        self._host = ""
        self._path = "/"
        self._proxy_line = ""
        self._signer = Signer("us-east-1")

    @property
    def located(self) -> bool:
        """Whether it is known where the bucket is."""
        return self._pool is not None

    def locate(self, url: str, authorization: str) -> None:
        """Takes over where the general client sent a request on the bucket itself, and the region that it signed for."""
        parts = urlsplit(url)
        self._host = parts.netloc
        self._path = f"{parts.path.rstrip('/')}/"
        scope = authorization.partition("Credential=")[2].split("/")
        if len(scope) > 2:
            self._signer = Signer(scope[2])
        host = parts.hostname or ""
        proxy = "" if proxy_bypass(host) else getproxies().get(parts.scheme, "")
        origin = Origin(host, parts.port or _PORTS[parts.scheme], self._tls() if parts.scheme == "https" else None, proxy)
        self._proxy_line = proxy_authorization(urlsplit(proxy)) if origin.tls is None else ""
        if self._pool is not None:
            self._pool.close()
        self._pool = Pool(origin, limit=self._connections, stall=self._stall)

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
        """One request on an object, or on the bucket where `key` is None: `where` then says what it is about.

        Raises what the answer means; Unavailable for whatever breaks on the way.
        """
        if self._pool is None:
            raise errors.Unavailable(f"{operation} {key or where!r}: it is not known where the bucket is", key=key or where, operation=operation)
        where = key or where
        path = self._path.rstrip("/") or "/" if key is None else f"{self._path}{encoded_path(key)}"
        canonical = "&".join(sorted(f"{encoded(name)}={encoded(value)}" for name, value in query.items())) if query else ""
        wanted = {"host": self._host, **self._common, **(headers or {})}
        keys = await self._keys()
        if keys is not None:
            self._signer.sign(method, path, canonical, wanted, keys, time.time(), UNSIGNED if body else EMPTY_SHA256)
        if body:
            wanted["content-length"] = str(sum(map(len, body)))
        target = self._pool.target(f"{path}?{canonical}" if canonical else path)
        head = _head(f"{method} {target} HTTP/1.1", wanted, self._proxy_line)
        try:
            answer = await self._pool.request(head, body, bodiless=method == "HEAD")
        except (TimeoutError, OSError) as error:
            raise errors.Unavailable(f"{operation} {where!r}: {type(error).__name__}: {error}", key=where, operation=operation) from error
        if answer.status >= 300:
            raise _refusal(operation, where, answer)
        return answer

    async def close(self) -> None:
        """Closes all connections."""
        if self._pool is not None:
            self._pool.close()
            await asyncio.sleep(0)  # transports tell of their end in the loop's next turn


def _head(line: str, headers: Mapping[str, str], more: str) -> bytes:
    lines = [line, *[f"{name}: {value}" for name, value in headers.items()]]
    head = "\r\n".join(lines)
    if head.count("\n") != len(headers):
        raise ValueError("a header's value has more than one line")  # an ETag that a store made up must not become a header of its own
    return f"{head}\r\n{more}\r\n".encode("latin-1")


def _refusal(operation: str, where: str, answer: Answer) -> errors.CoalesceError:
    said = {name: unescape(text) for name, text in _ELEMENT.findall(answer.data.decode(errors="replace"))}
    request_id = said.get("RequestId", "") or answer.headers.get("x-amz-request-id", "")
    return failure_of(operation, where, status=answer.status, code=said.get("Code", ""), said=said.get("Message", ""), request_id=request_id)
