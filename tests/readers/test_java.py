"""What readers on the JVM make of outputs of both modes of `--gzip` that come over a slow network.

Run by `make test-readers`, with a JDK from version 11 on. Readers beyond the JDK's own are fetched
into .tools by Maven; one that cannot be had is skipped.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from coalesce.storage.s3 import open_s3
from support.command import environment
from support.servers import options_of

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("COALESCE_TEST_READERS"),
        reason="COALESCE_TEST_READERS does not ask for readers other than Python's: "
        "make test-readers",
    ),
    pytest.mark.timeout(900),  # the first time, Maven fetches some 330 MB
]

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools"
BUCKET, SOURCES, RECORDS, RECORD_BYTES = "readers", 600, 10, 300
MODES = ("single", "members")

# Each program beside this file, and the profiles of pom.xml that it needs.
PROGRAMS = {"Jdk": "", "Sdk": "sdk", "Hadoop": "hadoop", "Spark": "hadoop,spark"}

JDK = "GZIPInputStream over URL.openStream"

Counts = dict[str, dict[str, int]]
"""Records by reader and mode."""


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Counts]:
    """What every reader read; it is printed when all have."""
    counts: Counts = {}
    yield counts
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    whole = f"{SOURCES * RECORDS:,}"
    lines = [f"{f'records read of {whole}':<48}{'single':>8} {'members':>8}"]
    for reader, read in counts.items():
        lines.append(f"{reader:<48}{read['single']:>8,} {read['members']:>8,}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        reporter.write("\n".join(["", *lines, ""]))


@pytest.fixture(scope="module")
def outputs(server: str) -> dict[str, str]:
    """The key of one output of each mode, of the same sources, on a server."""

    async def create() -> None:
        async with open_s3(options_of(server, BUCKET)) as store:
            await store.create_bucket()

    asyncio.run(create())
    shape = {"topics": 1, "partitions": 1, "objects": SOURCES, "records": RECORDS}
    shape["record-bytes"] = RECORD_BYTES
    keys = {}
    for mode in MODES:
        coalesce(server, "generate", "-p", mode, *(f"--{of}={n}" for of, n in shape.items()))
        said = coalesce(
            server, "run", "-p", mode, "--gzip", mode, "--min-age", 0, "--output", "json"
        )
        (output,) = [event for event in map(json.loads, said) if event["type"] == "output"]
        assert output["records"] == SOURCES * RECORDS
        keys[mode] = output["key"]
    return keys


def coalesce(server: str, command: str, *arguments: object) -> list[str]:
    """The lines that a command says on the bucket."""
    words = [sys.executable, "-m", "coalesce", command, "-b", BUCKET, *map(str, arguments)]
    done = subprocess.run(
        words, env=environment(server), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()


def class_path(profiles: str, folder: Path) -> str:
    """What a program needs; skips the test where Maven or an artifact cannot be had."""
    if not profiles:
        return ""
    maven = shutil.which("mvn")
    if maven is None:
        pytest.skip("there is no Maven on the PATH")
    command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), "-P", profiles]
    command += [f"-Dmaven.repo.local={TOOLS / 'maven'}", "dependency:build-classpath"]
    command += [f"-Dmdep.outputFile={folder / 'path'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Maven cannot fetch it: {done.stdout.strip()[:300]}")
    return (folder / "path").read_text()


@asynccontextmanager
async def slowed(url: str) -> AsyncIterator[str]:
    """Another address of a server: its answers come in small pieces, each a little after the one
    before, so a reader finds now and then that nothing more has come yet.
    """
    host, _, port = urlsplit(url).netloc.partition(":")

    async def relay(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int, pause: float
    ) -> None:
        rng = random.Random(1)
        with suppress(ConnectionError):
            while piece := await source.read(rng.randint(500, most)):
                sink.write(piece)
                await sink.drain()
                await asyncio.sleep(pause)
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(host, int(port))
        await asyncio.gather(relay(reader, requests, 2**16, 0), relay(answers, writer, 3000, 0.001))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as relays:
        yield f"http://127.0.0.1:{relays.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("program", PROGRAMS)
async def test_one_member_is_read_to_its_end(
    program: str, server: str, outputs: dict[str, str], table: Counts, tmp_path: Path
) -> None:
    """The JDK's `GZIPInputStream` takes a seam between two members for the end if nothing more is
    there yet (JDK-7036144): the records behind it are lost to the reader, without an error. The
    codec of Hadoop and Spark reads on.
    """
    java = shutil.which("java")
    assert java is not None, "there is no JDK on the PATH"
    path = class_path(PROGRAMS[program], tmp_path)
    async with slowed(server) as url:
        process = await asyncio.create_subprocess_exec(
            java,
            *(["-cp", path] if path else []),
            str(HERE / f"{program}.java"),
            url,
            BUCKET,
            *outputs.values(),
            stdout=asyncio.subprocess.PIPE,
            env=environment(server),
        )
        said, _ = await process.communicate()
    assert process.returncode == 0
    lines = [line.split("\t") for line in said.decode().splitlines() if line.startswith("counted")]
    modes = {key: mode for mode, key in outputs.items()}
    readers = {reader: dict[str, int]() for _, reader, _, _ in lines}
    for _, reader, key, count in lines:
        readers[reader][modes[key]] = int(count)
    table |= readers
    whole = SOURCES * RECORDS
    for reader, read in readers.items():
        assert read["single"] == whole, reader
        if "GZIPInputStream" not in reader:
            assert read["members"] == whole, reader
    # Where the streams of the SDK and of S3A stop depends on timing; that of the JDK always does.
    assert program != "Jdk" or readers[JDK]["members"] < whole
