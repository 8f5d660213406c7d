"""Deleting what was joined (commit protocol, step 6), and an output that was given back: each only
as the version that was read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from coalesce.errors import (
    AccessDenied,
    CoalesceError,
    IntegrityError,
    StorageError,
    Unavailable,
)
from coalesce.model import Kept, Source, Why
from coalesce.protocol.commit import Committed
from coalesce.protocol.returned import Returned
from coalesce.protocol.session import Session
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.limits import DELETE_PAGE

_TRIES = 4

# Seconds: half the longest pause before the second try of a delete without a condition.
_PAUSE = 0.2
_TRANSIENT = frozenset(
    {"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "NotMentioned"}
)


@dataclass(frozen=True, slots=True)
class Deletion:
    """What became of the sources of one output.

    Attributes:
        deleted: How many this process deleted.
        gone: How many are gone: these, and those that were gone already.
        characters: How long the keys of those that are gone were in all.
        changed: Keys of which there is a new version, which stays.
        refused: What the store would not delete, with its answer.
        unreached: How many of them nothing is known of, because the deletes ended before.
        error: Why the deletes ended before the last source, if they did.
    """

    deleted: int
    gone: int
    characters: int
    changed: tuple[str, ...]
    refused: tuple[DeleteResult, ...]
    unreached: int = 0
    error: IntegrityError | StorageError | None = None

    @property
    def failures(self) -> list[CoalesceError]:
        """The refusals, as failures for the report."""
        return [
            AccessDenied(
                f"{result.key}: joined, but its deletion was refused: {result.message}",
                key=result.key,
                code=result.code,
                hint="Its output is proven. Check s3:DeleteObject; `coalesce recover` deletes it.",
            )
            for result in self.refused
        ]

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Sources that stay, for the report."""
        return (
            *(Kept(key, Why.CHANGED) for key in self.changed),
            *(Kept(result.key, Why.DELETE_REFUSED) for result in self.refused),
        )


async def delete_sources(session: Session, committed: Committed) -> Deletion:
    """Deletes the sources of an output that was just read back, and accounts for every key.

    The output is looked at again before every further page of deletes: if it is lost between two of
    them, the sources of the second stay. Raises LeaseLost.
    """
    tally, sources = _Tally(), committed.batch.sources
    error: IntegrityError | StorageError | None = None
    try:
        for begin in range(0, len(sources), DELETE_PAGE):
            if begin:
                await _look_again(session, committed)
            tally.add(await _delete_page(session, sources[begin : begin + DELETE_PAGE]))
    except (IntegrityError, StorageError) as failure:
        error = failure
    return tally.total(len(sources), error)


async def delete_output(session: Session, returned: Returned) -> DeleteResult:
    """Deletes an output that was given back, as the version that it was then; what became of it.

    Raises LeaseLost, StorageError.
    """
    output = Source(returned.output, returned.size, returned.etag, 0.0, "", 0, 0)
    (result,) = await _delete_page(session, [output])
    return result


@dataclass(slots=True)
class _Tally:
    """What became of the sources so far. Of those that are gone only the number is held."""

    reached: int = 0
    deleted: int = 0
    gone: int = 0
    characters: int = 0
    changed: list[str] = field(default_factory=list)
    refused: list[DeleteResult] = field(default_factory=list)

    def add(self, results: Sequence[DeleteResult]) -> None:
        self.reached += len(results)
        for result in results:
            match result.deleted:
                case Deleted.CHANGED:
                    self.changed.append(result.key)
                case Deleted.REFUSED:
                    self.refused.append(result)
                case Deleted.DONE | Deleted.ABSENT:
                    self.deleted += result.deleted is Deleted.DONE
                    self.gone += 1
                    self.characters += len(result.key)

    def total(self, sources: int, error: IntegrityError | StorageError | None) -> Deletion:
        return Deletion(
            deleted=self.deleted,
            gone=self.gone,
            characters=self.characters,
            changed=tuple(self.changed),
            refused=tuple(self.refused),
            unreached=sources - self.reached,
            error=error,
        )


async def _look_again(session: Session, committed: Committed) -> None:
    head = await session.store.head(committed.batch.output)
    if head is None or (head.etag, head.size) != (committed.etag, committed.size):
        key = committed.batch.output
        what = "is gone" if head is None else "was replaced"
        message = f"{key}: {what} while its sources were being deleted; the others were kept"
        raise IntegrityError(message, key=key)


async def _delete_page(session: Session, sources: Sequence[Source]) -> list[DeleteResult]:
    """Repeats what was refused or unanswered: a conditional delete can be sent twice.

    What is absent after an unanswered try was deleted by it.
    """
    results: dict[str, DeleteResult] = {}
    todo = list(sources)
    unanswered = False
    for attempt in range(1, _TRIES + 1):
        session.lease.check()
        try:
            answers = await _delete_once(session, todo)
        except Unavailable:
            if attempt == _TRIES:
                raise
            unanswered = True
            if not session.rules.capabilities.conditional_delete:  # which the client repeats itself
                await asyncio.sleep(random.uniform(0, _PAUSE * 2**attempt))
            continue
        for result in answers:
            ours = unanswered and result.deleted is Deleted.ABSENT
            results[result.key] = DeleteResult(result.key, Deleted.DONE) if ours else result
        todo = [source for source in todo if _is_transient(results[source.key])]
        if not todo:
            break
    return list(results.values())


def _is_transient(result: DeleteResult) -> bool:
    return result.deleted is Deleted.REFUSED and result.code in _TRANSIENT


async def _delete_once(session: Session, sources: Sequence[Source]) -> list[DeleteResult]:
    if session.rules.capabilities.conditional_delete_many:
        plain = [source for source in sources if source.key.isprintable()]
        odd = [source for source in sources if not source.key.isprintable()]
        targets = [(source.key, source.etag) for source in plain]
        answers = await session.store.delete_many(targets) if plain else []
        return answers + await _delete_singly(session, odd)
    return await _delete_singly(session, sources)


async def _delete_singly(session: Session, sources: Sequence[Source]) -> list[DeleteResult]:
    """Raises the first failure once none of the deletes is under way any more."""
    deletes = (_delete_one(session, source) for source in sources)
    results = await asyncio.gather(*deletes, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, DeleteResult)]


async def _delete_one(session: Session, source: Source) -> DeleteResult:
    store, capabilities = session.store, session.rules.capabilities
    async with session.capacity.writes.slot():
        if capabilities.conditional_delete:
            return await store.delete(source.key, etag=source.etag)
        if capabilities.conditional_delete_many:  # which cannot name this key
            message = "the store has a condition only for deletes whose XML cannot hold this key"
            return DeleteResult(source.key, Deleted.REFUSED, "NoConditionalDelete", message)
        head = await store.head(source.key)
        if head is None:
            return DeleteResult(source.key, Deleted.ABSENT)
        if head.etag != source.etag:
            return DeleteResult(source.key, Deleted.CHANGED)
        return await store.delete(source.key)
