"""What ended runs left outside of any plan record, removed: uploads, probe objects, leases."""

from __future__ import annotations

from collections.abc import Sequence

from coalesce.protocol.lease import Rival
from coalesce.protocol.probe import open_uploads
from coalesce.protocol.session import Session
from coalesce.protocol.state import lease_key, probe_prefix
from coalesce.protocol.survey import Ground, survey


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
