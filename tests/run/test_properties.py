"""Whatever lies in the bucket, whatever the options say and whatever goes wrong: the records before
are the records after.
"""

import asyncio
import gzip
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from coalesce import errors
from coalesce.report.report import Report
from coalesce.storage import checksums
from coalesce.storage.base import Body
from coalesce.storage.limits import MIN_PART_BYTES
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.auditor import Auditor
from support.buckets import data_in
from support.runs import new_run
from support.scenarios import AuditedBucket, check_ledger
from support.settings import settings
from support.timeless import Timeless

REFUSALS = [
    errors.Throttled,
    errors.Unavailable,
    errors.AccessDenied,
    errors.BadRequest,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.NotFound,
    errors.NoSuchUpload,
    errors.NotImplementedByStore,
    errors.ListingError,
    errors.Archived,
    errors.ConfigurationError,  # credentials that expire
]
LIMITS = ("max_groups", "max_bytes", "max_delete")


@dataclass(frozen=True)
class Fault:
    """What happens to the `number`th request: refused, or its answer lost, or (of a read) one bit
    of it flipped; and to the `more` after it.
    """

    number: int
    kind: type[errors.CoalesceError]
    lost: bool = False
    flipped: bool = False
    more: int = 0

    def strikes(self, request: Request) -> bool:
        return self.number <= request.number <= self.number + self.more


@dataclass
class Job:
    objects: dict[str, bytes] = field(default_factory=dict)
    archived: set[str] = field(default_factory=set)
    young: set[str] = field(default_factory=set)
    summed: set[str] = field(default_factory=set)
    options: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    part: int = 8 * 1024**2

    def bucket(self) -> AuditedBucket:
        bucket = AuditedBucket(min_part_bytes=min(self.part, MIN_PART_BYTES))
        bucket.part_bytes = self.part
        for key, body in self.objects.items():
            if key in self.young:
                continue
            bucket.store(
                key,
                body,
                checksum=self._sum(body) if key in self.summed else {},
                storage_class="GLACIER" if key in self.archived else "STANDARD",
            )
        bucket.now += 1000
        for key in self.young:
            bucket.store(key, self.objects[key], checksum=self._sum(self.objects[key]))
        bucket.audit = Auditor(bucket)
        return bucket

    def _sum(self, body: bytes) -> dict[str, str]:
        return {"CRC64NVME": checksums.encode(checksums.crc64([body]))}


DIRECTORIES = [
    "data/",
    "data/2026/11/22/",
    "data/a b+c/",
    "data/ü%2F/",
    "data/x_1_2/",
    "data//",
    "data/\x01/",
    "data/../",
]
TOPICS = ["t", "t_1", "db.core.to-do", "_a-b_0"]
WHOLE = ["one member", "two members", "empty member", "stored"]
ANY = [
    *WHOLE,
    "no newline",
    "only empty members",
    "cut",
    "junk behind",
    "flipped",
    "not gzip",
    "nothing",
]


