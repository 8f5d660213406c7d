"""What earlier runs left unfinished, finished or undone before anything new (commit protocol, step
2).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from coalesce.errors import CoalesceError, GroupOwned, IntegrityError, LeaseLost
from coalesce.listing.pages import all_pages
from coalesce.model import ObjectInfo, Why
from coalesce.naming.shards import Shard
from coalesce.protocol.commit import Committed, delete_sources, recognise
from coalesce.protocol.lease import Rival, read_rival
from coalesce.protocol.outcome import GroupOutcome, committed_output
from coalesce.protocol.probe import open_uploads
from coalesce.protocol.record import HeldRecord, RecordedBatch
from coalesce.protocol.session import Session
from coalesce.protocol.state import lease_key, probe_prefix, records_prefix
from coalesce.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What stands under the state prefix: keys of plan records of groups in scope, and runs'
    leases.
    """

    records: tuple[str, ...]
    rivals: tuple[Rival, ...]


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a run works.

    `owns` says of any key whether its group is the run's: one of its `shard`.
    """

    layout: str
    prefixes: tuple[str, ...]
    shard: Shard
    owns: Callable[[str], bool]

    def holds(self, rival: Rival) -> bool:
        """Whether another run works, or worked, nowhere but here: then this one can clean up after
        it. One without prefixes only probed.
        """
        theirs = rival.record.prefixes
        here = rival.record.layout == self.layout and rival.record.share.within(self.shard)
        return not theirs or (here and all(prefix.startswith(self.prefixes) for prefix in theirs))

    def meets(self, rival: Rival) -> bool:
        """Whether another run works here too."""
        nearby = any(
            a.startswith(b) or b.startswith(a) for a in rival.record.prefixes for b in self.prefixes
        )
        return nearby and rival.record.share.meets(self.shard)


async def survey(store: ObjectStore, state: str, ground: Ground) -> Leftovers:
    """One request where nothing is unfinished, and one more per lease.

    Raises StorageError; keys that end with a slash are folders of somebody's console.
    """
    groups = records_prefix(state)
    records: list[str] = []
    leases: list[ObjectInfo] = []
    pages = [page async for page in all_pages(store, state)]
    date = pages[0].date
    for entry in (entry for page in pages for entry in page.objects if not entry.key.endswith("/")):
        group = entry.key.removeprefix(groups)
        if entry.key.startswith(groups):
            if group.startswith(ground.prefixes) and ground.owns(f"{group}_"):
                records.append(entry.key)
        elif entry.key.startswith(lease_key(state, "")):
            leases.append(entry)
    rivals = [await read_rival(store, entry, date) for entry in leases]
    return Leftovers(tuple(records), tuple(found for found in rivals if found))


async def recover(session: Session, key: str, alive: Container[str], outcome: GroupOutcome) -> None:
    """Settles the record at `key`: outputs that are there lose their sources, the rest is made
    impossible, and the record goes.

    Raises GroupOwned while the record's run is among the `alive`, LeaseLost. Everything else is
    added to the outcome.
    """
    try:
        held = await HeldRecord.read(session.store, session.rules.state, key)
        if held is None:
            return
        if held.record.layout != session.rules.layout.name:
            outcome.unsettled = True
            return
        if held.record.run_id in alive:
            raise GroupOwned(f"{held.record.group}: run {held.record.run_id} works on it", key=key)
        await _settle(session, held, outcome)
    except (GroupOwned, LeaseLost):
        raise
    except CoalesceError as error:
        outcome.failures.append(error)
        outcome.unsettled = True


async def sweep(session: Session, ground: Ground, dead: Sequence[Rival]) -> None:
    """Removes what ended runs left outside of any record: uploads they had begun, probe objects,
    and at last their leases.

    Only for runs that worked nowhere but here, and only once no other run that works here is alive
    and all records are settled. A run writes its lease before it begins an upload. So uploads that
    were open before a look at the leases are nobody's if that look shows no run but the dead ones;
    if it does show one, everything stays for a later run.
    """
    store = session.store
    swept = [rival for rival in dead if ground.holds(rival)]
    if not swept:
        return
    left = [
        upload
        for prefix in ground.prefixes
        for upload in await open_uploads(store, prefix)
        if _is_ours(session, ground, upload.key)
    ]
    if left and await _others(session, ground, dead):
        return
    for upload in left:
        await store.abort_upload(upload.key, upload.upload_id)
    for rival in swept:
        trial = probe_prefix(session.rules.state, rival.record.run_id)
        for upload in await open_uploads(store, trial):
            await store.abort_upload(upload.key, upload.upload_id)
        for entry in (await store.list_page(trial)).objects:
            await store.delete(entry.key)
        await store.delete(
            rival.key, etag=rival.etag if session.rules.capabilities.conditional_delete else ""
        )


def _is_ours(session: Session, ground: Ground, key: str) -> bool:
    named = session.rules.layout.parse(key)
    return named is not None and named.kind == "output" and ground.owns(key)


async def _others(session: Session, ground: Ground, dead: Sequence[Rival]) -> bool:
    """Whether a run that works here is neither this one nor one of the `dead`, as they were seen to
    be.
    """
    known = {(rival.key, rival.etag) for rival in dead}
    rivals = (await survey(session.store, session.rules.state, ground)).rivals
    return any(
        ground.meets(rival)
        for rival in rivals
        if rival.key != lease_key(session.rules.state, session.rules.run_id)
        and (rival.key, rival.etag) not in known
    )


async def _settle(session: Session, held: HeldRecord, outcome: GroupOutcome) -> None:
    for entry in held.record.batches:
        try:
            committed = await _committed(session, entry)
        except IntegrityError as error:
            outcome.failures.append(error)
            outcome.unsettled = True
            continue
        if committed is None:
            continue
        if not session.rules.delete:
            outcome.unsettled = True
            continue
        deleted, left = await delete_sources(session, committed)
        outcome.unsettled |= any(entry.why is Why.DELETE_REFUSED for entry in left)
        outcome.add(committed_output(committed, deleted, left, records=None, recovered=True))
    if not outcome.unsettled:
        await held.remove(conditional=session.rules.capabilities.conditional_delete)


async def _committed(session: Session, entry: RecordedBatch) -> Committed | None:
    """The proof of a batch, or None once nothing of it can appear any more. Raises IntegrityError.

    The abort is the fence; the second look is for a Complete that won the race against it.
    """
    batch = entry.batch
    committed = await recognise(session, batch)
    if committed is None:
        await session.store.abort_upload(batch.output, entry.upload_id)
        committed = await recognise(session, batch)
    if committed is not None and entry.doubted:
        raise IntegrityError(
            f"{batch.output}: the run that wrote it did not find in it what it had sent",
            key=batch.output,
        )
    return committed
