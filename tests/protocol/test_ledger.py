"""The ledger: for every output an entry that says what it was made of and where each source is in
it. It is written before the output can appear, and read here without the program's own code.
"""

import base64
import gzip
import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from awscrt import checksums

from coalesce import errors
from coalesce.content.gzip_members import EMPTY_MEMBER
from coalesce.exits import ExitCode
from coalesce.storage.base import Deleted, DeleteResult
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.nights import (
    GROUP,
    audited,
    dead_run,
    night,
    one_group,
    output_of,
    rewrite,
    sources_in,
)
from support.scenarios import (
    AuditedBucket,
    copied,
    corporate,
    is_entry,
    manifests,
    spoilt,
    unfinished,
)

Row = list[Any]
OFFSET = re.compile(r"_\d+_(\d+)-")


def crc64(data: bytes) -> str:
    return base64.b64encode(checksums.crc64nvme(data).to_bytes(8)).decode()


def read_entry(bucket: MemoryBucket, output: str) -> tuple[dict[str, Any], list[Row]]:
    """The header of an output's one entry, and its line for each source."""
    (key,) = (key for key in bucket.objects if key.startswith(f"_coalesce/ledger/{output}."))
    header, *rows = map(json.loads, gzip.decompress(bucket.objects[key].data).splitlines())
    upload = hashlib.sha256(header["upload_id"].encode()).hexdigest()[:16]
    assert key == f"_coalesce/ledger/{output}.{upload}.jsonl.gz"
    return header, rows


def outputs_of(bucket: MemoryBucket) -> list[str]:
    return [key for key, held in bucket.objects.items() if "coalesce-plan" in held.metadata]


def entries(bucket: MemoryBucket) -> list[str]:
    return [key for key in bucket.objects if is_entry(key)]


def odd(bucket: MemoryBucket) -> None:
    """Sources of several members, without a last newline, of nothing, and a long one."""
    bodies = [
        gzip.compress(b"a\n", mtime=0) + gzip.compress(b"b\nc\n", mtime=0),
        gzip.compress(b"no newline", mtime=0),
        gzip.compress(b"", mtime=0),
        gzip.compress(b"", mtime=0) + gzip.compress(b"after nothing\n", mtime=0),
        gzip.compress(b"long %d\n" % 10**9 * 5000, mtime=0),
    ]
    for n, body in enumerate(bodies):
        bucket.now += 7
        bucket.store(f"{GROUP}_{n}-{n}.jsonl.gz", body)


def lines_without_a_newline(bucket: MemoryBucket) -> None:
    for n, body in enumerate((b"one\ntwo\n", b"three", b"four\n\n")):
        bucket.store(f"data/db.core.topic_0_{n}-db.core.other_1_{n + 7}.txt", body)


def in_ranges(bucket: MemoryBucket) -> None:
    corporate(bucket, groups=1, sources=5, size=500)


JOBS: dict[str, tuple[Callable[[MemoryBucket], None], dict[str, object]]] = {
    "several outputs": (lambda bucket: corporate(bucket, groups=2, sources=9), {"max_files": 4}),
    "odd sources": (odd, {}),
    "odd sources, as their members are": (odd, {"gzip": "members"}),
    "around a spoilt source": (spoilt, {}),
    "manifests": (manifests, {"layout": "manifest"}),
    "lines without a last newline": (lines_without_a_newline, {"layout": "manifest"}),
    "sources read in ranges": (in_ranges, {}),
    "sources read in ranges, as their members are": (in_ranges, {"gzip": "members"}),
    "unchecked": (odd, {"check": False}),
    "copied by the store": (copied, {"check": False}),
}


async def joined(name: str) -> tuple[AuditedBucket, dict[str, Any]]:
    """A bucket after its run, and its objects before it."""
    fill, more = JOBS[name]
    bucket = audited(fill)
    if name == "copied by the store":
        bucket.min_part_bytes = 1000
    if name.startswith("sources read in ranges"):
        bucket.part_bytes = 100
    before = dict(bucket.objects)
    report = await night(bucket, **more)
    assert report.exit_code == (4 if "spoilt" in name else 0), report.failures
    assert outputs_of(bucket)
    return bucket, before


def content_of(key: str, data: bytes) -> bytes:
    return gzip.decompress(data) if key.endswith(".gz") else data


