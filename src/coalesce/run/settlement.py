"""What earlier runs left unfinished, settled before the work and once more after it.

A plan record whose run still has a lease is left alone at first. The lease is watched while the
run works; once it has ended, its records are settled too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from coalesce.errors import GroupOwned, StorageError
from coalesce.listing.found import find_empty, find_neighbours
from coalesce.model import Kept
from coalesce.protocol.lease import Lease, Rival, outlived
from coalesce.protocol.recovery import recover
from coalesce.protocol.session import Session
from coalesce.protocol.state import lease_key, records_prefix
from coalesce.protocol.survey import Ground, find_records, find_rivals
from coalesce.protocol.sweep import sweep, sweep_own
from coalesce.report import warnings
from coalesce.report.account import Account
from coalesce.report.report import Became
from coalesce.settings import Settings
from coalesce.stop import Stop
from coalesce.storage.base import ObjectStore

# Plan records settled at once.
_CONCURRENCY = 32

# How often a run that only waits looks whether it is to stop.
_STOP_SECONDS = 0.25


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
    def of(cls, seen: Iterable[Rival], ground: Ground, own: str = "") -> Rivals:
        """Sorts the leases that a look at the state prefix has seen. The run's `own`, by its key,
        counts as one elsewhere.
        """
        rivals = tuple(seen)
        living = [rival for rival in rivals if rival.remaining > 0]
        alive = [rival for rival in living if rival.key != own and ground.meets(rival)]
        return cls(
            dead=tuple(rival for rival in rivals if rival.remaining <= 0),
            alive=tuple(alive),
            elsewhere=tuple(rival for rival in living if rival not in alive),
        )

    async def is_alive(self, store: ObjectStore, state: str, run_id: str) -> bool:
        """Whether the records of a run must be left alone. One that was not seen may have begun
        since: then its lease is there. Raises StorageError.
        """
        if any(rival.record.run_id == run_id for rival in (*self.alive, *self.elsewhere)):
            return True
        if any(rival.record.run_id == run_id for rival in self.dead):
            return False
        return await store.head(lease_key(state, run_id)) is not None

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


async def wait_for(
    watches: Sequence[asyncio.Task[bool]], rivals: Rivals, account: Account, stop: Stop
) -> list[bool] | None:
    """Waits for the watches, as long as the run may go on.

    Returns what each has seen; None if there are none, or if the run is to stop.
    """
    if not watches:
        return None
    if not all(task.done() for task in watches) and stop.try_continue():
        for rival in rivals.alive:
            account.warn(warnings.waiting(rival))
    while not all(task.done() for task in watches):
        if not stop.try_continue():
            return None
        await asyncio.wait(watches, timeout=_STOP_SECONDS, return_when=asyncio.ALL_COMPLETED)
    return [task.result() for task in watches]


async def clean_up(session: Session, ground: Ground, rivals: Rivals, account: Account) -> None:
    """Sweeps up after dead runs, unless a run is alive here. A store that does not let it costs
    a failure, but not the run.
    """
    if rivals.alive:
        return
    try:
        await sweep(session, ground, rivals.dead)
    except StorageError as error:
        account.add_failure(error)


async def clean_up_own(session: Session, ground: Ground, lease: Lease) -> None:
    """Sweeps up after this run itself, if it may have left anything outside of its records.

    What cannot be removed now is left to a later run, which the lease then tells of it.
    """
    if not lease.untidy:
        return
    with suppress(StorageError):
        if await sweep_own(session, ground, lease.as_rival):
            lease.mark_tidy()


async def warn_of_no_keys(
    store: ObjectStore, roots: Iterable[str], settings: Settings, account: Account
) -> None:
    """Warns of roots without any key, where they are not listed anyway."""
    empty = await find_empty(store, roots)
    neighbours = await find_neighbours(store, empty, settings.state_prefix)
    for warning in warnings.no_keys(settings.bucket, neighbours):
        account.warn(warning)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The plan records that still stand, by their keys: this run must not touch their groups.

    Attributes:
        owned: Records of living runs, of groups that this run has to work on.
        unsettled: Records that were not settled, each with the sources that stay for a reason.
        failed: Those of them with a failure.
    """

    owned: tuple[str, ...] = ()
    unsettled: Mapping[str, Sequence[Kept]] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()

    def followed_by(self, last: Settlement) -> Settlement:
        """Returns what stands after a second settlement of the records that were owned."""
        unsettled = {**self.unsettled, **last.unsettled}
        return Settlement(last.owned, unsettled, self.failed | last.failed)

    def completed_by(self, late: Settlement, settled: Collection[str]) -> Settlement:
        """Returns what stands after a last look, which has found these records to be `settled`."""
        owned = (key for key in self.owned if key not in late.unsettled and key not in settled)
        unsettled = {**self.unsettled, **late.unsettled}
        return Settlement(tuple(owned), unsettled, self.failed | late.failed)

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
    stop: Stop,
    *,
    last_try: bool = False,
) -> Settlement:
    """Settles the plan records at these keys, except those of living runs.

    After the last try there is a warning for each of those whose group is this run's too. Raises an
    exception group that holds LeaseLost.
    """
    is_alive = partial(rivals.is_alive, session.store, session.rules.state)
    limiter = asyncio.Semaphore(_CONCURRENCY)
    owned: list[str] = []
    unsettled: dict[str, Sequence[Kept]] = {}
    failed: set[str] = set()

    async def settle_one(key: str) -> None:
        group = key.removeprefix(records_prefix(session.rules.state))
        outcome = account.new_outcome(group)
        async with limiter:
            try:
                left_by = await recover(session, key, is_alive, stop, outcome)
            except GroupOwned as error:
                if ground.has(group):
                    owned.append(key)
                    if last_try:
                        account.warn(warnings.leased_group(error))
                return
        if outcome.unsettled:
            unsettled[key] = outcome.kept
            failed.update([key] if outcome.failures else [])
        if left_by is None:
            return
        became: Became = "unsettled" if outcome.unsettled else "settled"
        if outcome.unsettled and stop.stopping and not outcome.failures:
            became = "stopped"
        account.count_plan_record(outcome, group, left_by, became)

    async with asyncio.TaskGroup() as tasks:
        for key in keys:
            tasks.create_task(settle_one(key))
    return Settlement(tuple(owned), unsettled, frozenset(failed))


