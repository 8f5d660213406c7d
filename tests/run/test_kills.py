"""The command as a process, killed with SIGKILL at a request to a real server: before the server
has seen it, or when it has done it and nobody heard.

A sample of the points; `test_crashes.py` has them all, in memory. COALESCE_TEST_KILLS=all takes
every kind of request, before and after, as `make test-servers` does.
"""

import asyncio
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from coalesce.storage.s3 import S3Store, open_s3
from support.buckets import check_finished, data_in, look, records_in, unfinished_in
from support.command import environment
from support.proxy import Answer, Call, Proxy, Rule, proxy
from support.servers import KEYS, bucket_of, lists_uploads, options_of

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Point:
    """The request at which the process dies: one of an operation whose key holds `where`, after
    `skip` others of them.
    """

    operation: str
    where: str
    skip: int = 0


DATA, RECORD, ENTRY = "data/", "_coalesce/groups/", "_coalesce/ledger/"
POINTS = {
    "the lease": Point("PutObject", "_coalesce/runs/"),
    "a request of the probe": Point("CompleteMultipartUpload", "/probe/", 3),
    "a listing": Point("ListObjectsV2", DATA),
    "a HEAD for the content type": Point("HeadObject", DATA),
    "the first upload": Point("CreateMultipartUpload", DATA),
    "a later upload": Point("CreateMultipartUpload", DATA, 4),
    "a plan record": Point("PutObject", RECORD),
    "a read": Point("GetObject", DATA, 7),
    "a part": Point("UploadPart", DATA, 1),
    "a ledger entry": Point("PutObject", ENTRY, 2),
    "the first Complete": Point("CompleteMultipartUpload", DATA),
    "a later Complete": Point("CompleteMultipartUpload", DATA, 4),
    "a HEAD of an output": Point("HeadObject", "_0_0_29.jsonl.gz"),
    "the abort of a spoilt batch": Point("AbortMultipartUpload", DATA),
    "a plan record written anew": Point("PutObject", f"{RECORD}{DATA}spoilt", 1),
    "the end of a plan record": Point("DeleteObject", RECORD),
    "the end of the lease": Point("DeleteObject", "_coalesce/runs/"),
}
# whichever the server is good for
DELETES = {"a delete of sources": (Point("DeleteObjects", ""), Point("DeleteObject", DATA))}
SAMPLE = ["a later upload", "the first Complete", "a delete of sources", "the end of a plan record"]

ALL = os.environ.get("COALESCE_TEST_KILLS") == "all"
CHOSEN = [
    (name, answered)
    for name in [*POINTS, *DELETES]
    for answered in (False, True)
    if ALL or (name in SAMPLE and answered is bool(SAMPLE.index(name) % 2))
]


@dataclass
class Scene:
    """A bucket, the proxy before its server, and the way around."""

    name: str
    proxy: Proxy
    store: S3Store

    async def start(self) -> asyncio.subprocess.Process:
        """The job through the proxy."""
        return await asyncio.create_subprocess_exec(
            *self.command(),
            env=environment(self.proxy.url),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def command(self) -> list[str]:
        """Of one output for three sources at most, whose leases end soon."""
        return [
            sys.executable,
            "-m",
            "coalesce",
            "run",
            "-b",
            self.name,
            "-p",
            "data",
            "--min-age",
            "0",
            "-f",
            "3",
            "--lease",
            "2s",
            "-t",
            "4",
        ]

    async def run(self) -> int:
        """The job to its end, around the proxy."""
        process = await asyncio.create_subprocess_exec(
            *self.command(), env=environment(self.store.endpoint), stderr=subprocess.DEVNULL
        )
        return await process.wait()


SPOILT = "data/spoilt_0_20-29.jsonl.gz"


@pytest.fixture
async def scene(server: str, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Three groups of several outputs, one of them with a spoilt source."""
    name = bucket_of(request.node.name)
    async with (
        open_s3(options_of(server, name)) as store,
        proxy(server, **KEYS) as before,
    ):
        await store.create_bucket()
        for topic in ("db.core.a", "db.core.b", "spoilt"):
            for n in range(6):
                key = f"data/{topic}_0_{n * 10}-{n * 10 + 9}.jsonl.gz"
                body = gzip.compress(b'{"topic": "%b", "n": %d}\n' % (topic.encode(), n), mtime=0)
                await store.put(key, body[:-3] if key == SPOILT else body)
        yield Scene(name, before, store)


def readable(held: dict[str, bytes]) -> dict[str, bytes]:
    """What readers can read: the spoilt source is compared as it lies."""
    return {key: body for key, body in data_in(held).items() if key != SPOILT}


@pytest.mark.parametrize(
    ("name", "answered"),
    CHOSEN,
    ids=[f"{name}-{'done, unheard' if answered else 'unseen'}" for name, answered in CHOSEN],
)
async def test_killed_at_a_request_the_next_runs_end_with_every_record_once_and_the_ledger(
    scene: Scene, name: str, answered: bool
) -> None:
    original = await look(scene.store)
    before = records_in(readable(original))
    process: asyncio.subprocess.Process | None = None

    async def kill(call: Call) -> Answer | None:
        if answered:
            await call.forward()
        assert process is not None
        process.send_signal(signal.SIGKILL)
        return None

    points = DELETES.get(name) or (POINTS[name],)
    scene.proxy.rules = [
        Rule(point.operation, kill, point.where, 1, point.skip) for point in points
    ]
    process = await scene.start()
    assert await process.wait() == -signal.SIGKILL, "the point was never reached"
    held = await look(scene.store)
    assert not before - records_in(readable(held)), "records unreadable at once"

    begun = {
        call.key
        for call in scene.proxy.calls
        if call.operation == "CreateMultipartUpload" and call.key.startswith("data/")
    }
    sweeps = await lists_uploads(scene.store)
    for _ in range(5):
        code = await scene.run()
        held = await look(scene.store)
        uploads = [
            upload for key in begun if sweeps for upload in await scene.store.list_uploads(key)
        ]
        if not uploads and not unfinished_in(held):
            break
    assert code in (0, 4)  # 4 while the spoilt source has a neighbour
    assert records_in(readable(held)) == before
    check_finished(held)
    assert held[SPOILT] == original[SPOILT]
    assert not uploads