@pytest.mark.parametrize("name", JOBS)
async def test_every_output_has_one_entry_whose_header_is_true(name: str) -> None:
    bucket, _ = await joined(name)
    assert len(entries(bucket)) == len(outputs_of(bucket))
    for output in outputs_of(bucket):
        header, rows = read_entry(bucket, output)
        held = bucket.objects[output]
        assert header["schema_version"] == 1
        assert (header["output"], header["layout"]) == (
            output,
            "manifest" if output.endswith(".txt") else "corporate",
        )
        assert header["digest"] == held.metadata["coalesce-plan"]
        assert header["sources"] == len(rows) == int(held.metadata["coalesce-sources"])
        assert (header["size"], header["crc64"]) == (len(held.data), crc64(held.data))
        assert header["mode"].lower() == held.metadata["coalesce-checksum"]
        assert header["version"] == held.metadata["coalesce-version"]
        mode = "none" if output.endswith(".txt") else JOBS[name][1].get("gzip", "single")
        assert header["gzip"] == ("members" if "check" in JOBS[name][1] else mode)
        known = [row[4] for row in rows]
        assert header["records"] == (None if None in known else sum(known))


@pytest.mark.parametrize("name", JOBS)
async def test_an_entry_names_every_source_as_it_was_in_the_order_of_the_output(name: str) -> None:
    bucket, before = await joined(name)
    for output in outputs_of(bucket):
        _, rows = read_entry(bucket, output)
        assert [row[:4] for row in rows] == [
            [key, before[key].etag, len(before[key].data), int(before[key].modified)]
            for key in (row[0] for row in rows)
        ]
        offsets = [int(number) for row in rows for number in OFFSET.findall(row[0])[:1]]
        assert len(offsets) == len(rows)
        assert offsets == sorted(offsets)
    gone = sorted(set(before) - set(bucket.objects))
    told = sorted(row[0] for output in outputs_of(bucket) for row in read_entry(bucket, output)[1])
    assert told == gone


@pytest.mark.parametrize("name", JOBS)
async def test_an_entry_says_where_each_source_is_in_the_output(name: str) -> None:
    """The ranges lie end to end and cover the output, or the text of its one gzip member; what they
    hold is what the source held.
    """
    bucket, before = await joined(name)
    for output in outputs_of(bucket):
        header, rows = read_entry(bucket, output)
        data, at = bucket.objects[output].data, 0
        if header["gzip"] == "single":
            data = gzip.decompress(data)
        for key, _, _, _, _, start, length, _, _ in rows:
            assert start == at
            at += length
            content = content_of(key, before[key].data)
            if content and not content.endswith(b"\n") and name != "unchecked":
                content += b"\n"
            held = data[start:at]
            assert (held if header["gzip"] == "single" else content_of(key, held)) == content
        assert at == len(data)


@pytest.mark.parametrize("name", JOBS)
async def test_an_entry_knows_the_content_of_each_source_that_was_checked(name: str) -> None:
    bucket, before = await joined(name)
    checked = JOBS[name][1].get("check", True)
    for output in outputs_of(bucket):
        for key, _, _, _, records, _, _, crc, size in read_entry(bucket, output)[1]:
            content = content_of(key, before[key].data)
            lines = content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
            expected = [lines, checksums.crc64nvme(content), len(content)]
            assert [records, crc, size] == (expected if checked else [None, None, None])


async def test_sources_that_hold_nothing_are_in_the_entry_of_their_empty_output() -> None:
    bucket = MemoryBucket()
    for n in range(3):
        bucket.store(f"{GROUP}_{n}-{n}.jsonl.gz", EMPTY_MEMBER)
    await night(bucket)
    header, rows = read_entry(bucket, f"{GROUP}_0_2.jsonl.gz")
    assert [row[4:7] for row in rows] == [[0, 0, 0]] * 3
    assert header["size"] == len(bucket.objects[f"{GROUP}_0_2.jsonl.gz"].data)


# --- when it is written


