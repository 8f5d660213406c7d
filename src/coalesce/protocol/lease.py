"""A run's right to its plan records: economy, not safety.

While it is renewed, other runs leave the run's groups alone.

A lease that stands after its end also says that its run did not end in order: it may have left
uploads that no record names.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from coalesce.errors import (
    AccessDenied,
    LeaseLost,
    NotFound,
    NotImplementedByStore,
    PreconditionFailed,
    StorageError,
    StoreRefused,
)
from coalesce.model import ObjectInfo
from coalesce.naming.shards import WHOLE, Shard
from coalesce.protocol.rights import missing_right
from coalesce.protocol.state import lease_key
from coalesce.protocol.writes import write_state
from coalesce.storage.base import ObjectStore, OpenUpload
from coalesce.storage.capabilities import CONDITIONAL_PUT, CREATE_ONLY_PUT

# The Date header and LastModified are whole seconds.
_PRECISION = 1.0

_LOOKS = 4

# Seconds that a lease can hold at most: so long may a dead run hold up another.
LONGEST = 86_400


class LeaseRecord(BaseModel):
    """What stands in the bucket.

    `seconds` is how long after its last write the lease holds; the store's clock says when that
    was.

    `owner` is the process, for people to read, and `token` what tells it from any other; `started`
    is when its run began, in seconds since the epoch by the store's clock, 0 where unknown.

    `layout`, `prefixes`, `shard` and `plan` (the hash of the plan that the shard is a share of, if
    any) are where its run works: who sweeps after it must look there. A run that only probes works
    nowhere but under the state prefix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    owner: str = ""
    token: str = ""
    started: float = 0.0
    seconds: Annotated[float, Field(ge=0, le=LONGEST)] = 60.0
    layout: str = ""
    prefixes: tuple[str, ...] = ()
    shard: str = str(WHOLE)
    plan: str = ""
    renewals: int = 0

    @field_validator("shard")
    @classmethod
    def _is_a_shard(cls, text: str) -> str:
        return str(Shard.parse(text))

    @property
    def share(self) -> Shard:
        """Whose groups its run works on."""
        return replace(Shard.parse(self.shard), plan=self.plan)


@dataclass(frozen=True, slots=True)
class Rival:
    """Another run's lease, as it was seen.

    Attributes:
        remaining: How many seconds it holds at least, if it is not renewed.
        modified: When it was last written, in seconds since the epoch by the store's clock.
        readable: One that is not counts as a lease of a minute, anywhere.
    """

    key: str
    etag: str
    record: LeaseRecord
    remaining: float
    modified: float
    readable: bool = True

    def can_have_begun(self, upload: OpenUpload) -> bool:
        """Whether an upload was begun while this lease held: a run begins none without it."""
        if not upload.initiated:
            return True
        ended = self.modified + self.record.seconds + _PRECISION
        return self.record.started - _PRECISION <= upload.initiated <= ended


class Claim(Protocol):
    """A run's lease as those see it who work under it."""

    def check(self) -> None:
        """Raises LeaseLost if the lease is no longer certain to hold.

        Asked before every Complete and every delete.
        """
        ...

    def mark_untidy(self) -> None:
        """This run may leave an upload that no record names: its lease will stay behind, ended, to
        say so.
        """
        ...


class Expiry(Protocol):
    """When a lease ends, by the clock of the run: where other processes of the run can see it
    too.
    """

    value: float


