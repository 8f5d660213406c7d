"""`verify` proves outputs by HEAD, and with --deep by their bytes; whatever is wrong with one is
found, and exits with 4.
"""

import dataclasses
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from coalesce import errors
from coalesce.inspect.verify import Extent, Verification, verify
from coalesce.protocol.state import output_of_entry
from coalesce.run.pipeline import Run
from coalesce.storage.base import Body
from coalesce.storage.checksums import crc64, encode
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request, StoredObject
from coalesce.storage.s3 import S3Store
from support.buckets import contents, data_in, fill, filled
from support.command import coalesce, job
from support.nights import dead_run, one_group
from support.scenarios import is_entry, manifests
from support.settings import settings

KEY = "data/t_1_0_3.jsonl.gz"


async def bucket_of_outputs(groups: int = 3) -> MemoryBucket:
    bucket = filled(groups)
    await Run(MemoryStore(bucket), settings()).coalesce()
    return bucket


def outputs_of(bucket: MemoryBucket) -> dict[str, bytes]:
    return data_in(contents(bucket))


def entries_in(bucket: MemoryBucket) -> dict[str, str]:
    """The key of each output's entry."""
    found = (key for key in bucket.objects if is_entry(key))
    return {output_of_entry("_coalesce/", key): key for key in found}


def forget(bucket: MemoryBucket) -> None:
    """Somebody removes the ledger."""
    for key in entries_in(bucket).values():
        bucket.remove(key)


def rewrite(bucket: MemoryBucket, output: str, change: Callable[[list[Any]], object]) -> None:
    """Changes lines of an output's entry: the header first, then one for each source."""
    key = entries_in(bucket)[output]
    lines = [json.loads(line) for line in gzip.decompress(bucket.objects[key].data).splitlines()]
    change(lines)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    bucket.store(key, gzip.compress(text.encode()))


async def verify_unchanged(bucket: MemoryBucket, *, deep: bool, **more: object) -> Verification:
    before = dict(bucket.objects)
    result = await verify(MemoryStore(bucket), settings(**more), deep=deep)
    assert bucket.objects == before
    return result


@pytest.mark.parametrize("deep", [False, True])
async def test_outputs_of_a_run_are_proven(deep: bool) -> None:
    bucket = await bucket_of_outputs()
    result = await verify_unchanged(bucket, deep=deep)
    assert (result.outputs, result.proven, result.failed, result.unsummed, result.exit_code) == (
        3,
        3,
        0,
        0,
        0,
    )
    assert (result.sources, result.records) == (12, 12 if deep else None)
    assert result.bytes == sum(len(data) for data in outputs_of(bucket).values())


def with_data(stored: StoredObject, data: bytes, *, summed: bool = True) -> StoredObject:
    """The object with other bytes, and the sum that the store would show for them, or none."""
    return dataclasses.replace(
        stored, data=data, checksum={"CRC64NVME": encode(crc64([data]))} if summed else {}
    )


Harm = Callable[[StoredObject], StoredObject]


@pytest.mark.parametrize(
    ("code", "harm", "shallow"),
    [
        ("NoPlanDigest", lambda stored: dataclasses.replace(stored, metadata={}), True),
        (
            "NoPlanDigest",
            lambda stored: dataclasses.replace(
                stored, metadata={**stored.metadata, "coalesce-sources": "0"}
            ),
            True,
        ),
        (
            "ChecksumMismatch",
            lambda stored: dataclasses.replace(stored, data=gzip.compress(b"other\n", mtime=0)),
            False,
        ),
        ("TruncatedGzip", lambda stored: with_data(stored, stored.data[:-1]), False),
        (
            "CorruptGzip",
            lambda stored: with_data(
                stored, stored.data[:-6] + bytes([stored.data[-6] ^ 1]) + stored.data[-5:]
            ),
            False,
        ),
        (
            "NoLastNewline",
            lambda stored: with_data(stored, stored.data + gzip.compress(b"no end", mtime=0)),
            False,
        ),
    ],
)
async def test_what_is_wrong_with_an_output_is_found(code: str, harm: Harm, shallow: bool) -> None:
    """By itself alone: nobody kept the ledger."""
    bucket = await bucket_of_outputs()
    forget(bucket)
    bucket.objects[KEY] = harm(bucket.objects[KEY])
    for deep in (False, True):
        result = await verify_unchanged(bucket, deep=deep)
        if deep or shallow:
            assert (result.exit_code, result.failed, result.proven) == (4, 1, 2)
            (failure,) = result.failures
            assert (failure.code, failure.key) == (code, KEY)
            assert "sources were kept" not in failure.hint  # they are deleted long since
        else:
            assert (result.exit_code, result.proven) == (0, 3)