async def settle_late(
    session: Session, known: Container[str], ground: Ground, account: Account, stop: Stop
) -> tuple[Settlement, list[str]]:
    """Looks once more for plan records of this run's groups, and settles those of dead runs: of
    runs that have begun since the first look, or were alive then.

    `known` are records that stay in any case. Returns what stands, and the keys of the records that
    were settled. Those of living runs are theirs. A run that is to stop looks for nothing; one that
    cannot look has a failure.
    """
    if stop.stopping:
        return Settlement(), []
    try:
        late, rivals = await _look_again(session, known, ground)
    except StorageError as error:
        account.add_failure(error)
        return Settlement(), []
    settlement = await settle(session, late, rivals, ground, account, stop)
    await clean_up(session, ground, rivals, account)
    return settlement, [key for key in late if key not in settlement.standing]


async def _look_again(
    session: Session, known: Container[str], ground: Ground
) -> tuple[list[str], Rivals]:
    """The plan records of this run's groups that are not `known`, and the runs that may own them:
    none are looked for where there are no such records. Raises StorageError.
    """
    state, store = session.rules.state, session.store
    groups = records_prefix(state)
    found = await find_records(store, state, ground)
    late = [key for key in found if key not in known and ground.has(key.removeprefix(groups))]
    # Leases after records: who has written a record by now has a lease from before it.
    seen, _ = await find_rivals(store, state) if late else ((), 0.0)
    return late, Rivals.of(seen, ground, own=lease_key(state, session.rules.run_id))
