"""What earlier runs left unfinished, settled before the work and once more after it.

A plan record whose run still has a lease is left alone at first. The lease is watched while the
run works; once it has ended, its records are settled too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from coalesce.errors import GroupOwned
from coalesce.protocol.lease import Rival, outlived
from coalesce.protocol.recovery import recover
from coalesce.protocol.session import Session
from coalesce.protocol.state import records_prefix
from coalesce.protocol.survey import Ground
from coalesce.report.account import Account
from coalesce.storage.base import ObjectStore

# Plan records settled at once.
_CONCURRENCY = 32


@dataclass(frozen=True, slots=True)
class Rivals:
    """Other runs, by their leases.

    Attributes:
        dead: Those whose lease has ended, wherever they worked.
        alive: Those whose lease holds, and that may work on this run's groups.
        elsewhere: Those whose lease holds, and that work on other groups.
    """

    dead: tuple[Rival, ...]
    alive: tuple[Rival, ...]
    elsewhere: tuple[Rival, ...] = ()

    @classmethod
    def of(cls, seen: Iterable[Rival], ground: Ground) -> Rivals:
        """Sorts the leases that a survey of the state prefix has seen."""
        rivals = tuple(seen)
        living = [rival for rival in rivals if rival.remaining > 0]
        return cls(
            dead=tuple(rival for rival in rivals if rival.remaining <= 0),
            alive=tuple(rival for rival in living if ground.meets(rival)),
            elsewhere=tuple(rival for rival in living if not ground.meets(rival)),
        )

    @property
    def living_ids(self) -> frozenset[str]:
        """The ids of all runs whose records must be left alone."""
        return frozenset(rival.record.run_id for rival in (*self.alive, *self.elsewhere))

    def after_watch(self, ended: Sequence[bool]) -> Rivals:
        """Returns the rivals after a watch; `ended` says of each of the alive whether it ended."""
        watched = list(zip(self.alive, ended, strict=True))
        return Rivals(
            dead=(*self.dead, *(rival for rival, over in watched if over)),
            alive=tuple(rival for rival, over in watched if not over),
            elsewhere=self.elsewhere,
        )


@asynccontextmanager
async def watch(
    store: ObjectStore, rivals: Sequence[Rival]
) -> AsyncIterator[list[asyncio.Task[bool]]]:
    """Watches leases in the background, at the latest until the block ends.

    The tasks are in the order of `rivals`. Each returns whether its lease ended without having
    been renewed.
    """
    watches = [asyncio.create_task(outlived(store, rival)) for rival in rivals]
    try:
        yield watches
    finally:
        for task in watches:
            task.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The plan records that still stand, by their keys: this run must not touch their groups.

    Attributes:
        owned: Records of living runs, of groups that this run has to work on.
        unsettled: Records that could not be settled.
    """

    owned: tuple[str, ...] = ()
    unsettled: tuple[str, ...] = ()

    @property
    def standing(self) -> frozenset[str]:
        """All of them."""
        return frozenset((*self.owned, *self.unsettled))


async def settle(
    session: Session,
    keys: Sequence[str],
    rivals: Rivals,
    ground: Ground,
    account: Account,
    *,
    last_try: bool = False,
) -> Settlement:
    """Settles the plan records at these keys, except those of living runs.

    Their groups, as far as they are this run's too, count as leased after the last try. Raises an
    exception group that holds LeaseLost.
    """
    living = rivals.living_ids
    limiter = asyncio.Semaphore(_CONCURRENCY)
    owned: list[str] = []
    unsettled: list[str] = []

    async def settle_one(key: str) -> None:
        group = key.removeprefix(records_prefix(session.rules.state))
        outcome = account.new_outcome(group)
        async with limiter:
            try:
                await recover(session, key, living, outcome)
            except GroupOwned as error:
                if group.startswith(ground.prefixes) and ground.owns(f"{group}_"):
                    owned.append(key)
                    if last_try:
                        account.count_leased_group(error)
                return
        account.count_recovered_group(outcome, group)
        if outcome.unsettled:
            unsettled.append(key)

    async with asyncio.TaskGroup() as tasks:
        for key in keys:
            tasks.create_task(settle_one(key))
    return Settlement(tuple(owned), tuple(unsettled))