async def test_whoever_watches_sees_how_far_it_is() -> None:
    bucket = await bucket_of_outputs()
    bucket.objects[KEY] = dataclasses.replace(bucket.objects[KEY], metadata={})
    extent, seen = Extent(), list[tuple[int, int]]()
    result = await verify(
        MemoryStore(bucket),
        settings(),
        deep=True,
        emit=lambda _: seen.append((extent.proven, extent.failed)),
        extent=extent,
    )
    assert sorted(sum(counts) for counts in seen) == [1, 2, 3]
    assert extent == Extent(3, all_listed=True, proven=2, failed=1, bytes=result.bytes)


async def test_deep_counts_the_records_that_a_reader_finds_in_each_output() -> None:
    """Sources of several records, one without an end to its last line, one that holds nothing."""
    bucket = MemoryBucket()
    texts = [b"a\nb\nc\n", b"d\ne", b"", b"\n\nf\n", b"g\n" * 500]
    for group in range(3):
        for n, text in enumerate(texts[group:]):
            bucket.store(f"data/t_{group}_{n}-{n}.jsonl.gz", gzip.compress(text, mtime=0))
    bucket.now += 1000
    await Run(MemoryStore(bucket), settings()).coalesce()
    events: list[dict[str, object]] = []
    result = await verify(MemoryStore(bucket), settings(), deep=True, emit=events.append)
    counted = {
        key: len(gzip.decompress(data).splitlines()) for key, data in outputs_of(bucket).items()
    }
    assert {event["key"]: event["records"] for event in events} == counted
    assert sorted(counted.values()) == [503, 505, 508]
    assert result.records == sum(counted.values())


# --- against the ledger


def with_other(bucket: MemoryBucket, **changed: object) -> None:
    changes: Any = changed
    bucket.objects[KEY] = dataclasses.replace(bucket.objects[KEY], **changes)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("more", [{}, {"gzip": "members"}, {"check": False}])
async def test_every_output_is_held_against_its_entry(more: dict[str, object]) -> None:
    bucket = filled(3)
    await Run(MemoryStore(bucket), settings(**more)).coalesce()
    shallow = await verify_unchanged(bucket, deep=False)
    deep = await verify_unchanged(bucket, deep=True)
    for result in (shallow, deep):
        assert (result.recorded, result.unrecorded, result.missing) == (3, 0, 0)
        assert (result.proven, result.exit_code) == (3, 0)
    assert shallow.digests is None
    assert deep.digests == (0 if more == {"check": False} else 12)


async def test_lines_are_held_against_their_entries_too() -> None:
    bucket = MemoryBucket()
    manifests(bucket)
    bucket.store("data/db.core.topic_0_9-db.core.other_1_19.txt", b"no newline")
    await Run(MemoryStore(bucket), settings(layout="manifest")).coalesce()
    result = await verify_unchanged(bucket, deep=True, layout="manifest")
    assert (result.proven, result.recorded, result.digests, result.exit_code) == (1, 1, 6, 0)


async def test_sources_that_hold_nothing_are_where_their_entry_says() -> None:
    for mode in ("single", "members"):
        bucket = MemoryBucket()
        for n in range(3):
            bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"", mtime=0))
        await Run(MemoryStore(bucket), settings(gzip=mode)).coalesce()
        result = await verify_unchanged(bucket, deep=True)
        assert (result.proven, result.digests, result.exit_code) == (1, 3, 0)


async def test_outputs_without_entries_are_counted_and_no_failure() -> None:
    bucket = await bucket_of_outputs()
    bucket.remove(entries_in(bucket)[KEY])
    for deep in (False, True):
        result = await verify_unchanged(bucket, deep=deep)
        assert (result.proven, result.recorded, result.unrecorded) == (3, 2, 1)
        assert result.exit_code == 0


@pytest.mark.parametrize("how", ["size", "checksum", "plan"])
async def test_an_output_that_is_not_what_its_entry_says_is_found_by_head(how: str) -> None:
    bucket = await bucket_of_outputs()
    stored = bucket.objects[KEY]
    match how:
        case "size":
            bucket.objects[KEY] = with_data(stored, stored.data + b"x")
        case "checksum":
            bucket.objects[KEY] = with_data(stored, flipped(stored.data, 20))
        case "plan":
            with_other(bucket, metadata=stored.metadata | {"coalesce-plan": "0" * 64})
    for deep in (False, True):
        result = await verify_unchanged(bucket, deep=deep)
        (failure,) = result.failures
        assert (failure.code, failure.key, result.exit_code) == ("LedgerMismatch", KEY, 4)
        assert (result.failed, result.proven, result.recorded) == (1, 2, 2)