class Lease:
    """This run's lease, as the run that holds it sees it."""

    def __init__(
        self,
        store: ObjectStore,
        state: str,
        record: LeaseRecord,
        clock: Callable[[], float],
        expiry: Expiry | None = None,
    ) -> None:
        self._store = store
        self._key = lease_key(state, record.run_id)
        owner = f"{socket.gethostname()}:{os.getpid()}"
        self._record = record.model_copy(update={"owner": owner, "token": uuid.uuid4().hex})
        self._clock = clock
        self._etag = ""
        self._expiry = SimpleNamespace(value=0.0) if expiry is None else expiry
        self._untidy = False
        self._period = record.seconds / 4

    def check(self) -> None:
        """Raises LeaseLost if the lease is no longer certain to hold."""
        if self._clock() >= self._expiry.value:
            message = f"the lease {self._key!r} expired or was taken away"
            raise LeaseLost(message, key=self._key)

    def mark_untidy(self) -> None:
        """Keeps the lease, ended, for a run that sweeps."""
        self._untidy = True

    def mark_tidy(self) -> None:
        """Lets the lease go: the run has swept up after itself."""
        self._untidy = False

    @property
    def untidy(self) -> bool:
        """Whether the run may have left uploads or probe objects outside of any record."""
        return self._untidy

    @property
    def as_rival(self) -> Rival:
        """The lease as another run would see it, had this one ended."""
        return Rival(self._key, self._etag, self._record, remaining=0.0, modified=math.inf)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Lease]:
        """Holds the lease, and renews it until the block ends.

        Raises PreconditionFailed if another run has the same id, LeaseLost if it was taken away at
        once; StoreRefused if the store has no conditional writes, ConfigurationError if the right
        to write is missing; StorageError.
        """
        asked = self._clock()
        self._etag = await self._create()
        self._expiry.value = asked + self._record.seconds
        try:
            # A store that does not know the condition must say so before anything else is tried.
            # The same bytes again: to others that does not look like the sign of life of a renewal.
            failure = await self._try_to_renew()
            if isinstance(failure, NotImplementedByStore):
                raise self._refusal(CONDITIONAL_PUT) from failure
            self.check()  # lost already: then nothing is begun
            renewal = asyncio.create_task(self._keep_renewing())
            try:
                yield self
            finally:
                renewal.cancel()
                await asyncio.gather(renewal, return_exceptions=True)
        except StoreRefused:
            raise  # before anything was begun
        except BaseException:
            self._untidy = True
            raise
        finally:
            await self._give_up()

    async def _create(self) -> str:
        """The first request of a run that needs a condition: its refusal says what is missing."""
        try:
            return await write_state(self._store, self._key, self._body(), if_none_match=True)
        except NotImplementedByStore as error:
            raise self._refusal(CREATE_ONLY_PUT) from error
        except AccessDenied as error:
            raise missing_right(error) from error

    def _refusal(self, guarantee: str) -> StoreRefused:
        message = f"this store does not guarantee {guarantee}"
        return StoreRefused(message, key=self._key, hint="Use another store.")

    async def _keep_renewing(self) -> None:
        while self._expiry.value:
            await asyncio.sleep(self._period)
            renewals = self._record.renewals + 1
            self._record = self._record.model_copy(update={"renewals": renewals})
            await self._try_to_renew()

    async def _try_to_renew(self) -> Exception | None:
        """One renewal; returns why it failed, if it did. One that was taken away is lost."""
        asked = self._clock()
        try:
            # An answer that does not come must not outlast the lease: the next try may succeed.
            async with asyncio.timeout(self._period):
                await self._renew()
        except (PreconditionFailed, NotFound) as error:
            self._expiry.value = 0.0
            return error
        except (StorageError, TimeoutError) as error:
            return error
        self._expiry.value = asked + self._record.seconds
        return None

    async def _renew(self) -> None:
        """Raises PreconditionFailed or NotFound if the lease was taken away, StorageError."""
        try:
            self._etag = await self._store.put(self._key, self._body(), if_match=self._etag)
        except PreconditionFailed:
            if not await self._adopt():
                raise
            self._etag = await self._store.put(self._key, self._body(), if_match=self._etag)

    async def _adopt(self) -> bool:
        """Whether what stands there is an earlier renewal of our own whose answer was lost."""
        body = await self._store.get(self._key)
        try:
            found = LeaseRecord.model_validate_json(body.data)
        except ValidationError:
            return False
        ours = found.token == self._record.token
        if ours:
            self._etag = body.etag
        return ours

    async def _give_up(self) -> None:
        with suppress(StorageError):  # it ends by itself
            if self._untidy:
                self._record = self._record.model_copy(update={"seconds": 0.0})
                await self._store.put(self._key, self._body(), if_match=self._etag)
            else:
                await self._store.delete(self._key)  # the run id makes the key its own

    def _body(self) -> bytes:
        return self._record.model_dump_json().encode()


async def read_rival(store: ObjectStore, entry: ObjectInfo, date: float) -> Rival | None:
    """The lease that a listing of `date` (the store's clock) shows; None if it is gone."""
    try:
        body = await store.get(entry.key)
    except NotFound:
        return None
    run_id = entry.key.rpartition("/")[2]
    readable = True
    try:
        record = LeaseRecord.model_validate_json(body.data)
    except ValidationError:
        record, readable = LeaseRecord(run_id=run_id, prefixes=("",)), False
    # A lease renewed between the listing and the read only seems to end earlier than it does;
    # `outlived` looks again.
    remaining = entry.modified + record.seconds + _PRECISION - date if record.seconds else 0.0
    return Rival(
        key=entry.key,
        etag=body.etag,
        record=record.model_copy(update={"run_id": run_id}),
        remaining=remaining if body.etag == entry.etag else record.seconds,
        modified=entry.modified,
        readable=readable,
    )


async def outlived(store: ObjectStore, rival: Rival) -> bool:
    """Whether a lease ends without being renewed.

    One renewal shows that its run lives; its own length without one, that the run is dead.
    """
    for _ in range(_LOOKS):
        if rival.remaining <= 0:
            return True
        await asyncio.sleep(rival.remaining / _LOOKS)
        try:
            body = await store.get(rival.key)
        except NotFound:
            return True
        except StorageError:
            return False  # unknown, so not dead
        if body.etag != rival.etag:
            return False
    return True
