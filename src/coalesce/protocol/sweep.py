"""What ended runs left outside of any plan record, removed: uploads, probe objects, leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coalesce.naming.layouts import Layout
from coalesce.protocol.lease import Rival
from coalesce.protocol.session import Session
from coalesce.protocol.state import lease_key, probe_prefix
from coalesce.protocol.survey import Ground, overlap, survey
from coalesce.protocol.trial import open_uploads
from coalesce.storage.base import OpenUpload


async def sweep(session: Session, ground: Ground, dead: Sequence[Rival]) -> None:
    """Removes what ended runs left outside of any record: uploads they had begun, probe objects,
    and at last their leases.

    An upload is aborted only if one of these runs can have begun it: by its key, and by when it was
    begun. A run writes its lease before it begins an upload. So uploads that were open before a
    look at the leases are nobody's if that look shows no other run that works there; if it does
    show one, everything stays for a later run. So does what a run left whose layout this one does
    not know. Raises StorageError.
    """
    known = session.rules.known
    swept = [rival for rival in dead if ground.holds(rival) and _is_known(rival, known)]
    if not swept:
        return
    uploads = await _find_uploads(session, swept)
    if uploads and await _others_work_there(session, ground, swept, dead):
        return
    for upload in uploads:
        await session.store.abort_upload(upload.key, upload.upload_id)
    for rival in swept:
        await _remove_traces(session, rival)


async def sweep_own(session: Session, ground: Ground, own: Rival) -> bool:
    """Removes what this run itself left outside of any record, at its end.

    Only after a run whose records are all settled. Returns False, and leaves everything for a later
    run, if another run works where this one does. Raises StorageError.
    """
    uploads = await _find_uploads(session, [own])
    if uploads and await _others_work_there(session, ground, [own], ()):
        return False
    for upload in uploads:
        await session.store.abort_upload(upload.key, upload.upload_id)
    await _remove_probe(session, own.record.run_id)
    return True


async def _find_uploads(session: Session, swept: Sequence[Rival]) -> list[OpenUpload]:
    prefixes = sorted({prefix for rival in swept for prefix in rival.record.prefixes})
    found: dict[str, OpenUpload] = {}
    for prefix in prefixes:
        for upload in await open_uploads(session.store, prefix):
            if any(_can_have_begun(rival, upload, session.rules.known) for rival in swept):
                found[upload.upload_id] = upload
    return list(found.values())


def _is_known(rival: Rival, known: Mapping[str, Layout]) -> bool:
    """Whether it can be told what a run can have begun. One without a layout only probed."""
    return not rival.record.layout or rival.record.layout in known


def _can_have_begun(rival: Rival, upload: OpenUpload, known: Mapping[str, Layout]) -> bool:
    """Whether an ended run can have begun an upload: of an output in its scope, in its time."""
    layout, share = known.get(rival.record.layout), rival.record.share
    parsed = layout.parse(upload.key) if layout else None
    return (
        layout is not None
        and parsed is not None
        and parsed.kind == "output"
        and upload.key.startswith(rival.record.prefixes)
        and (bool(share.plan) or share.may_own(upload.key, layout.share_of))
        and rival.can_have_begun(upload)
    )


async def _others_work_there(
    session: Session, ground: Ground, swept: Sequence[Rival], dead: Sequence[Rival]
) -> bool:
    """Whether a run works where the swept ones did that is neither this one nor one of the `dead`,
    as they were seen to be.
    """
    known = {(rival.key, rival.etag) for rival in dead}
    own = lease_key(session.rules.state, session.rules.run_id)
    found = await survey(session.store, session.rules.state, ground)
    others = [
        rival for rival in found.rivals if rival.key != own and (rival.key, rival.etag) not in known
    ]
    return any(_may_share(rival, other) for rival in swept for other in others)


def _may_share(one: Rival, other: Rival) -> bool:
    """Whether some group may be both runs'."""
    return overlap(one.record.prefixes, other.record.prefixes) and one.record.meets(
        other.record.layout, other.record.share
    )


async def _remove_traces(session: Session, rival: Rival) -> None:
    """A run's probe objects, and its lease."""
    await _remove_probe(session, rival.record.run_id)
    conditional = session.rules.capabilities.conditional_delete
    await session.store.delete(rival.key, etag=rival.etag if conditional else "")


async def _remove_probe(session: Session, run_id: str) -> None:
    prefix = probe_prefix(session.rules.state, run_id)
    for upload in await open_uploads(session.store, prefix):
        await session.store.abort_upload(upload.key, upload.upload_id)
    for entry in (await session.store.list_page(prefix)).objects:
        await session.store.delete(entry.key)
