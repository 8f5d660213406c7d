"""`coalesce` with aiohttp in the place of its own connections, for comparison: the same requests,
signed by the same signer, in the whole job.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

from coalesce.cli.app import main
from coalesce.storage.s3 import wire
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.origin import Origin

Head = tuple[str, Mapping[str, str]]


def _head(line: str, headers: Mapping[str, str], more: str) -> Head:
    return line, headers


class AiohttpPool:
    """As `storage.s3.pool.Pool`, without proxies; aiohttp decides itself what it sends again."""

    def __init__(self, origin: Origin, *, limit: int, stall: float) -> None:
        self._base = f"{'https' if origin.tls else 'http'}://{origin.authority}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=origin.tls or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=stall),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
        )

    async def request(
        self,
        head: Head,
        body: Sequence[bytes] = (),
        *,
        bodiless: bool = False,
        limit: int | None = None,
        repeatable: bool = True,
        may_trickle: bool = False,
    ) -> Answer:
        """One request, one answer."""
        line, headers = head
        method, target, _ = line.split(" ")
        async with self._session.request(
            method,
            URL(f"{self._base}{target}", encoded=True),
            headers=headers,
            data=b"".join(body) or None,
            allow_redirects=False,
        ) as answer:
            data = await answer.read()
            overlong = answer.status < 300 and limit is not None and len(data) > limit
            return Answer(
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
                b"" if overlong else data,
                overlong,
            )

    def target(self, path: str) -> str:
        """As it is."""
        return path

    def close(self) -> None:
        """Closes all connections."""
        self._closing = asyncio.ensure_future(self._session.close())


if __name__ == "__main__":
    wire._encode_head = _head  # type: ignore[assignment]
    wire.Pool = AiohttpPool  # type: ignore[assignment,misc]
    sys.argv[0] = "coalesce"
    main()
