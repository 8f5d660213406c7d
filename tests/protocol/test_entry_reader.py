"""What stands in a ledger entry is read line by line, and believed only where all of it makes
sense: whatever is cut, changed or another's is refused, and nothing is made of it.
"""

import asyncio
import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import PreconditionFailed, RecordDamaged
from coalesce.protocol import entry_reader
from coalesce.protocol.entry_reader import (
    Entry,
    SourceLine,
    describes,
    entries_of,
    entries_under,
    open_entry,
)
from coalesce.protocol.state import entry_key, output_of_entry
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.nights import GROUP, night, one_group, output_of
from support.scenarios import corporate, is_entry, manifests

STATE = "_coalesce/"
OUTPUT = output_of(20)


async def joined() -> MemoryBucket:
    bucket = one_group(20)
    assert (await night(bucket)).exit_code == 0
    return bucket


@cache
def whole() -> tuple[MemoryBucket, list[SourceLine]]:
    """A bucket after its run, and what its entry says."""
    bucket = asyncio.run(joined())
    return bucket, asyncio.run(lines_of(MemoryStore(bucket)))


def the_entry(bucket: MemoryBucket) -> str:
    (key,) = (key for key in bucket.objects if is_entry(key))
    return key


async def opened(store: MemoryStore, output: str = OUTPUT) -> Entry:
    (found,) = await entries_of(store, STATE, output)
    return await open_entry(store, STATE, found)


async def lines_of(store: MemoryStore, output: str = OUTPUT) -> list[SourceLine]:
    return [line async for line in (await opened(store, output)).sources()]


def raw(bucket: MemoryBucket, key: str) -> tuple[dict[str, Any], list[list[Any]]]:
    header, *rows = map(json.loads, gzip.decompress(bucket.objects[key].data).splitlines())
    return header, rows


def encoded(header: object, rows: list[Any]) -> bytes:
    return gzip.compress(b"".join(json.dumps(each).encode() + b"\n" for each in (header, *rows)))


# --- found and read


@pytest.mark.parametrize(
    ("fill", "more"),
    [
        (corporate, {}),
        (corporate, {"gzip": "members"}),
        (corporate, {"check": False}),
        (manifests, {"layout": "manifest"}),
    ],
)
async def test_a_reader_sees_what_stands_in_the_entry(
    fill: Callable[[MemoryBucket], None], more: dict[str, Any]
) -> None:
    bucket = MemoryBucket()
    fill(bucket)
    await night(bucket, **more)
    store, seen = MemoryStore(bucket), 0
    async for found in entries_under(store, STATE, "data/"):
        header, rows = raw(bucket, found.key)
        entry = await open_entry(store, STATE, found)
        assert entry.header.model_dump(mode="json") == header
        lines = [line async for line in entry.sources()]
        assert [list(line[:9]) for line in lines] == rows
        assert {line.differing for line in lines} == {None}
        held = await store.head(found.output)
        assert held is not None
        assert describes(entry.header, held)
        seen += 1
    assert seen == len([key for key in bucket.objects if is_entry(key)]) > 0


async def test_what_a_source_says_otherwise_is_in_its_line() -> None:
    bucket = one_group(3)
    key = f"{GROUP}_10-19.jsonl.gz"
    with bucket.audit.others():
        bucket.store(key, bucket.objects[key].data, {"team": "b"}, "text/plain")
    await night(bucket)
    lines = await lines_of(MemoryStore(bucket), output_of(3))
    differing = {"content-type": "text/plain", "x-amz-meta-team": "b"}
    assert [line.differing for line in lines] == [None, differing, None]


async def test_a_short_entry_takes_one_listing_and_one_request() -> None:
    store, asked = MemoryStore(await joined()), list[str]()

    async def before(request: Request) -> None:
        asked.append(request.operation)

    store.before = before
    assert len(await lines_of(store)) == 20
    assert asked == ["ListObjectsV2", "GetObject"]


