"""The hot path: GET and DELETE of single objects, without the general client's work for each request.

Measured on loopback with 100 KB objects: see `docs/performance.md`. Where requests go, and for which region they are signed, is taken over from
the requests of the general client, which knows about addressing, partitions and redirects.
"""

from __future__ import annotations

import datetime as dt
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from xml.sax.saxutils import unescape

import aiohttp
from yarl import URL

from coalesce import errors
from coalesce.storage.failure import failure_of
from coalesce.storage.signing import Keys, Signer, encoded_path

_ELEMENT = re.compile(r"<(Code|Message|RequestId)>([^<]*)</")


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Wire:
    """Connections to one bucket. `keys` gives the credentials of the moment, None for anonymous requests.

    An answer of which nothing comes for `read_timeout` seconds is given up.
    """

    def __init__(
        self, *, connections: int, read_timeout: float, verify: bool | str, common: Mapping[str, str], keys: Callable[[], Awaitable[Keys | None]]
    ) -> None:
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=read_timeout)
        self._verify = verify
        self._common = dict(common)
        self._keys = keys
        self._session: aiohttp.ClientSession | None = None
        self._base = ""
        self._host = ""
        self._path = "/"
        self._signer = Signer("us-east-1")

    @property
    def located(self) -> bool:
        """Whether it is known where the bucket is."""
        return bool(self._base)

    def locate(self, url: str, authorization: str) -> None:
        """Takes over where the general client sent a request on the bucket itself, and the region that it signed for."""
        parts = urlsplit(url)
        self._host = parts.netloc
        self._path = f"{parts.path.rstrip('/')}/"
        self._base = f"{parts.scheme}://{parts.netloc}"
        scope = authorization.partition("Credential=")[2].split("/")
        if len(scope) > 2 and scope[2] != self._signer.region:
            self._signer = Signer(scope[2])

    async def send(self, operation: str, method: str, key: str, headers: Mapping[str, str]) -> Answer:
        """One request, one answer. Raises what the answer means; Unavailable for whatever breaks on the way, a body cut short included."""
        path = f"{self._path}{encoded_path(key)}"
        keys = await self._keys()
        wanted = {**self._common, **headers}
        if keys is not None:
            wanted = self._signer.headers(method, self._host, path, "", wanted, keys, dt.datetime.now(dt.UTC))
        try:
            async with self._open().request(method, URL(f"{self._base}{path}", encoded=True), headers=wanted, allow_redirects=False) as response:
                data = await response.read()
                found = {name.lower(): value for name, value in response.headers.items()}
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise errors.Unavailable(f"{operation} {key!r}: {type(error).__name__}: {error}", key=key, operation=operation) from error
        if response.status >= 300:
            said = {name: unescape(text) for name, text in _ELEMENT.findall(data.decode(errors="replace"))}
            code, request_id = said.get("Code", ""), said.get("RequestId", "") or found.get("x-amz-request-id", "")
            raise failure_of(operation, key, status=response.status, code=code, said=said.get("Message", ""), request_id=request_id)
        return Answer(response.status, found, data)

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context: ssl.SSLContext | bool = False
            if self._verify is not False:
                context = ssl.create_default_context(cafile=self._verify if isinstance(self._verify, str) else None)
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=15, ssl=context)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                auto_decompress=False,
                trust_env=True,
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
            )
        return self._session
