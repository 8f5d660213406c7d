"""Which guarantees a store really keeps: tried under the state prefix, and judged by looking
afterwards, since a 200 proves nothing.

A probe shows that a guarantee is there, never that it is atomic. Only a refusal counts as a
condition kept, and only a plain success against a false condition as one ignored: silence, 5xx and
cut bodies are neither, and are tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coalesce.errors import (
    AccessDenied,
    NotImplementedByStore,
    StorageError,
    Unavailable,
)
from coalesce.protocol.lease import Claim
from coalesce.protocol.rights import missing_right
from coalesce.protocol.together import all_of
from coalesce.protocol.trial import Seen, Trial
from coalesce.storage.base import ObjectStore
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum

# How often a guarantee is tried that was not seen either to hold or to lack.
_TRIES = 4


async def probe(store: ObjectStore, prefix: str, lease: Claim) -> Capabilities:
    """Tries every guarantee with small objects under `prefix`, and removes them.

    An upload that may stay open marks the lease untidy. Raises ConfigurationError that names a
    missing right, Unavailable where a guarantee that a run needs can be neither seen nor ruled out,
    LeaseLost where others may have removed what was tried, StorageError.
    """
    prober = _Prober(store, prefix, lease)
    try:
        return await prober.run()
    except AccessDenied as error:
        raise missing_right(error) from error


@dataclass(slots=True)
class _Prober:
    store: ObjectStore
    prefix: str
    lease: Claim

    async def run(self) -> Capabilities:
        put, replace, get, complete, metadata, fence, one, many, copy, full = await all_of(
            [
                self._need("create-only PutObject", Trial.create_only_put),
                self._need("conditional PutObject", Trial.conditional_put),
                self._want(Trial.conditional_get),
                self._need("create-only Complete", Trial.create_only_complete),
                self._need("metadata of uploads", Trial.upload_metadata),
                self._need("the end of aborted uploads", Trial.fence),
                self._want(Trial.conditional_delete),
                self._want(Trial.conditional_delete_many),
                self._want(Trial.copy_condition),
                self._want(Trial.full_object_checksum),
            ]
        )
        if not (one or many):
            one = await self._need("conditional deletes", Trial.conditional_delete)
        if not (one or many):
            many = await self._need("conditional deletes", Trial.conditional_delete_many)
        checksum = Checksum.CRC64NVME
        if not full:
            composite = await self._want(Trial.composite_checksum)
            checksum = Checksum.CRC32 if composite else Checksum.NONE
        return Capabilities(
            create_only_put=put,
            conditional_put=replace,
            conditional_get=get,
            create_only_complete=complete,
            fence=fence,
            conditional_delete=one,
            conditional_delete_many=many,
            copy_condition=copy,
            upload_metadata=metadata,
            checksum=checksum,
        )

    async def _want(self, trial: Callable[[Trial], Awaitable[Seen]]) -> bool:
        """Whether a guarantee holds; one of which nothing can be known is done without."""
        try:
            return await self._try(trial)
        except Unavailable:
            return False

    async def _need(self, name: str, trial: Callable[[Trial], Awaitable[Seen]]) -> bool:
        """Whether a guarantee holds that a run cannot do without."""
        try:
            return await self._try(trial)
        except Unavailable as error:
            message = f"whether the store keeps {name} cannot be told: {error.message}"
            raise Unavailable(message, key=error.key, request_id=error.request_id) from error

    async def _try(self, trial: Callable[[Trial], Awaitable[Seen]]) -> bool:
        """Tries with fresh keys until something is certain. Raises Unavailable if nothing is."""
        doubt: StorageError | None = None
        for attempt in range(1, _TRIES + 1):
            keys = Trial(self.store, f"{self.prefix}{trial.__name__}-{attempt}/", self.lease)
            try:
                seen = await trial(keys)
            except (AccessDenied, NotImplementedByStore):
                raise
            except StorageError as error:
                doubt = error
                continue
            finally:
                await keys.tidy_up()
            if seen is not Seen.KEPT:
                self.lease.check()  # once it has ended, others may have removed what was tried
            if seen is not Seen.SEEMS_LACKING:
                return seen is Seen.KEPT
            doubt = None
        if doubt is not None:
            raise Unavailable(doubt.message, key=doubt.key, request_id=doubt.request_id)
        return False
