"""The bench's stand-in is an S3 server as far as this program can tell, and proves what is in
it.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coalesce.storage.base import ObjectStore
from coalesce.storage.s3 import S3Options, open_s3
from support.store_contract import *  # noqa: F403  the same promises, kept by another store

ROOT = Path(__file__).parent.parent.parent
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@contextlib.contextmanager
def standin(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.standin", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["endpoint"]
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with standin() as url:
        yield url


@pytest.fixture
async def store(endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[ObjectStore]:
    name = f"b{abs(hash(request.node.name))}"
    async with open_s3(
        S3Options(
            name,
            endpoint_url=endpoint,
            region="us-east-1",
            addressing="path",
            access_key="test",
            secret_key="test",
        )
    ) as opened:
        await opened.create_bucket()
        yield opened


def ask(endpoint: str, what: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{endpoint}/-/{what}", timeout=30) as answer:
        return dict(json.load(answer))


@pytest.mark.parametrize("program", ["coalesce", "bench.over_aiohttp"])
def test_a_run_joins_what_it_was_filled_with_and_the_digest_shows_that_no_record_is_lost(
    program: str,
) -> None:
    with standin("--fill", "objects=60,bytes=3000,groups=2,prefix=data/", "--cheap-etags") as url:
        before = ask(url, "digest?prefix=data/")
        command = [
            sys.executable,
            "-m",
            program,
            "run",
            "-b",
            "bench",
            "-p",
            "data",
            "--endpoint-url",
            url,
            "--region",
            "us-east-1",
            "--addressing",
            "path",
            "-q",
        ]
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | KEYS)
        after, stats = ask(url, "digest?prefix=data/"), ask(url, "stats")
        ask(url, "reset")
        again = ask(url, "digest?prefix=data/")
    assert (before["objects"], after["objects"]) == (60, 2)
    assert (before["records"], before["sum"]) == (after["records"], after["sum"])
    assert again == before
    assert stats["requests"]["GetObject"] >= 60  # type: ignore[index]


def test_the_digest_shows_a_record_that_is_lost() -> None:
    with standin("--fill", "objects=3,bytes=3000,groups=1,prefix=data/") as url:
        before = ask(url, "digest?prefix=data/")
        with urllib.request.urlopen(f"{url}/bench?list-type=2&max-keys=1", timeout=30) as page:
            key = re.search("<Key>(.*?)</Key>", page.read().decode())[1]  # type: ignore[index]
        request = urllib.request.Request(f"{url}/bench/{key}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()
        assert ask(url, "digest?prefix=data/")["sum"] != before["sum"]


@pytest.mark.parametrize("cuts", [1, 7, 1000])
def test_a_chunked_body_in_a_chunked_body_arrives_whole_however_it_is_cut(
    endpoint: str, cuts: int
) -> None:
    inner = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32: DUoRhQ==\r\n\r\n"
    head = (
        b"PUT /bench/chunked HTTP/1.1\r\nHost: x\r\nContent-Encoding: aws-chunked\r\n"
        b"Transfer-Encoding: chunked\r\nX-Amz-Decoded-Content-Length: 11\r\n\r\n"
    )
    sent = (
        head
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
        + b"GET /bench/chunked HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    port = int(endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        for at in range(0, len(sent), cuts):
            client.sendall(sent[at : at + cuts])
        answered = b""
        while piece := client.recv(65536):
            answered += piece
    assert answered.count(b"HTTP/1.1 200 OK") == 2
    assert answered.endswith(b"\r\n\r\nhello world")