async def test_a_long_entry_is_read_in_ranges_of_one_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = await joined()
    whole = await lines_of(MemoryStore(bucket))
    monkeypatch.setattr(entry_reader, "PART_BYTES", 100)
    ranges: list[int] = []

    class Watching(MemoryStore):
        async def get(self, key: str, **asked: Any) -> Any:
            ranges.append(asked["length"])
            return await super().get(key, **asked)

    store = Watching(bucket)
    (found,) = await entries_of(store, STATE, OUTPUT)
    begin = found.size - 350
    entry = await open_entry(store, STATE, found, most=begin)
    assert [line async for line in entry.sources()] == whole
    assert ranges == [begin, 100, 100, 100, 50]
    stored = bucket.objects[found.key]
    bucket.store(found.key, stored.data + b"more", stored.metadata)
    with pytest.raises(PreconditionFailed):
        [line async for line in entry.sources()]


async def test_the_lines_can_be_read_again() -> None:
    entry = await opened(MemoryStore(await joined()))
    first = [line async for line in entry.sources()]
    assert [line async for line in entry.sources()] == first


async def test_only_entries_of_the_output_are_found() -> None:
    bucket = await joined()
    key, data = the_entry(bucket), bucket.objects[the_entry(bucket)].data
    for other in (
        f"{STATE}ledger/{OUTPUT}",
        f"{STATE}ledger/{OUTPUT}.note",
        f"{STATE}ledger/{OUTPUT}.0123456789abcde.jsonl.gz",
        f"{STATE}ledger/{OUTPUT}.x.0123456789abcdef.jsonl.gz",
    ):
        bucket.store(other, data)
    store = MemoryStore(bucket)
    assert [found.key for found in await entries_of(store, STATE, OUTPUT)] == [key]
    under = [found.output async for found in entries_under(store, STATE, GROUP)]
    assert sorted(under) == [OUTPUT, f"{OUTPUT}.x"]


@given(st.text(min_size=1), st.text())
def test_the_key_of_an_entry_leads_back_to_its_output(output: str, upload_id: str) -> None:
    upload_id = upload_id.encode(errors="ignore").decode()
    assert output_of_entry(STATE, entry_key(STATE, output, upload_id)) == output


def test_no_other_key_is_taken_for_an_entry() -> None:
    for key in ("data/x.0123456789abcdef.jsonl.gz", f"{STATE}ledger/.0123456789abcdef.jsonl.gz"):
        assert output_of_entry(STATE, key) == ""


# --- what is not believed

Change = Callable[[dict[str, Any], list[Any]], object]

CONTRADICTIONS: dict[str, Change] = {
    "another upload": lambda header, _: header.update(upload_id="other"),
    "another output": lambda header, _: header.update(output="data/t_0_0_1.jsonl.gz"),
    "no upload": lambda header, _: header.pop("upload_id"),
    "a line is missing": lambda _, rows: rows.pop(),
    "a line too many": lambda _, rows: rows.append([*rows[-1][:5], 0, 0, 0, 0]),
    "two lines swapped": lambda _, rows: rows.insert(0, rows.pop(1)),
    "another key": lambda _, rows: rows[3].__setitem__(0, "data/db.core.topic_0_1-2.jsonl.gz"),
    "another ETag": lambda _, rows: rows[3].__setitem__(1, '"0"'),
    "another size": lambda _, rows: rows[3].__setitem__(2, 1),
    "other records": lambda _, rows: rows[3].__setitem__(4, 7),
    "other records in the header": lambda header, _: header.update(records=1),
    "a gap between places": lambda _, rows: rows[3].__setitem__(5, 10**6),
    "places that overlap": lambda _, rows: rows[3].__setitem__(6, 1),
    "a negative length": lambda _, rows: rows[3].__setitem__(6, -1),
    "a number as text": lambda _, rows: rows[3].__setitem__(2, str(rows[3][2])),
    "an empty key": lambda _, rows: rows[3].__setitem__(0, ""),
    "an ETag with a line break": lambda _, rows: rows[3].__setitem__(1, '"a"\r\nx: y'),
    "a digest of 65 bits": lambda _, rows: rows[3].__setitem__(7, 2**64),
    "a line that is no list": lambda _, rows: rows.__setitem__(3, {"key": "x"}),
    "a short line": lambda _, rows: rows[3].pop(),
    "attributes that are none": lambda _, rows: rows[3].append([1]),
    "another digest": lambda header, _: header.update(digest="0" * 64),
}