async def test_an_entry_stands_before_its_output_can() -> None:
    """And the output holds no bytes that its entry does not know of."""
    bucket = audited(lambda bucket: corporate(bucket, groups=2, sources=9))
    store = MemoryStore(bucket)
    sent: list[str] = []

    async def before(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            header, _ = read_entry(bucket, request.key)
            assert header["upload_id"] in bucket.uploads
            sent.append(request.key)

    store.before = before
    assert (await night(bucket, store, max_files=3)).exit_code == 0
    assert sorted(sent) == sorted(outputs_of(bucket))
    bucket.audit.check_quiet()


@pytest.mark.parametrize(
    ("fault", "code"),
    [(errors.AccessDenied, 10), (errors.Unavailable, 75), (errors.PreconditionFailed, 1)],
)
async def test_without_an_entry_there_is_no_complete(
    fault: type[errors.StorageError], code: int
) -> None:
    bucket = one_group(20)
    before, store = sources_in(bucket), MemoryStore(bucket)

    async def refuse(request: Request) -> None:
        assert (request.operation, request.key) != ("CompleteMultipartUpload", output_of(20))
        if request.operation == "PutObject" and is_entry(request.key):
            raise fault("made up", key=request.key, operation="PutObject")

    store.before = refuse
    report = await night(bucket, store)
    assert report.exit_code == code
    assert sources_in(bucket) == before
    assert outputs_of(bucket) == []
    assert bucket.uploads == {}
    assert (await night(bucket)).exit_code == 0
    bucket.audit.check_quiet()


async def test_an_entry_is_never_written_over() -> None:
    """Of two runs that complete the same output, each has its own."""
    bucket = one_group(20)
    await dead_run(bucket, "PutObject", "_coalesce/ledger/")
    (first,) = entries(bucket)
    store = MemoryStore(bucket)
    written: list[str] = []

    async def before(request: Request) -> None:
        if request.operation == "PutObject" and is_entry(request.key):
            written.append(request.key)

    store.before = before
    assert (await night(bucket, store)).exit_code == 0
    assert first not in written
    bucket.audit.check_quiet()


# --- what becomes of it


async def test_the_entry_of_an_upload_that_never_became_an_output_goes_with_it() -> None:
    bucket = one_group(20)
    await dead_run(bucket, "PutObject", "_coalesce/ledger/")
    (stray,) = entries(bucket)
    await night(bucket, partition=[7])  # which joins nothing here
    assert stray not in bucket.objects
    assert entries(bucket) == []
    assert unfinished(bucket) == []


async def test_the_entry_of_an_upload_that_a_concurrent_change_made_useless_goes_with_it() -> None:
    bucket = one_group(20)
    store, refused = MemoryStore(bucket), 0

    async def before(request: Request) -> None:
        nonlocal refused
        if (request.operation, request.key) == ("CompleteMultipartUpload", output_of(20)):
            refused += 1
            if refused == 1:
                raise errors.Conflict("made up", key=request.key)

    store.before = before
    assert (await night(bucket, store)).exit_code == 0
    assert refused == 2
    assert len(entries(bucket)) == 1
    bucket.audit.check_quiet()


class KeepsEntries(MemoryStore):
    """The role may not delete ledger entries."""

    conflicts = 0  # how many Completes meet a concurrent change

    async def delete(self, key: str, *, etag: str = "") -> DeleteResult:
        if is_entry(key):
            return DeleteResult(key, Deleted.REFUSED, "AccessDenied", "not allowed")
        return await super().delete(key, etag=etag)

    async def complete_upload(self, key: str, *arguments: Any, **more: Any) -> None:
        if self.conflicts and key == output_of(20):
            self.conflicts -= 1
            raise errors.Conflict("made up", key=key)
        await super().complete_upload(key, *arguments, **more)


@pytest.mark.parametrize("way", ["no ledger", "a dead run's upload", "a concurrent change"])
async def test_an_entry_that_the_store_does_not_let_go_is_told_and_holds_up_nothing(
    way: str,
) -> None:
    bucket = one_group(20)
    if way == "a dead run's upload":
        await dead_run(bucket, "PutObject", "_coalesce/ledger/")
    store = KeepsEntries(bucket)
    store.conflicts = way == "a concurrent change"
    report = await night(bucket, store, ledger=way != "no ledger")
    (failure,) = report.failures
    assert (report.exit_code, failure.code) == (ExitCode.FAILED, "AccessDenied")
    assert failure.key in entries(bucket)
    assert failure.key in failure.message
    assert (report.outputs.written, sources_in(bucket), unfinished(bucket)) == (1, [], [])
    assert (await night(bucket)).exit_code == ExitCode.DONE
    bucket.audit.check_quiet()


async def test_a_run_that_keeps_no_ledger_leaves_no_entry() -> None:
    bucket = audited(lambda bucket: corporate(bucket, groups=2, sources=9))
    store = MemoryStore(bucket)
    written: list[str] = []

    async def before(request: Request) -> None:
        if request.operation == "PutObject" and is_entry(request.key):
            written.append(request.key)

    store.before = before
    report = await night(bucket, store, max_files=3, ledger=False)
    assert (report.exit_code, report.outputs.written) == (0, 6)
    assert len(written) == 6  # it is part of the proof all the same
    assert entries(bucket) == []
    bucket.audit.check_quiet()


async def test_a_run_that_keeps_no_ledger_removes_the_entries_of_what_it_finishes() -> None:
    bucket = one_group(20)
    await dead_run(bucket, "CompleteMultipartUpload", "data/")
    assert entries(bucket)
    report = await night(bucket, ledger=False)
    assert (report.exit_code, report.outputs.recovered) == (0, 1)
    assert entries(bucket) == []
    bucket.audit.check_quiet()


async def test_without_a_ledger_too_an_entry_stands_until_the_sources_are_gone() -> None:
    """A death among the deletes leaves what recovery needs."""
    bucket = one_group(300)
    store, pages = MemoryStore(bucket), 0

    async def die(request: Request) -> None:
        nonlocal pages
        if request.operation == "DeleteObjects" and request.key.startswith("data/"):
            pages += 1
            assert len(entries(bucket)) == 1

    store.before = die
    report = await night(bucket, store, ledger=False)
    assert (report.exit_code, pages) == (0, 2)
    assert entries(bucket) == []


# --- an entry that is not what it was


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:20],
    "text": gzip.decompress,
    "another's": lambda data: gzip.compress(
        gzip.decompress(data).replace(b'"upload_id":"', b'"upload_id":"another-')
    ),
    "of another schema": lambda data: gzip.compress(
        gzip.decompress(data).replace(b'"schema_version":1', b'"schema_version":99')
    ),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_a_spoilt_entry_costs_no_source(how: str) -> None:
    bucket = one_group(20)
    await dead_run(bucket, "CompleteMultipartUpload", "data/")
    before, (key,) = sources_in(bucket), entries(bucket)
    with bucket.audit.others():
        bucket.store(key, SPOILT[how](bucket.objects[key].data))
    report = await night(bucket)
    assert report.exit_code == 4
    assert [(failure.key, failure.code) for failure in report.failures] == [(key, "RecordDamaged")]
    assert sources_in(bucket) == before
    assert f"_coalesce/groups/{GROUP}" in bucket.objects


