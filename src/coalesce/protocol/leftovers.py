"""Sources that are there still, although the output that they were joined into is there too: the
next run that deletes takes them away before it plans anything.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from coalesce.errors import CoalesceError, RecordDamaged, StorageError
from coalesce.model import Group, GroupId
from coalesce.naming.layouts import Layout
from coalesce.naming.sources import Places, Sources, SourcesBuilder
from coalesce.protocol.held import HeldRecord, find_record
from coalesce.protocol.record import PlanRecord
from coalesce.protocol.undo_record import HeldUndo, unfinished
from coalesce.storage.base import ObjectStore


async def read_records(
    store: ObjectStore,
    state: str,
    keys: Iterable[str],
    known: Mapping[str, Layout],
    on_failure: Callable[[CoalesceError], None],
) -> dict[GroupId, PlanRecord]:
    """The plan records at these keys, of the layouts that are `known`; of each that cannot be read
    `on_failure` is told, and of each undo that is not finished.
    """
    records: dict[GroupId, PlanRecord] = {}
    for key in keys:
        try:
            stored = await find_record(store, key)
            if stored is not None and stored.is_undo:
                on_failure(unfinished(HeldUndo.of(store, state, stored).record))
                continue
            held = None if stored is None else await HeldRecord.of(store, state, stored, known)
        except (RecordDamaged, StorageError) as error:
            on_failure(error)
            continue
        if held is not None:
            records[held.record.group] = held.record
    return records


def without_leftovers(group: Group, record: PlanRecord) -> tuple[Group, Sources]:
    """The group as the next run plans it, and the sources that this run deletes before."""
    outputs = group.output_keys
    joined = SourcesBuilder(group.id.prefix)
    for entry in record.batches:
        if entry.batch.output in outputs and not entry.doubted:
            for source in entry.batch.sources:
                joined.add(source)
    sources, places = Sources.of(group.id.prefix, group.sources), Places(joined.added(0))
    stay, gone = array("I"), array("I")
    for place, source in enumerate(sources):
        found = places.find(source.first, source.key)
        (stay if found is None else gone).append(place)
    return replace(group, sources=sources.take(stay)), sources.take(gone)