@pytest.mark.parametrize("how", CONTRADICTIONS)
async def test_an_entry_that_contradicts_itself_is_refused(how: str) -> None:
    bucket = await joined()
    key = the_entry(bucket)
    header, rows = raw(bucket, key)
    CONTRADICTIONS[how](header, rows)
    bucket.store(key, encoded(header, rows))
    with pytest.raises(RecordDamaged) as refused:
        await lines_of(MemoryStore(bucket))
    assert refused.value.key == key
    assert key in refused.value.message
    assert "Nothing was changed" in refused.value.hint


async def test_places_that_end_elsewhere_than_the_output_are_refused() -> None:
    bucket = one_group(20)
    await night(bucket, gzip="members")
    key = the_entry(bucket)
    header, rows = raw(bucket, key)
    bucket.store(key, encoded(header | {"size": header["size"] + 1}, rows))
    with pytest.raises(RecordDamaged, match="another length"):
        await lines_of(MemoryStore(bucket))


async def test_an_entry_of_a_later_schema_names_the_way_out() -> None:
    bucket = await joined()
    key = the_entry(bucket)
    header, rows = raw(bucket, key)
    bucket.store(key, encoded(header | {"schema_version": 2}, rows))
    with pytest.raises(RecordDamaged, match="another schema") as refused:
        await opened(MemoryStore(bucket))
    assert "use that version" in refused.value.hint


async def test_what_a_later_version_adds_is_passed_over() -> None:
    bucket = await joined()
    before = await lines_of(MemoryStore(bucket))
    key = the_entry(bucket)
    header, rows = raw(bucket, key)
    bucket.store(key, encoded(header | {"more": [1]}, [[*row, None, "more"] for row in rows]))
    assert await lines_of(MemoryStore(bucket)) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        gzip.decompress,
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"x",
        lambda data: data + data,
        lambda _: gzip.compress(b"x" * 10**7),
        lambda data: gzip.compress(gzip.decompress(data)[:-1]),
    ],
    ids=["empty", "no gzip", "cut", "half", "a byte more", "twice", "one line", "no last newline"],
)
async def test_bytes_that_are_no_entry_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    bucket = await joined()
    key = the_entry(bucket)
    bucket.store(key, spoil(bucket.objects[key].data))
    with pytest.raises(RecordDamaged):
        await lines_of(MemoryStore(bucket))


@given(st.integers(0), st.integers(1, 255))
def test_no_damage_makes_an_entry_say_something_else(at: int, flip: int) -> None:
    """Whatever byte is changed: it is refused, or says the same (gzip's own header may change)."""
    bucket, before = whole()
    key = the_entry(bucket)
    body = bytearray(bucket.objects[key].data)
    body[at % len(body)] ^= flip
    other = MemoryBucket()
    other.store(key, bytes(body))
    with suppress(RecordDamaged):
        assert asyncio.run(lines_of(MemoryStore(other))) == before


async def test_an_entry_is_not_about_an_object_of_another_plan_size_or_sum() -> None:
    bucket = await joined()
    store = MemoryStore(bucket)
    header, stored = (await opened(store)).header, bucket.objects[OUTPUT]

    async def about(
        data: bytes, metadata: dict[str, str], checksum: dict[str, str] | None = None
    ) -> bool:
        bucket.store(OUTPUT, data, metadata, checksum=checksum)
        held = await store.head(OUTPUT)
        assert held is not None
        return describes(header, held)

    metadata = dict(stored.metadata)
    assert await about(stored.data, metadata)
    assert await about(stored.data, metadata, dict(stored.checksum))
    assert not await about(stored.data, metadata, {"CRC64NVME": "AAAAAAAAAAA="})
    assert not await about(stored.data + b"x", metadata)
    assert not await about(stored.data, metadata | {"coalesce-plan": "0" * 64})
    assert not await about(stored.data, {})
