"""An undo record is believed only where every byte of it makes sense."""

import json
import zlib

import pytest

from coalesce.errors import Conflict, IntegrityError, RecordDamaged
from coalesce.model import GroupId, Source
from coalesce.naming.layouts import LAYOUTS
from coalesce.naming.sources import Sources
from coalesce.protocol.held import HeldRecord
from coalesce.protocol.ledger import EntryHeader
from coalesce.protocol.names import SourcesThere
from coalesce.protocol.record import UNDO_MARK
from coalesce.protocol.returned import Returned, prove_returned
from coalesce.protocol.undo_record import (
    HeldUndo,
    Phase,
    Standing,
    UndoRecord,
    decode,
    encode,
    judge,
)
from coalesce.storage.base import Head
from coalesce.storage.memory import MemoryBucket, MemoryStore

KEY = "_coalesce/groups/data/t_0"
OUTPUT = "data/t_0_0_9.jsonl.gz"


def record(**more: object) -> UndoRecord:
    said = {
        "run_id": "r",
        "layout": "corporate",
        "directory": "data/",
        "topic": "t",
        "partition": 0,
        "output": OUTPUT,
        "upload_id": "u",
        "etag": '"e"',
        "size": 5,
        "began": 7.0,
        "uploads": (("data/t_0_0-4.jsonl.gz", "x"),),
    }
    return UndoRecord.model_validate(said | more)


def test_it_says_what_was_written() -> None:
    for phase in Phase:
        written = record(phase=phase)
        assert decode(encode(written), KEY, "_coalesce/") == written
    assert record().group == GroupId("data/", "t", 0)


def spoilt() -> dict[str, bytes]:
    said = json.loads(record().model_dump_json())
    made = {
        "cut": encode(record())[:-3],
        "lengthened": encode(record()) + b"x",
        "of nothing": UNDO_MARK,
        "endless": UNDO_MARK + zlib.compress(b" " * (8 * 1024**2)),
    }
    changed = {
        "another schema": {"schema_version": 99},
        "a field more": {"more": 1},
        "a layout that is not known": {"layout": "x"},
        "another group": {"topic": "u"},
        "an output of another group": {"output": "data/u_0_0_9.jsonl.gz"},
        "a source as the output": {"output": "data/t_0_0-9.jsonl.gz"},
        "an upload of another group": {"uploads": [["data/u_0_0-4.jsonl.gz", "x"]]},
        "an upload to an output": {"uploads": [[OUTPUT, "x"]]},
        "an upload without an id": {"uploads": [["data/t_0_0-4.jsonl.gz", ""]]},
        "an empty ETag": {"etag": ""},
    }
    for name, change in changed.items():
        made[name] = UNDO_MARK + zlib.compress(json.dumps(said | change).encode())
    return made


@pytest.mark.parametrize("how", spoilt())
def test_anything_else_is_refused(how: str) -> None:
    with pytest.raises(RecordDamaged) as refused:
        decode(spoilt()[how], KEY, "_coalesce/")
    assert refused.value.key == KEY
    assert "move the record away" in refused.value.hint


def head(etag: str = '"e"', size: int = 5) -> Head:
    return Head(OUTPUT, size, etag, {})


@pytest.mark.parametrize("phase", Phase)
def test_what_stands_where_the_output_stood(phase: Phase) -> None:
    deleted = phase is Phase.DELETING
    said = record(phase=phase)
    assert judge(said, head()) is Standing.THERE
    assert judge(said, None) is (Standing.DELETED if deleted else Standing.LOST)
    for other in (head(etag='"f"'), head(size=6)):
        assert judge(said, other) is (Standing.DELETED if deleted else Standing.REPLACED)


async def test_it_is_no_plan_record_and_is_replaced_only_as_it_was_written() -> None:
    store = MemoryStore(MemoryBucket())
    mine = await HeldUndo.create(store, "_coalesce/", record())
    assert await HeldRecord.read(store, "_coalesce/", KEY) is None
    theirs = HeldUndo(store, "_coalesce/", record(), '"another"')
    assert not await theirs.rewrite(record(run_id="theirs"))
    assert await mine.rewrite(record(run_id="mine"))
    assert await mine.stands()


LISTED = Source("data/t_0_0-9.jsonl.gz", 3, '"s"', 0.0, "STANDARD", 0, 9)


def header_of(sources: int) -> EntryHeader:
    return EntryHeader.model_construct(sources=sources)


def test_all_sources_are_looked_at_before_an_output_goes() -> None:
    there = SourcesThere(LAYOUTS["corporate"], Sources.of("data/t_0_", [LISTED]), 0.0)
    assert prove_returned(header_of(1), [LISTED], there, head(), head()).output == OUTPUT
    with pytest.raises(IntegrityError, match="1 of its sources were not looked at"):
        prove_returned(header_of(2), [LISTED], there, head(), head())


@pytest.mark.parametrize("now", [None, Head(OUTPUT, 6, '"e"', {}), Head(OUTPUT, 5, '"f"', {})])
def test_an_output_that_is_not_what_it_was_is_not_proven(now: Head | None) -> None:
    there = SourcesThere(LAYOUTS["corporate"], Sources.of("data/t_0_", [LISTED]), 0.0)
    with pytest.raises(IntegrityError, match=OUTPUT):
        prove_returned(header_of(1), [LISTED], there, head(), now)


@pytest.mark.parametrize("found", [None, LISTED._replace(etag='"t"'), LISTED._replace(size=4)])
def test_a_source_that_is_not_what_was_proven_proves_nothing(found: Source | None) -> None:
    listed = Sources.of("data/t_0_", [found] if found else [])
    there = SourcesThere(LAYOUTS["corporate"], listed, 0.0)
    with pytest.raises(Conflict, match=LISTED.key):
        prove_returned(header_of(1), [LISTED], there, head(), head())


def test_only_seeing_all_sources_proves_that_they_are_there() -> None:
    with pytest.raises(TypeError):
        Returned(head(), object())