def body_of(kind: str, name: bytes, count: int, *, gzipped: bool) -> bytes:
    lines = [b'{"of": "%b", "n": %d}\n' % (name, n) for n in range(count)]
    if not gzipped:
        text = b"".join(lines)
        return {"no newline": text[:-1], "nothing": b""}.get(kind, text)
    whole = gzip.compress(b"".join(lines), mtime=0)
    made = {
        "two members": gzip.compress(lines[0], mtime=0)
        + gzip.compress(b"".join(lines[1:]), mtime=0),
        "empty member": gzip.compress(b"", mtime=0) + whole + gzip.compress(b"", mtime=0),
        "only empty members": gzip.compress(b"", mtime=0) * 2,
        "stored": gzip.compress(b"".join(lines), 0, mtime=0),
        "no newline": gzip.compress(b"".join(lines)[:-1], mtime=0),
        "cut": whole[:-5],
        "junk behind": whole + b"junk of " + name,
        "flipped": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:],
        "not gzip": b"".join(lines),
        "nothing": b"",
    }
    return made.get(kind, whole)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Buckets, options and faults.

    Without the content check only whole sources are joined rightly, so no others are drawn.
    """
    job = Job()
    gzipped, check = draw(st.booleans()), draw(st.booleans())
    job.part = draw(st.sampled_from([8 * 1024**2, 8 * 1024**2, 40, 100]))
    for group in range(draw(st.integers(1, 3))):
        directory, topic = draw(st.sampled_from(DIRECTORIES)), draw(st.sampled_from(TOPICS))
        prefix = f"{directory}{topic}_{draw(st.integers(0, 1))}_"
        for n in range(draw(st.integers(0, 7))):
            first, length = draw(st.integers(0, 60)), draw(st.integers(0, 12))
            tail = f"{first + length}.jsonl.gz"
            if not gzipped:
                other = draw(st.sampled_from(["other", "t_1"]))
                tail = f"{other}_{draw(st.integers(0, 1))}_{first + length}.txt"
            key = f"{prefix}{first}{draw(st.sampled_from('-----_'))}{tail}"
            kind = draw(st.sampled_from(ANY if check else WHOLE))
            job.objects[key] = body_of(
                kind, b"%d/%d" % (group, n), draw(st.integers(1, 4)), gzipped=gzipped
            )
            for chosen, share in ((job.archived, 12), (job.young, 8), (job.summed, 2)):
                if draw(st.integers(1, share)) == 1:
                    chosen.add(key)
    job.archived -= job.young
    for key in draw(
        st.sets(
            st.sampled_from(
                [
                    "data/README",
                    "data/t_0_1-2.jsonl.gz.2",
                    "other/t_0_1-2.jsonl.gz",
                    "data",
                    "_coalesce2/x",
                ]
            )
        )
    ):
        job.objects[key] = key.encode()
    job.options = {
        "layout": "corporate" if gzipped else "manifest",
        "check": check,
        "delete": draw(st.sampled_from([True, True, True, False])),
        "max_files": draw(st.integers(2, 8)),
        "max_size": draw(st.sampled_from([128_000_000, 400, 150])),
        "min_files": draw(st.integers(2, 3)),
        "min_age": draw(st.sampled_from([0, 300])),
        "concurrency": draw(st.integers(1, 5)),
        "include": draw(st.sampled_from([[], [], ["*1*"], ["data/*"]])),
        "exclude": draw(st.sampled_from([[], [], ["*_3*"], ["*/x_1_2/*"]])),
        "partition": draw(st.sampled_from([[], [], [0]])),
    }
    if draw(st.integers(0, 3)) == 0:
        job.options[draw(st.sampled_from(LIMITS))] = draw(st.integers(1, 200))
    job.faults = draw(st.lists(faults(bits=check), max_size=3))
    return job


def faults(*, bits: bool) -> st.SearchStrategy[Fault]:
    """A lost answer is a 5xx or a broken connection.

    A bit that flips in a body is noticed only where content is checked.
    """
    number, more = st.integers(1, 160), st.sampled_from([0, 0, 0, 3, 40])
    refused = st.builds(Fault, number, st.sampled_from(REFUSALS), more=more)
    lost = st.builds(
        Fault,
        number,
        st.sampled_from([errors.Unavailable, errors.Throttled]),
        lost=st.just(True),
        more=more,
    )
    flipped = st.builds(
        Fault, number, st.just(errors.Unavailable), flipped=st.just(True), more=more
    )
    return refused | lost | flipped if bits else refused | lost


class Faulty(MemoryStore):
    """Fails as the job says."""

    def __init__(self, bucket: MemoryBucket, job: Job) -> None:
        super().__init__(bucket)
        self._job = job
        self._last = Request(0, "", "")
        self.before, self.after = self._refuse, self._lose

    async def _refuse(self, request: Request) -> None:
        self._last = request
        for fault in self._job.faults:
            if fault.strikes(request) and not fault.lost and not fault.flipped:
                raise fault.kind("made up", key=request.key, operation=request.operation)

    async def _lose(self, request: Request) -> None:
        for fault in self._job.faults:
            if fault.strikes(request) and fault.lost:
                raise fault.kind("made up", key=request.key, operation=request.operation)

    async def get(self, key: str, **asked: Any) -> Body:
        body = await super().get(key, **asked)
        if (
            body.data
            and key.startswith("data/")
            and any(fault.flipped and fault.strikes(self._last) for fault in self._job.faults)
        ):
            return Body(body.data[:-1] + bytes([body.data[-1] ^ 1]), body.etag, body.checksum)
        return body


def run(bucket: AuditedBucket, store: MemoryStore, options: dict[str, Any]) -> Report:
    """Parts are so small that small sources are read, cut and copied as large ones are."""
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        clock = runner.get_loop().time
        report = runner.run(new_run(store, settings(**options), clock=clock).coalesce())
    assert [failure for failure in report.failures if failure.code == "Defect"] == []
    return report


@given(jobs())
def test_the_records_before_are_the_records_after(job: Job) -> None:
    bucket = job.bucket()
    report = run(bucket, Faulty(bucket, job), job.options)
    event(f"exit code {report.exit_code}")
    assert report.exit_code in (0, 1, 4, 10, 11, 12, 75)
    bucket.audit.check()
    quiet(job, bucket)
    bucket.audit.check_quiet()
    check_ledger(bucket, "at the end")
    gone = job.objects.keys() - bucket.objects.keys()
    assert not gone & job.archived
    assert {key: bucket.objects[key].data for key in job.objects.keys() - gone} == {
        key: job.objects[key] for key in job.objects.keys() - gone
    }


def quiet(job: Job, bucket: AuditedBucket) -> None:
    """Runs without faults or limits, until there is nothing to do: the reports must count what the
    bucket shows.
    """
    options = {
        name: value for name, value in job.options.items() if name not in (*LIMITS, "delete")
    }
    for _ in range(4):
        bucket.now += 1000
        before = data_in(bucket.objects).keys()
        report = run(bucket, MemoryStore(bucket), options)
        assert report.exit_code in (0, 4), report.failures
        after = data_in(bucket.objects).keys()
        made, gone = after - before, before - after
        assert report.outputs.written == len(made)
        assert report.sources.deleted + report.recovered.sources_deleted == len(gone)
        if not made and not gone:
            return
    pytest.fail("there is no end of it")
