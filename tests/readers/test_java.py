"""What the JDK's own gzip reader makes of outputs that come over a network.

Run by `make test-readers`, with a JDK from version 11 on.
"""

import asyncio
import gzip
import json
import os
import random
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import data_in
from support.runs import new_run
from support.settings import settings

pytestmark = pytest.mark.skipif(
    not os.environ.get("COALESCE_TEST_READERS"),
    reason="COALESCE_TEST_READERS does not ask for readers other than Python's: make test-readers",
)

SOURCES, RECORDS = 150, 40


async def join(mode: str) -> bytes:
    """The one output of small sources, in a mode of `--gzip`."""
    bucket, rng = MemoryBucket(), random.Random(1)
    for n in range(SOURCES):
        lines = [json.dumps({"n": n, "payload": rng.randbytes(90).hex()}) for _ in range(RECORDS)]
        body = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    report = await new_run(MemoryStore(bucket), settings(gzip=mode)).coalesce()
    assert (report.exit_code, report.outputs.records) == (0, SOURCES * RECORDS)
    (output,) = data_in(bucket.objects)
    return bucket.objects[output].data


@asynccontextmanager
async def slow_server(objects: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serves objects in small pieces, each only once the one before has been sent: a reader finds
    now and then that nothing more has come yet.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        while (await reader.readline()).strip():
            pass
        data = objects[path.removeprefix("/")]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
        rng = random.Random(1)
        at = 0
        while at < len(data):
            size = rng.randint(500, 3000)
            writer.write(data[at : at + size])
            await writer.drain()
            await asyncio.sleep(0.001)  # what makes it slow
            at += size
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def test_one_member_is_read_to_its_end_and_joined_members_are_not() -> None:
    """`GZIPInputStream` takes a seam between two members for the end if nothing more is there yet
    (JDK-7036144): the records behind it are lost to the reader, without an error.
    """
    java = shutil.which("java")
    assert java is not None, "there is no JDK on the PATH"
    objects = {mode: await join(mode) for mode in ("single", "members")}
    assert gzip.decompress(objects["single"]) == gzip.decompress(objects["members"])
    async with slow_server(objects) as url:
        program = Path(__file__).with_name("Count.java")
        addresses = [f"{url}/{mode}" for mode in ("single", "members")]
        process = await asyncio.create_subprocess_exec(
            java, str(program), *addresses, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    single, members = map(int, said.split())
    assert process.returncode == 0
    assert single == SOURCES * RECORDS
    assert 0 < members < SOURCES * RECORDS
