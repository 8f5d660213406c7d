"""Requests over our own connections: the bucket located first, every request counted, retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from coalesce import errors
from coalesce.storage.s3.client import Client
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.failure import name_right
from coalesce.storage.s3.wire import ANSWER_BYTES, Wire

T = TypeVar("T")


class Sender:
    """Sends requests on the bucket of `client` over `wire`, each at most `attempts` times."""

    def __init__(self, client: Client, wire: Wire, attempts: int) -> None:
        self._client = client
        self._wire = wire
        self._attempts = attempts
        self._usage = client.usage
        self._locating = asyncio.Lock()

    async def locate(self, prefix: str) -> None:
        """Learns from the general client where the bucket is, by listing one key under a prefix.

        Raises what the answer to the request means; any answer shows the place all the same.
        """
        try:
            await self._client.call("ListObjectsV2", prefix, Prefix=prefix, MaxKeys=1)
        finally:
            if self._client.bucket_url:
                self._wire.locate(
                    self._client.bucket_url,
                    self._client.region,
                    tls=self._client.tls,
                    proxy=self._client.proxy,
                )

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
        """One request, as `Wire.send` takes it; not retried. AccessDenied names the right."""
        if not self._wire.has_origin:
            async with self._locating:
                if not self._wire.has_origin:
                    with suppress(errors.StorageError):
                        await self.locate(key or where)
        self._usage.requests[operation] += 1
        try:
            with self._usage.measure(operation):
                return await self._wire.send(
                    operation,
                    method,
                    key,
                    query=query,
                    headers=headers,
                    body=body,
                    where=where,
                    limit=limit,
                    repeatable=repeatable,
                )
        except errors.AccessDenied as error:
            name_right(error, self._client.bucket, self._client.region)
            raise

    async def retry(self, send: Callable[[], Awaitable[T]]) -> T:
        """What `send` returns, tried again while it raises Unavailable.

        An error that another try came before is marked as `repeated`.
        What would be unsafe to repeat without another look at the store must not come here. The
        pauses have full jitter, as in botocore's standard mode.
        """
        attempt = 1
        while True:
            try:
                return await send()
            except errors.StorageError as error:
                error.repeated = attempt > 1
                self._usage.throttled += isinstance(error, errors.Throttled)
                if attempt == self._attempts or not isinstance(error, errors.Unavailable):
                    raise
            self._usage.retries += 1
            await asyncio.sleep(random.uniform(0, min(20, 0.2 * 2**attempt)))
            attempt += 1
