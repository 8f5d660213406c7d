"""The main job on an embedded S3 server, with a proof that does not take the program's word."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from coalesce.demo.dataset import Shape, objects
from coalesce.errors import ConfigurationError
from coalesce.naming.layouts import layout
from coalesce.report.report import path_characters
from coalesce.storage.base import ObjectStore


@contextlib.contextmanager
def embedded_server() -> Iterator[str]:
    """A MiniStack on a free loopback port, its data in a temporary folder; its URL.

    Raises ConfigurationError if it is not installed.
    """
    if find_spec("ministack") is None:
        raise ConfigurationError(
            "the demo needs the extra 'demo'", hint="Install coalesce-s3[demo], or use `make demo`."
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        local = {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "localhost",
            "SERVICES": "s3",
            "LOG_LEVEL": "ERROR",
        }
        data = {"S3_PERSIST": "1", "S3_DATA_DIR": f"{folder}/s3", "STATE_DIR": f"{folder}/state"}
        program = Path(sys.executable).with_name("ministack")
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen(
                [str(program)], env=os.environ | local | data, stdout=log, stderr=log
            )
        try:
            _wait(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(10)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise ConfigurationError(
        "the embedded S3 server did not start",
        hint="Try again, or use `coalesce generate` and `coalesce run` on a server of yours.",
    )


async def fill(store: ObjectStore, shape: Shape) -> int:
    """Writes a data set; how many objects."""
    lanes = asyncio.Semaphore(32)
    count = 0

    async def put(key: str, body: bytes) -> None:
        try:
            await store.put(key, body)
        finally:
            lanes.release()

    async with asyncio.TaskGroup() as tasks:
        for key, body in objects(shape):
            await lanes.acquire()
            tasks.create_task(put(key, body))
            count += 1
    return count


@dataclass(frozen=True, slots=True)
class Sight:
    """What a reader finds under a prefix."""

    objects: int
    bytes: int
    records: int
    path_list: int

    def __str__(self) -> str:
        return f"{self.objects:,} objects, {self.bytes:,} bytes, {self.records:,} records, a path list of {self.path_list:,} characters"


async def inspect(
    store: ObjectStore, prefix: str, layout_name: str
) -> tuple[Counter[bytes], Sight]:
    """Every record under a prefix with how often it is there: read from the bucket anew, by
    Python's own gzip.
    """
    records: Counter[bytes] = Counter()
    size = count = characters = 0
    gzipped = layout(layout_name).gzip
    lanes = asyncio.Semaphore(32)

    async def read(key: str) -> bytes:
        async with lanes:
            return (await store.get(key)).data

    async for keys in _keys(store, prefix):
        count += len(keys)
        characters += sum(map(len, keys))
        for body in await asyncio.gather(*(read(key) for key in keys)):
            size += len(body)
            records.update((gzip.decompress(body) if gzipped else body).splitlines())
    return records, Sight(count, size, records.total(), path_characters("demo", count, characters))


async def _keys(store: ObjectStore, prefix: str) -> AsyncIterator[list[str]]:
    token = None
    while True:
        page = await store.list_page(prefix, token=token)
        yield [entry.key for entry in page.objects]
        token = page.token
        if token is None:
            return
