"""One output given back as the sources that it was made of.

| what stands | what is done next |
|---|---|
| output and entry | the entry is read whole, the output proven, every name of a source looked at |
| the same, and the undo record | what is missing is written again, a page of sources at a time |
| output, record, all sources | they are seen in one listing, then the output is; it is deleted |
| record and all sources | the ledger entry is removed, then the record |
| another object under a source's name | what this undo wrote is deleted again, then the record |
| another object, or none, as the output | end; everything stays, and a person has to look |

Whoever takes over a record makes its uploads unusable first: so nothing of an undo that was
overtaken appears later.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from coalesce.errors import (
    AccessDenied,
    CannotGiveBack,
    CoalesceError,
    Conflict,
    GroupOwned,
    IntegrityError,
    KeyTaken,
    LeaseLost,
    RecordDamaged,
    StorageError,
)
from coalesce.model import Batch, Codec, GroupId, Records, Source, UndoneOutput
from coalesce.naming.layouts import LAYOUTS
from coalesce.naming.sources import Sources
from coalesce.protocol.commit import Committed, prove
from coalesce.protocol.deletion import delete_output, delete_sources
from coalesce.protocol.entry_reader import Entry, describes, entries_of, open_entry
from coalesce.protocol.giving import Walk, Way, source_of_line
from coalesce.protocol.ledger import remove_entry
from coalesce.protocol.names import SourcesThere, list_sources
from coalesce.protocol.outcome import GroupOutcome
from coalesce.protocol.returned import prove_returned
from coalesce.protocol.session import Session
from coalesce.protocol.state import entry_key
from coalesce.protocol.trial import open_uploads
from coalesce.protocol.undo_record import HeldUndo, Phase, Standing, UndoRecord, judge
from coalesce.storage.base import Deleted, DeleteResult, Head

# Dates of the store are whole seconds.
_PRECISION = 1.0

_BRING_BACK = (
    "The sources that were given back stay, and nothing more of this group is touched while its "
    "undo record {key!r} stands. Bring the output back if the bucket keeps versions, or make sure "
    "that all its sources are there and move the record away."
)
_COMPARE = (
    "Nothing was deleted. Compare the output with its ledger entry: `coalesce verify --deep` reads "
    "it."
)
_GRANT = (
    "Its sources are there and proven, and readers see their records twice until then. Check "
    "s3:DeleteObject; `coalesce undo` or `coalesce recover` finishes it."
)


async def undo_output(session: Session, entry: Entry, head: Head, outcome: GroupOutcome) -> None:
    """Gives back an output that `head` shows, and adds to the outcome what came of it.

    Raises GroupOwned if another run's record stands on the group, LeaseLost.
    """
    try:
        job = _Undo.of(session, entry, outcome)
        date = await job.look(head)
        record = job.record_of(head, date)
        job.held = await HeldUndo.create(session.store, session.rules.state, record)
        outcome.unsettled = True
        await job.give_back_or_let_go()
    except (GroupOwned, LeaseLost):
        raise
    except CoalesceError as error:
        outcome.failures.append(error)


async def settle_undo(session: Session, held: HeldUndo, outcome: GroupOutcome) -> None:
    """Finishes what a dead undo has left, or takes it back where another object has the name of a
    source; adds to the outcome what came of it.

    Raises GroupOwned, LeaseLost.
    """
    run_id = session.rules.run_id
    outcome.unsettled = True
    try:
        if not await held.rewrite(held.record.model_copy(update={"run_id": run_id})):
            raise GroupOwned(f"{held.record.output}: another run settles its undo", key=held.key)
        entry = await _entry_of(session, held)
        if entry is not None:
            await _Undo.of(session, entry, outcome, held).finish()
            return
        await held.remove(session.rules.capabilities, run_id, session.lease)
        outcome.unsettled = False
    except (GroupOwned, LeaseLost):
        raise
    except CoalesceError as error:
        outcome.failures.append(error)


async def _entry_of(session: Session, held: HeldUndo) -> Entry | None:
    """The ledger entry of the output that is given back; None if nothing depends on it any more: it
    goes after the output, and the record after the entry.

    Raises RecordDamaged for one that is gone too early, StorageError.
    """
    store, state, record = session.store, session.rules.state, held.record
    key = entry_key(state, record.output, record.upload_id)
    for found in await entries_of(store, state, record.output):
        if found.key == key:
            return await open_entry(store, state, found)
    deleted = judge(record, await store.head(record.output)) is Standing.DELETED
    if deleted or record.phase is Phase.NEW:
        return None
    message = f"the ledger entry {key!r} is gone, and {record.output} was not given back whole"
    raise RecordDamaged(message, key=key, hint=_BRING_BACK.format(key=held.key))


@dataclass(slots=True)
class _Undo:
    """One output on its way back. `strays`: an upload may be open that the record does not name."""

    session: Session
    entry: Entry
    group: GroupId
    outcome: GroupOutcome
    held: HeldUndo | None = None
    begun: bool = False
    strays: bool = False

    @classmethod
    def of(
        cls, session: Session, entry: Entry, outcome: GroupOutcome, held: HeldUndo | None = None
    ) -> _Undo:
        """The undo of the output that an entry is about. Raises RecordDamaged for one of a layout
        that is not known, or that is named otherwise.
        """
        header = entry.header
        layout = LAYOUTS.get(header.layout)
        name = layout.parse(header.output) if layout else None
        if layout is None or name is None or name.kind != "output":
            message = f"the ledger entry {entry.key!r} is about no output of a layout that is known"
            raise RecordDamaged(message, key=entry.key)
        rules = replace(session.rules, layout=layout)
        return cls(replace(session, rules=rules), entry, name.group, outcome, held)

    async def look(self, head: Head) -> float:
        """Looks at everything before anything is written; when that was, by the store's clock.

        Raises CannotGiveBack, KeyTaken, IntegrityError, RecordDamaged, StorageError.
        """
        self._check_content()
        there = await list_sources(self.session, self.group)
        taken = 0
        async for line in self.entry.sources():
            source_of_line(self.session.rules.layout, self.group, self.entry, line)
            taken += there.find(line.key) is not None
        await self._prove(head)
        if taken:
            await self._walk(Way.LOOK, head, there).run()
        return there.date

    def _check_content(self) -> None:
        """Raises CannotGiveBack for sources that are neither text nor gzip members of lines."""
        header = self.entry.header
        codec = header.codec or Codec.GZIP
        if codec not in (Codec.GZIP, Codec.PLAIN) or header.kind is not Records.LINES:
            what = codec.value if header.kind is Records.LINES else f"{codec.value}, {header.kind}"
            message = f"{header.output}: undo gives back lines in gzip or plain; these are {what}"
            raise CannotGiveBack(message, key=header.output)

    def record_of(self, head: Head, date: float) -> UndoRecord:
        """The record of this undo; `date` is that of the listing before it."""
        header, group = self.entry.header, self.group
        return UndoRecord(
            run_id=self.session.rules.run_id,
            layout=header.layout,
            directory=group.directory,
            topic=group.topic,
            partition=group.partition,
            output=header.output,
            upload_id=header.upload_id,
            etag=head.etag,
            size=head.size,
            began=date,
        )

    async def give_back_or_let_go(self) -> None:
        """Gives the output back under a new record, which goes if nothing came of it."""
        try:
            await self._give_back_or_take_back()
        except CoalesceError:
            if not self.begun:
                with suppress(StorageError):
                    await self._let_go()
            raise

    async def finish(self) -> None:
        """Goes on with a dead undo from the phase that its record says.

        The aborts are the fence: what it had begun and not recorded yet could not appear.
        """
        self.begun = self.strays = True
        record = self._held.record
        for key, upload_id in record.uploads:
            await self.session.store.abort_upload(key, upload_id)
        await self._sweep()
        match record.phase:
            case Phase.NEW:
                await self._let_go()
            case Phase.TAKING_BACK:
                await self._take_back()
            case Phase.DELETING:
                await self._give_back()
            case Phase.GIVING:
                await self._give_back_or_take_back()

    async def _give_back_or_take_back(self) -> None:
        try:
            await self._give_back()
        except KeyTaken:
            if self.begun:
                await self._take_back()
            raise

    @property
    def _held(self) -> HeldUndo:
        assert self.held is not None
        return self.held

    async def _give_back(self) -> None:
        record, store = self._held.record, self.session.store
        head = await store.head(record.output)
        standing = judge(record, head)
        if standing is Standing.DELETED:
            await self._settle(0)
            return
        if not self.begun and standing is not Standing.THERE:
            message = f"{record.output}: was changed or given back before its undo began"
            raise Conflict(message, key=record.output)
        if standing is not Standing.THERE or head is None:
            raise await self._alarm(standing)
        await self._prove(head)
        walk = self._walk(Way.GIVE, head, await list_sources(self.session, self.group))
        try:
            proven = await walk.run()
        finally:
            self.begun |= walk.begun
            self.strays |= walk.strays
        there = await list_sources(self.session, self.group)
        now = await store.head(record.output)
        standing = judge(record, now)
        if standing is Standing.DELETED:  # by a request of before that came late
            await self._settle(walk.written)
            return
        if standing is not Standing.THERE:
            raise await self._alarm(standing)
        returned = prove_returned(self.entry.header, proven, there, head, now)
        self.begun = True
        await self._rewrite(Phase.DELETING)
        self._check_deleted(await delete_output(self.session, returned))
        await self._settle(walk.written)

    async def _take_back(self) -> None:
        """Deletes the sources that this undo wrote, each as the version that was proven to hold
        what the output holds of it; then the record goes.

        Raises IntegrityError if the output is not what it must be, AccessDenied, StorageError.
        """
        record, store = self._held.record, self.session.store
        for key, upload_id in record.uploads:
            await store.abort_upload(key, upload_id)
        await self._rewrite(Phase.TAKING_BACK)
        head = await store.head(record.output)
        if head is None or judge(record, head) is not Standing.THERE:
            raise await self._alarm(judge(record, head))
        there = await list_sources(self.session, self.group)
        proven = await self._walk(Way.GATHER, head, there).run()
        own = (source for source in proven if source.modified >= record.began)
        committed = await self._prove(head, Sources.of(self.group.prefix, own))
        deletion = await delete_sources(self.session, committed)
        if deletion.error is not None:
            raise deletion.error
        if deletion.failures:
            raise deletion.failures[0]
        await self._let_go()

    async def _let_go(self) -> None:
        """Removes the record of an undo of which nothing is left. Raises StorageError."""
        await self._sweep()
        rules = self.session.rules
        await self._held.remove(rules.capabilities, rules.run_id, self.session.lease)
        self.outcome.unsettled = False

    async def _settle(self, written: int) -> None:
        """Removes the entry of an output that is gone, then the record. Raises StorageError."""
        header, session = self.entry.header, self.session
        refusal = await remove_entry(session, header.output, header.upload_id)
        self.outcome.failures += [refusal] if refusal else []
        await self._let_go()
        self.outcome.undone.append(
            UndoneOutput(header.output, header.sources, written, header.size, header.unnoted)
        )

    async def _prove(self, head: Head, sources: Sequence[Source] = ()) -> Committed:
        """The proof that the output is what its entry says, and so holds these sources of it.

        Raises IntegrityError, StorageError.
        """
        header = self.entry.header
        if not describes(header, head):
            message = f"{head.key}: is not what its ledger entry {self.entry.key!r} says"
            raise IntegrityError(message, key=head.key, hint=_COMPARE)
        size = sum(source.size for source in sources)
        batch = Batch(head.key, sources, size, header.digest)
        return await prove(self.session, batch, head, header, own=False)

    def _walk(self, way: Way, head: Head, there: SourcesThere) -> Walk:
        held = self.held if way is Way.GIVE else None
        return Walk(self.session, self.entry, self.group, head, there, way, held)

    async def _rewrite(self, phase: Phase) -> None:
        """Says in the record how far it is, and that no upload is open.

        Raises GroupOwned if the record is not ours any more, StorageError.
        """
        record = self._held.record.model_copy(update={"phase": phase, "uploads": ()})
        if not await self._held.rewrite(record):
            message = f"{record.output}: another run took over its undo"
            raise GroupOwned(message, key=self._held.key)

    async def _sweep(self) -> None:
        """Aborts uploads of this output's sources that an undo may have begun and not recorded.

        Raises StorageError.
        """
        if not self.strays:
            return
        since = self._held.record.began - _PRECISION
        uploads = await open_uploads(self.session.store, self.group.prefix)
        late = [upload for upload in uploads if upload.initiated >= since]
        if late:
            keys = {upload.key for upload in late}
            own = {line.key async for line in self.entry.sources() if line.key in keys}
            for upload in late:
                if upload.key in own:
                    await self.session.store.abort_upload(upload.key, upload.upload_id)
        self.strays = False

    async def _alarm(self, standing: Standing) -> CoalesceError:
        """The failure that tells of an output that is not there as it was. If the record does not
        stand any more, another run has finished this undo.
        """
        held = self._held
        if not await held.stands():
            return GroupOwned(f"{held.record.output}: another run has its undo", key=held.key)
        output, hint = held.record.output, _BRING_BACK.format(key=held.key)
        message = f"{output}: while it was given back it became {standing.value}"
        code = "OutputLost" if standing is Standing.LOST else ""
        return IntegrityError(message, key=output, code=code, hint=hint)

    def _check_deleted(self, result: DeleteResult) -> None:
        """Raises AccessDenied for a delete that was refused, IntegrityError for an output that
        others have replaced since it was proven.
        """
        match result.deleted:
            case Deleted.REFUSED:
                message = f"{result.key}: given back, but its deletion was refused: "
                raise AccessDenied(
                    message + result.message, key=result.key, code=result.code, hint=_GRANT
                )
            case Deleted.CHANGED:
                message = f"{result.key}: given back, and replaced by others at the same time"
                raise IntegrityError(message, key=result.key, hint=_COMPARE)
