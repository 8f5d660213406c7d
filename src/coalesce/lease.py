"""A run's right to its plan records: economy, not safety. While it is renewed, other runs leave the run's groups alone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from pydantic import BaseModel, ConfigDict, ValidationError

from coalesce.errors import LeaseLost, NotFound, PreconditionFailed, StorageError
from coalesce.storage.base import ObjectStore


class LeaseRecord(BaseModel):
    """What stands in the bucket. `seconds` is how long after its last write the lease holds; the store's clock says when that was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    owner: str
    seconds: float
    renewals: int = 0


def lease_key(state: str, run_id: str) -> str:
    """Where a run's lease stands."""
    return f"{state}runs/{run_id}"


class Lease:
    """This run's lease. `check` is asked before every Complete and every delete."""

    def __init__(self, store: ObjectStore, state: str, run_id: str, seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._key = lease_key(state, run_id)
        self._record = LeaseRecord(run_id=run_id, owner=f"{socket.gethostname()}:{os.getpid()}", seconds=seconds)
        self._clock = clock
        self._etag = ""
        self._until = 0.0

    def check(self) -> None:
        """Raises LeaseLost if the lease is no longer certain to hold."""
        if self._clock() >= self._until:
            raise LeaseLost(f"the lease {self._key!r} expired or was taken away", key=self._key)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Lease]:
        """The lease, renewed until the block ends. Raises PreconditionFailed if another run has the same id."""
        asked = self._clock()
        self._etag = await self._store.put(self._key, self._body(), if_none_match=True)
        self._until = asked + self._record.seconds
        renewal = asyncio.create_task(self._renew())
        try:
            yield self
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            await self._give_up()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._record.seconds / 4)
            asked = self._clock()
            self._record = self._record.model_copy(update={"renewals": self._record.renewals + 1})
            try:
                self._etag = await self._store.put(self._key, self._body(), if_match=self._etag)
            except (PreconditionFailed, NotFound):
                self._until = 0.0
                return
            except StorageError:
                continue  # the next renewal may succeed before the lease ends
            self._until = asked + self._record.seconds

    async def _give_up(self) -> None:
        with suppress(StorageError):  # it ends by itself
            await self._store.delete(self._key, etag=self._etag)

    def _body(self) -> bytes:
        return self._record.model_dump_json().encode()


async def dead(store: ObjectStore, state: str, run_id: str, *, wait: bool) -> bool:
    """Whether no live lease of that run stands any more.

    A lease that is there is watched: one renewal shows that its run lives, its own length without one that the run is dead. Without `wait`, a lease that
    is there counts as alive.
    """
    key = lease_key(state, run_id)
    first = await _read(store, key)
    if first is None:
        return True
    if not wait:
        return False
    record, etag = first
    for _ in range(4):
        await asyncio.sleep(record.seconds / 4)
        now = await _read(store, key)
        if now is None:
            return True
        if now[1] != etag:
            return False
    return True


async def _read(store: ObjectStore, key: str) -> tuple[LeaseRecord, str] | None:
    try:
        body = await store.get(key)
    except NotFound:
        return None
    try:
        return LeaseRecord.model_validate_json(body.data), body.etag
    except ValidationError:
        return LeaseRecord(run_id="", owner="", seconds=60.0), body.etag
