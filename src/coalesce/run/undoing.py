"""Outputs on their way back: found by their ledger entries, and given back group by group."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coalesce.errors import (
    CoalesceError,
    GroupOwned,
    IntegrityError,
    LeaseLost,
    NotFound,
    StorageError,
    UndoUnfinished,
)
from coalesce.model import Batch, GroupId, UndoneOutput
from coalesce.naming.layouts import LAYOUTS
from coalesce.planning.forecast import forecast_undo
from coalesce.planning.rules import selected
from coalesce.protocol.entry_reader import (
    Entry,
    FoundEntry,
    describes,
    entries_of,
    entries_under,
    open_entry,
)
from coalesce.protocol.session import Session
from coalesce.protocol.state import record_key
from coalesce.protocol.undo import undo_output
from coalesce.report.account import Account
from coalesce.run.settlement import Settlement
from coalesce.run.workload import Workload
from coalesce.stop import Stop
from coalesce.storage.base import Head, ObjectStore

# Groups that are worked on at once.
_CONCURRENCY = 8

_NO_ENTRY = (
    "Without it nobody knows what the output was made of. Entries are kept, unless --no-ledger or "
    "a lifecycle rule says otherwise."
)
_OTHER_ENTRY = (
    "Nothing was changed. Somebody has replaced or damaged it since it was written; bring back the "
    "version that its ledger entry is about if the bucket keeps versions."
)

Found = Mapping[str, Sequence[FoundEntry]]
"""Ledger entries by the output that they are about."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outputs are to be given back.

    Attributes:
        outputs: Their keys; empty for all under the prefixes that have a ledger entry.
        run_id: Only those that this run has written; empty for those of all runs.
    """

    outputs: tuple[str, ...] = ()
    run_id: str = ""


def group_of_output(key: str) -> GroupId | None:
    """The group of an output, whichever layout has named it; None for a key that is no output."""
    names = (layout.parse(key) for layout in LAYOUTS.values())
    return next((name.group for name in names if name and name.kind == "output"), None)


async def find_entries(
    store: ObjectStore, workload: Workload, wanted: Wanted, account: Account
) -> Found:
    """The ledger entries of the outputs that are wanted.

    Failures are what cannot be listed, and outputs that were named and have no entry: unless what
    an earlier undo had begun with them was finished just now.
    """
    state = workload.settings.state_prefix
    found: dict[str, list[FoundEntry]] = defaultdict(list)
    try:
        for output in wanted.outputs:
            found[output] = await entries_of(store, state, output)
            if not found[output] and not account.report.undone.has(output):
                error = NotFound(f"{output}: has no ledger entry", key=output, hint=_NO_ENTRY)
                account.add_failure(error)
        for prefix in () if wanted.outputs else workload.prefixes:
            async for entry in entries_under(store, state, prefix):
                if _is_in_scope(workload, entry.output):
                    found[entry.output].append(entry)
    except StorageError as error:
        account.add_failure(error)
    return {output: entries for output, entries in found.items() if entries}


def _is_in_scope(workload: Workload, output: str) -> bool:
    group = group_of_output(output)
    return (
        group is not None
        and workload.scope.covers(group)
        and selected(output, workload.limits)
        and workload.owns(output)
    )


async def choose_entry(
    store: ObjectStore, state: str, entries: Iterable[FoundEntry], wanted: Wanted
) -> tuple[Entry, Head] | None:
    """The entry that is about the output as it is, and the output's HEAD; None for an output that
    is not wanted, or that is gone and was not named.

    Raises NotFound for one that was named, IntegrityError if no entry is about what is there,
    RecordDamaged, StorageError.
    """
    opened = [await open_entry(store, state, found) for found in entries]
    if wanted.run_id:
        opened = [entry for entry in opened if entry.header.run_id == wanted.run_id]
    if not opened:
        return None
    output = opened[0].header.output
    head = await store.head(output)
    if head is None and output in wanted.outputs:
        raise NotFound(f"{output}: is not there", key=output)
    if head is None:
        return None
    for entry in opened:
        if describes(entry.header, head):
            return entry, head
    message = f"{output}: is not what its ledger entry {opened[0].key!r} says"
    raise IntegrityError(message, key=output, hint=_OTHER_ENTRY)


async def plan_undo(
    store: ObjectStore, workload: Workload, wanted: Wanted, account: Account
) -> None:
    """Finds what an undo would give back, and forecasts what it would cost. Writes nothing."""
    state = workload.settings.state_prefix
    planned: list[tuple[int, int]] = []
    found = await find_entries(store, workload, wanted, account)
    for output, entries in found.items():
        group = group_of_output(output)
        try:
            chosen = await choose_entry(store, state, entries, wanted)
        except CoalesceError as error:
            account.add_failure(error, str(group))
            continue
        if chosen is None or group is None:
            continue
        header = chosen[0].header
        planned.append((header.sources, header.size))
        undone = UndoneOutput(output, header.sources, 0, header.size, header.unnoted)
        account.count_planned_undo(undone, group)
    account.add_forecast(forecast_undo(planned, workload.settings.memory))


@dataclass(slots=True)
class UndoQueue:
    """Brings outputs back, those of one group one after the other.

    Attributes:
        deferred: Outputs on whose group another run's record stood, by the record's key.
        own: Keys of this run's own undo records that stand.
    """

    session: Session
    workload: Workload
    account: Account
    stop: Stop
    wanted: Wanted
    deferred: dict[str, Found] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)

    async def work_on_all(self, standing: Collection[str]) -> None:
        """Gives back every output that is wanted; defers those whose records are `standing`."""
        store, state = self.session.store, self.session.rules.state
        found = await find_entries(store, self.workload, self.wanted, self.account)
        groups: dict[str, dict[str, Sequence[FoundEntry]]] = defaultdict(dict)
        for output, entries in found.items():
            group = group_of_output(output)
            if group is None:
                message = f"{output}: no layout names an output like this"
                self.account.add_failure(NotFound(message, key=output))
            else:
                groups[record_key(state, group)][output] = entries
        self.deferred = {key: outputs for key, outputs in groups.items() if key in standing}
        await self._work({key: o for key, o in groups.items() if key not in standing})

    async def work_on_late(self, records: Collection[str]) -> None:
        """Gives back deferred outputs whose groups' records have been settled since."""
        late = {key: self.deferred.pop(key) for key in records if key in self.deferred}
        await self._work(late)

    def count_deferred(self, settlement: Settlement) -> None:
        """Tells of outputs that are left to another run; what it left unsettled was told."""
        for key, outputs in self.deferred.items():
            if key not in settlement.unsettled:
                message = f"{next(iter(outputs))}: another run works on its group"
                self.account.add_failure(GroupOwned(message, key=key))

    async def _work(self, groups: Mapping[str, Found]) -> None:
        limiter = asyncio.Semaphore(_CONCURRENCY)

        async def work(key: str, outputs: Found) -> None:
            async with limiter:
                await self._undo_group(key, outputs)

        async with asyncio.TaskGroup() as tasks:
            for key, outputs in groups.items():
                tasks.create_task(work(key, outputs))

    async def _undo_group(self, key: str, outputs: Found) -> None:
        for number, (output, entries) in enumerate(outputs.items(), 1):
            if not self.stop.try_continue():
                return
            if not await self._undo(output, entries):
                self.own.add(key)
                if left := len(outputs) - number:
                    message = f"{output}: {left:,} more outputs of its group wait for its undo"
                    self.account.add_failure(UndoUnfinished(message, key=output))
                return

    async def _undo(self, output: str, entries: Sequence[FoundEntry]) -> bool:
        """Gives one output back; returns whether no record of it stands. Raises LeaseLost."""
        session, group = self.session, str(group_of_output(output))
        outcome = self.account.new_outcome(group)
        try:
            chosen = await choose_entry(session.store, session.rules.state, entries, self.wanted)
            if chosen is None:
                return True
            entry, head = chosen
            with self.stop.in_progress(Batch(output, (), head.size, entry.header.digest)):
                await undo_output(session, entry, head, outcome)
        except LeaseLost:
            raise
        except CoalesceError as error:
            outcome.failures.append(error)
        self.account.count_undone(outcome, group)
        return not outcome.unsettled