@pytest.mark.parametrize("mode", ["single", "members"])
async def test_an_entry_that_somebody_has_removed_is_made_up_for_by_reading_everything(
    mode: str,
) -> None:
    """A lifecycle rule, say. The run that reads has another mode."""
    bucket = one_group(20)
    await dead_run(bucket, "CompleteMultipartUpload", "data/", gzip=mode)
    with bucket.audit.others():
        for key in entries(bucket):
            bucket.remove(key)
    store = MemoryStore(bucket)
    report = await night(bucket, store, gzip="members" if mode == "single" else "single")
    assert (report.exit_code, report.outputs.recovered, sources_in(bucket)) == (0, 1, [])
    assert store.usage.requests["GetObject"] > 20


async def test_without_its_entry_an_output_that_holds_other_text_costs_no_source() -> None:
    """Whole, of the same length, and with the digest of its plan in its metadata."""
    for spoil in (
        lambda text: text.replace(b"3", b"4", 1),
        lambda text: text + b"more\n",
        lambda text: text[: text.rindex(b"\n", 0, -1) + 1],
    ):
        bucket = one_group(20)
        await dead_run(bucket, "CompleteMultipartUpload", "data/")
        before = sources_in(bucket)
        with bucket.audit.others():
            for key in entries(bucket):
                bucket.remove(key)
            text = gzip.decompress(bucket.objects[output_of(20)].data)
            assert spoil(text) != text
            rewrite(bucket, output_of(20), gzip.compress(spoil(text)))
        report = await night(bucket)
        assert (report.exit_code, sources_in(bucket)) == (4, before)


async def test_without_its_entry_an_output_of_many_sources_is_compared_in_a_few_seconds() -> None:
    """Its text is many times as long as the output: 40 MB, not to be copied for each source."""
    bucket = AuditedBucket()
    body = gzip.compress(b"0123456789\n" * 450, 9, mtime=0)
    for n in range(8000):
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    await dead_run(bucket, "CompleteMultipartUpload", "data/")
    for key in entries(bucket):
        bucket.remove(key)
    begun = time.thread_time()
    report = await night(bucket)
    assert (report.exit_code, report.outputs.recovered) == (0, 1)
    assert time.thread_time() - begun < 5