@pytest.mark.parametrize("mode", ["single", "members"])
async def test_a_changed_byte_is_found_by_its_source_where_the_store_hides_it(mode: str) -> None:
    """HEAD shows the checksum that the store took in, and the bytes are others: valid gzip of other
    text.
    """
    bucket = MemoryBucket()
    for n in range(4):
        bucket.store(f"data/t_1_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n, 0, mtime=0))
    await Run(MemoryStore(bucket), settings(gzip=mode)).coalesce()
    stored = bucket.objects[KEY]
    text = gzip.decompress(stored.data).replace(b"2\n", b"7\n")
    if mode == "single":
        data = gzip.compress(text, mtime=0)
    else:
        data = b"".join(gzip.compress(line, 0, mtime=0) for line in text.splitlines(keepends=True))
        assert len(data) == len(stored.data)
    with_other(bucket, data=data)
    rewrite(bucket, KEY, lambda lines: lines[0].update(size=len(data)))
    shallow = await verify_unchanged(bucket, deep=False)
    assert (shallow.proven, shallow.exit_code) == (1, 0)
    deep = await verify_unchanged(bucket, deep=True)
    (failure,) = deep.failures
    assert (failure.code, failure.key, deep.exit_code) == ("SourceNotProven", KEY, 4)
    assert "source 3 of 4" in failure.message
    assert deep.digests == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[2].__setitem__(7, lines[2][7] ^ 1),
        lambda lines: lines[2].__setitem__(8, lines[2][8] + 1),
        lambda lines: (lines[2].__setitem__(6, lines[2][6] + 1), lines[3].__setitem__(5, 99)),
    ],
    ids=["digest", "content", "place"],
)
async def test_a_source_that_is_not_where_its_entry_says_fails_its_output(
    change: Callable[[list[Any]], object],
) -> None:
    bucket = await bucket_of_outputs()
    rewrite(bucket, KEY, change)
    result = await verify_unchanged(bucket, deep=True)
    (failure,) = result.failures
    assert failure.code in ("SourceNotProven", "RecordDamaged")
    assert (result.recorded, result.exit_code) == (2, 4)


async def test_a_checksum_that_the_store_lost_is_in_the_entry() -> None:
    bucket = await bucket_of_outputs()
    rewrite(bucket, KEY, lambda lines: lines[0].update(crc64="AAAAAAAAAAA="))
    with_other(bucket, checksum={})
    assert (await verify_unchanged(bucket, deep=False)).exit_code == 0
    result = await verify_unchanged(bucket, deep=True)
    assert [failure.code for failure in result.failures] == ["ChecksumMismatch"]


async def test_a_damaged_entry_is_a_failure_and_its_output_is_checked_all_the_same() -> None:
    bucket = await bucket_of_outputs()
    key = entries_in(bucket)[KEY]
    bucket.store(key, bucket.objects[key].data[:-3])
    for deep in (False, True):
        result = await verify_unchanged(bucket, deep=deep)
        (failure,) = result.failures
        assert (failure.code, failure.key) == ("RecordDamaged", key)
        assert (result.proven, result.failed, result.unrecorded) == (3, 0, 1)
        assert result.exit_code == 4


