"""What an earlier run left unfinished, finished or undone before anything new (commit protocol, step 2)."""

from __future__ import annotations

from coalesce.commit import Committed, Terms, delete_sources, recognise
from coalesce.errors import CoalesceError, GroupOwned, IntegrityError
from coalesce.lease import dead
from coalesce.model import Batch, Why
from coalesce.record import HeldRecord
from coalesce.rounds import GroupOutcome, delivery
from coalesce.storage.base import ObjectStore


async def unfinished(store: ObjectStore, state: str, prefixes: tuple[str, ...]) -> list[str]:
    """Keys of the plan records of groups under the prefixes: one request where nothing is unfinished."""
    root = f"{state}groups/"
    keys: list[str] = []
    token = None
    while True:
        page = await store.list_page(root, token=token)
        keys += [entry.key for entry in page.objects if entry.key[len(root) :].startswith(prefixes)]
        token = page.token
        if token is None:
            return keys


async def recover(terms: Terms, key: str, *, wait: bool) -> GroupOutcome:
    """Settles the record at `key`: outputs that are there lose their sources, the rest is made impossible, and the record goes.

    Raises GroupOwned while the record's run is alive (with `wait`, found out by watching its lease), LeaseLost.
    """
    outcome = GroupOutcome()
    try:
        held = await HeldRecord.read(terms.store, terms.state, key)
        if held is None or held.record.layout != terms.layout.name:
            return outcome
        if not await dead(terms.store, terms.state, held.record.run_id, wait=wait):
            raise GroupOwned(f"{held.record.group}: run {held.record.run_id} works on it", key=key)
        await _settle(terms, held, outcome)
    except GroupOwned:
        raise
    except CoalesceError as error:
        outcome.failures.append(error)
    return outcome


async def _settle(terms: Terms, held: HeldRecord, outcome: GroupOutcome) -> None:
    settled = True
    for entry in held.record.batches:
        batch = entry.batch()
        try:
            committed = await _committed(terms, batch, entry.upload_id)
        except IntegrityError as error:
            outcome.failures.append(error)
            continue
        if committed is None:
            continue
        if not terms.delete:
            settled = False
            continue
        deleted, left = await delete_sources(terms, committed)
        outcome.left += left
        settled &= not any(entry.why is Why.DELETE_REFUSED for entry in left)
        outcome.deliveries.append(delivery(committed, deleted, left, records=None, recovered=True))
    if settled:
        await held.remove(conditional=terms.capabilities.conditional_delete)


async def _committed(terms: Terms, batch: Batch, upload_id: str) -> Committed | None:
    """The proof of a batch, or None once nothing of it can appear any more.

    The abort is the fence; the second look is for a Complete that won the race against it.
    """
    committed = await recognise(terms, batch)
    if committed is not None:
        return committed
    await terms.store.abort_upload(batch.output, upload_id)
    return await recognise(terms, batch)
