"""A plan record is read little by little: the same comes out, wherever its bytes are cut."""

import json
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coalesce.errors import BadRequest, RecordDamaged
from coalesce.model import Batch, GroupId, Source
from coalesce.planning.batches import digest
from coalesce.protocol import record
from coalesce.protocol.json_text import JsonText, Step
from coalesce.protocol.record import PlanRecord, RecordedBatch, encode
from coalesce.protocol.record_reader import RecordReader, decode

GROUP = GroupId("data/ü/", "db.core.topic", 3)
KEY = f"_coalesce/groups/{GROUP}"
OFFSETS = st.integers(0, 2**63 - 1)
ETAGS = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda data: f'"{data.hex()}"'),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40),
)


@st.composite
def sources(draw: st.DrawFn) -> Source:
    first, last = draw(OFFSETS), draw(OFFSETS)
    zeros = draw(st.sampled_from(["", "0"]))
    key = f"{GROUP.prefix}{zeros}{first}-{zeros}{last}.jsonl.gz"
    return Source(key, draw(OFFSETS), draw(ETAGS), 0.0, "STANDARD", first, last)


@st.composite
def records(draw: st.DrawFn) -> PlanRecord:
    rows = draw(st.lists(sources(), min_size=1, max_size=12, unique_by=lambda row: row.key))
    cuts = sorted(draw(st.sets(st.integers(1, len(rows) - 1)))) if len(rows) > 1 else []
    batches: list[RecordedBatch] = []
    for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        held = tuple(rows[begin:end])
        plan = digest(held, single=draw(st.booleans()))
        output = f"{GROUP.prefix}{number}_{number}.jsonl.gz"
        batch = Batch(output, held, sum(row.size for row in held), plan)
        batches.append(RecordedBatch(batch, draw(ETAGS), draw(st.booleans())))
    return PlanRecord(draw(st.text(max_size=9)), "corporate", GROUP, tuple(batches))


def unpacked(read: PlanRecord) -> PlanRecord:
    """The same with its sources as a tuple, which can be compared."""
    return PlanRecord(
        read.run_id,
        read.layout,
        read.group,
        tuple(
            RecordedBatch(
                Batch(entry.batch.output, tuple(entry.batch.sources), *rest(entry.batch)),
                entry.upload_id,
                entry.doubted,
                entry.may_lack_entry,
            )
            for entry in read.batches
        ),
    )


def rest(batch: Batch) -> tuple[int, str]:
    return batch.size, batch.digest


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    for begin, end in zip([0, *ends], [*ends, len(data)], strict=True):
        yield data[begin:end]


@given(records(), st.lists(st.integers(0, 10_000), max_size=8))
def test_what_was_written_is_read_back_wherever_it_is_cut(
    plan: PlanRecord, places: list[int]
) -> None:
    reader = RecordReader(KEY, "_coalesce/")
    for piece in cut(encode(plan), places):
        reader.feed(piece)
    assert unpacked(reader.finish()) == plan


@given(records(), st.data())
def test_damage_at_any_byte_is_noticed(plan: PlanRecord, data: st.DataObject) -> None:
    body = bytearray(encode(plan))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RecordDamaged):
        decode(bytes(body), KEY, "_coalesce/")


@given(records(), st.data())
def test_a_record_that_ends_too_early_is_noticed(plan: PlanRecord, data: st.DataObject) -> None:
    body = encode(plan)
    with pytest.raises(RecordDamaged):
        decode(body[: data.draw(st.integers(0, len(body) - 1))], KEY, "_coalesce/")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(1e300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)


def read_all(text: JsonText) -> Step[object]:
    yield from text.open("{")
    found: dict[str, object] = {}
    while (name := (yield from text.name())) is not None:
        items: list[object] = []
        yield from text.open("[")
        while (yield from text.goes_on("]")):
            items.append((yield from text.value()))
        found[name] = items
    yield from text.end()
    return found


def fed(pieces: list[str]) -> object:
    text = JsonText()
    reading = read_all(text)
    for number, piece in enumerate(pieces):
        text.add(piece, last=number == len(pieces) - 1)
        try:
            next(reading)
        except StopIteration as end:
            return end.value
    raise AssertionError("it waits for more after the last")


SHAPES = st.dictionaries(st.text(max_size=3), st.lists(VALUES, max_size=4), max_size=4)


@given(SHAPES, st.sampled_from([None, 1]), st.lists(st.integers(0, 999), max_size=6))
@example({"a": [1, 12345]}, None, [8, 12])
@example({"": [1e300]}, None, [7])
def test_json_that_comes_in_pieces_is_what_it_is_in_one(
    value: dict[str, list[object]], indent: int | None, places: list[int]
) -> None:
    text = json.dumps(value, indent=indent)
    ends = sorted(place % (len(text) + 1) for place in places)
    pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert fed(pieces) == value


@given(SHAPES.map(json.dumps), st.data())
def test_what_is_no_json_is_refused(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.text('[]{},:" 1x\\', max_size=2)) + text[at + 1 :]
    try:
        expected: object = json.loads(changed, object_pairs_hook=list)
    except ValueError:
        with pytest.raises(ValueError):
            fed([changed])
        return
    try:
        found = fed([changed])
    except ValueError:
        return  # JSON of another shape
    assert isinstance(found, dict)
    assert found == json.loads(changed)
    assert isinstance(expected, list)


def test_a_record_of_more_sources_than_are_read_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        Source(f"{GROUP.prefix}{n}-{n}.jsonl.gz", 1, '"e"', 0.0, "STANDARD", n, n) for n in range(3)
    ]
    batch = Batch(f"{GROUP.prefix}0_2.jsonl.gz", rows, 3, digest(rows))
    plan = PlanRecord("r", "corporate", GROUP, (RecordedBatch(batch, "u"),))
    monkeypatch.setattr(record, "MOST_SOURCES", 3)
    encode(plan)
    monkeypatch.setattr(record, "MOST_SOURCES", 2)
    with pytest.raises(BadRequest, match="3 sources"):
        encode(plan)


@pytest.mark.parametrize(
    "text",
    [
        b" " * 20_000_000,
        b'{"run_id": "' + b"a" * 20_000_000,
        b"[" * 20_000_000,
        b"{" + b",".join(b'"%d":1' % n for n in range(300_000)),
    ],
    ids=["white space", "a long text", "brackets", "many fields"],
)
def test_a_few_bytes_that_would_fill_the_memory_do_not(text: bytes) -> None:
    body = zlib.compress(text, 1)
    del text
    tracemalloc.start()
    with pytest.raises(RecordDamaged):
        decode(body, KEY, "_coalesce/")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000


def test_a_hundred_bytes_a_source_are_enough_to_read_a_record() -> None:
    count = 20_000
    rows = [
        Source(
            f"{GROUP.prefix}{n * 500}-{n * 500 + 499}.jsonl.gz",
            70_000 + n,
            f'"{digest([], single=bool(n % 2))[:24]}{n:08x}"',
            0.0,
            "STANDARD",
            n * 500,
            n * 500 + 499,
        )
        for n in range(count)
    ]
    batch = Batch(f"{GROUP.prefix}0_1.jsonl.gz", rows, 0, digest(rows))
    body = encode(PlanRecord("r", "corporate", GROUP, (RecordedBatch(batch, "u"),)))
    tracemalloc.start()
    read = decode(body, KEY, "_coalesce/")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read.batches[0].batch.sources) == count
    assert peak < 100 * count + 1_500_000