@pytest.mark.parametrize("left", ["other outputs", "sources", "nothing"])
async def test_an_entry_whose_output_is_gone_is_found(left: str) -> None:
    bucket = await bucket_of_outputs()
    bucket.remove(KEY)
    if left == "other outputs":
        for n in range(4, 6):
            bucket.store(f"data/t_1_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n, mtime=0))
        await Run(MemoryStore(bucket), settings()).coalesce()
    elif left == "sources":
        bucket.store("data/t_1_4-4.jsonl.gz", gzip.compress(b"4\n", mtime=0))
    result = await verify_unchanged(bucket, deep=False)
    assert (result.missing, result.failed, result.exit_code) == (1, 1, 4)
    (failure,) = result.failures
    assert (failure.code, failure.key) == ("OutputMissing", KEY)
    assert "4 sources" in failure.message
    for more in ({"partition": [0]}, {"exclude": ["*_1_*"]}, {"topic": ["u*"]}):
        assert (await verify_unchanged(bucket, deep=False, **more)).missing == 0
    shards = [await verify_unchanged(bucket, deep=False, shard=f"{n}/3") for n in range(3)]
    assert sorted(shard.missing for shard in shards) == [0, 0, 1]


async def test_an_output_that_is_still_on_its_way_is_not_missing() -> None:
    bucket = one_group(20)
    await dead_run(bucket, "PutObject", "_coalesce/ledger/")
    result = await verify_unchanged(bucket, deep=False)
    assert (result.unfinished, result.missing, result.exit_code) == (1, 0, 0)


async def test_an_output_that_appears_after_the_listing_is_not_missing() -> None:
    """So with its entry: one that is gone by then is nobody's."""
    for removed in (False, True):
        bucket = await bucket_of_outputs()
        stored = bucket.objects.pop(KEY)
        store = MemoryStore(bucket)

        async def before(request: Request) -> None:
            if request.operation == "HeadObject" and request.key == KEY:
                if removed:  # noqa: B023
                    bucket.remove(entries_in(bucket)[KEY])  # noqa: B023
                else:
                    bucket.objects[KEY] = stored  # noqa: B023

        store.before = before
        result = await verify(store, settings(), deep=False)
        assert (result.missing, result.failed, result.exit_code) == (0, 0, 0)


async def test_entries_of_other_layouts_are_none_of_its_business() -> None:
    bucket = await bucket_of_outputs()
    result = await verify_unchanged(bucket, deep=False, layout="manifest")
    assert (result.outputs, result.missing, result.exit_code) == (0, 0, 0)


async def test_a_ledger_that_may_not_be_listed_is_a_failure_and_outputs_are_checked() -> None:
    bucket = await bucket_of_outputs()
    store = MemoryStore(bucket)

    async def deny(request: Request) -> None:
        if request.operation == "ListObjectsV2" and request.key.startswith("_coalesce/"):
            raise errors.AccessDenied("not allowed", key=request.key)

    store.before = deny
    result = await verify(store, settings(), deep=False)
    assert (result.proven, result.unrecorded, result.exit_code) == (3, 3, 1)
    assert {failure.code for failure in result.failures} == {"AccessDenied"}


async def test_an_output_without_a_sum_is_read_and_counted_apart() -> None:
    bucket = await bucket_of_outputs()
    bucket.objects[KEY] = with_data(bucket.objects[KEY], bucket.objects[KEY].data, summed=False)
    result = await verify_unchanged(bucket, deep=True)
    assert (result.proven, result.unsummed, result.records, result.exit_code) == (3, 1, 12, 0)


async def test_patterns_and_shards_leave_outputs_out() -> None:
    bucket = await bucket_of_outputs(12)
    assert (await verify_unchanged(bucket, deep=False, exclude=["*_1_*"])).outputs == 11
    assert (await verify_unchanged(bucket, deep=False, partition=[3])).outputs == 1
    assert (
        sum(
            [(await verify_unchanged(bucket, deep=False, shard=f"{n}/3")).outputs for n in range(3)]
        )
        == 12
    )


async def test_large_outputs_are_read_in_parts_a_few_at_once() -> None:
    bucket = MemoryBucket()
    body = gzip.compress(b"x" * 9_000_000 + b"\n", 0, mtime=0)
    for group in range(4):
        for n in range(2):
            bucket.store(f"data/t_{group}_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    await Run(MemoryStore(bucket), settings()).coalesce()
    held = most = 0

    class Counting(MemoryStore):
        async def get(self, key: str, **asked: Any) -> Body:
            nonlocal held, most
            assert asked["length"] <= 8 * 1024**2
            held += 1
            most = max(most, held)
            found = await super().get(key, **asked)
            held -= 1
            return found

    result = await verify(Counting(bucket), settings(memory="32MiB"), deep=True)
    assert (result.proven, result.records) == (4, 8)
    assert 1 <= most <= 2


@pytest.mark.timeout(180)
async def test_the_command_says_what_was_checked_and_exits_with_4(bucket: S3Store) -> None:
    await fill(bucket, 3, 4)
    assert coalesce(bucket, *job(bucket)).returncode == 0
    done = coalesce(bucket, "verify", f"s3://{bucket.bucket}/data", "--deep")
    assert (done.returncode, "3 proven" in done.stdout, "12 records" in done.stdout) == (
        0,
        True,
        True,
    ), done.stderr
    await bucket.put("data/db.core.topic_7_0_9.jsonl.gz", b"not ours")
    done = coalesce(bucket, "verify", f"s3://{bucket.bucket}/data", "--output", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 4
    assert sorted(line["type"] for line in lines) == [
        "failure",
        "verified",
        "verified",
        "verified",
        "verify",
    ]
    assert (lines[-1]["failed"], lines[-1]["failures"][0]["key"]) == (
        1,
        "data/db.core.topic_7_0_9.jsonl.gz",
    )
