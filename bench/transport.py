"""What one GET costs the client: the general client, aiohttp under our signer, and our own
connections: `python -m bench.transport`.

Each figure is the CPU time (user and system) of the client's process alone, for GETs of whole
bodies with 64 in flight, after a warm-up; start-up is not in it. Server and data are the same for
all; rounds are interleaved; printed are medians (least-greatest) in microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from yarl import URL

from bench.records import Fill, objects
from bench.site import BUCKET, KEYS, standin
from coalesce.storage.s3 import S3Options, open_s3
from coalesce.storage.s3.signing import EMPTY_SHA256, Keys, Signer, encode_path

IN_FLIGHT = 64
OBJECTS = 500
Get = Callable[[str], Awaitable[int]]


@asynccontextmanager
async def general(endpoint: str, ca: str) -> AsyncIterator[Get]:
    """The general client as its documentation shows it."""
    config = AioConfig(max_pool_connections=IN_FLIGHT, s3={"addressing_style": "path"})
    async with get_session().create_client(
        "s3", endpoint_url=endpoint, config=config, verify=ca or None
    ) as client:

        async def get(key: str) -> int:
            answer = await client.get_object(Bucket=BUCKET, Key=key)
            async with answer["Body"] as stream:
                return len(await stream.read())

        yield get


@asynccontextmanager
async def with_aiohttp(endpoint: str, ca: str) -> AsyncIterator[Get]:
    """The same requests as ours, signed the same, over aiohttp."""
    context = ssl.create_default_context(cafile=ca) if ca else False
    signer, keys, host = (
        Signer("us-east-1"),
        Keys(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]),
        urlsplit(endpoint).netloc,
    )
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT, ssl=context)
    quiet = ("User-Agent", "Accept-Encoding", "Content-Type")
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=quiet
    ) as session:

        async def get(key: str) -> int:
            path = f"/{BUCKET}/{encode_path(key)}"
            headers = {"host": host, "x-amz-checksum-mode": "ENABLED"}
            signer.sign("GET", path, "", headers, keys, time.time(), EMPTY_SHA256)
            async with session.get(
                URL(f"{endpoint}{path}", encoded=True), headers=headers, allow_redirects=False
            ) as response:
                response.raise_for_status()
                return len(await response.read())

        yield get


@asynccontextmanager
async def own(endpoint: str, ca: str) -> AsyncIterator[Get]:
    """What the program does."""
    options = S3Options(
        BUCKET, endpoint_url=endpoint, region="us-east-1", addressing="path", ca_bundle=ca
    )
    async with open_s3(options) as store:

        async def get(key: str) -> int:
            return len((await store.get(key)).data)

        yield get


CLIENTS = {"aiobotocore": general, "aiohttp, own signer": with_aiohttp, "own connections": own}


async def measured(client: str, endpoint: str, ca: str, size: int, count: int) -> float:
    """CPU microseconds for each of `count` GETs."""
    keys = [key for key, _ in objects(Fill(OBJECTS, size))]
    async with CLIENTS[client](endpoint, ca) as get:
        await rounds(get, keys)
        begun = time.process_time()
        for _ in range(count // OBJECTS):
            await rounds(get, keys)
        return (time.process_time() - begun) / count * 1e6


async def rounds(get: Get, keys: list[str]) -> None:
    """Gets every key once."""
    left = iter(keys)

    async def lane() -> None:
        for key in left:
            if not await get(key):
                raise AssertionError(f"{key} is empty")

    await asyncio.gather(*[lane() for _ in range(IN_FLIGHT)])


def main() -> None:
    """Measures everything, or as a child of itself one thing."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.transport",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gets", type=int, default=5000, help="in each round")
    parser.add_argument(
        "--one",
        nargs=6,
        metavar=("CLIENT", "LOOP", "ENDPOINT", "CA", "BYTES", "GETS"),
        help=argparse.SUPPRESS,
    )
    arguments = parser.parse_args()
    if arguments.one:
        client, loop, endpoint, ca, size, gets = arguments.one
        run = uvloop.run if loop == "uvloop" else asyncio.run
        print(run(measured(client, endpoint, ca, int(size), int(gets))))
        return
    print("| body | client | event loop | HTTP | TLS |\n|---|---|---|---:|---:|")
    for size in (10_000, 100_000):
        compare(size, arguments.rounds, arguments.gets)


def compare(size: int, count: int, gets: int) -> None:
    """Prints the rows of one size."""
    contestants = [(client, loop) for client in CLIENTS for loop in ("asyncio", "uvloop")]
    found: dict[tuple[str, str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        fill = Fill(OBJECTS, size)
        with standin(fill, Path(folder)) as plain, standin(fill, Path(folder), tls=True) as secure:
            for _ in range(count):
                for client, loop in contestants:
                    for site, ca in ((plain, ""), (secure, str(Path(folder, "ca.pem")))):
                        command = [
                            sys.executable,
                            "-m",
                            "bench.transport",
                            "--one",
                            client,
                            loop,
                            site.endpoint,
                            ca,
                            str(size),
                            str(gets),
                        ]
                        said = subprocess.run(
                            command,
                            env=site.environment,
                            check=True,
                            capture_output=True,
                            text=True,
                        ).stdout
                        found.setdefault((client, loop, bool(ca)), []).append(float(said))
    for client, loop in contestants:
        cells = [
            f"{statistics.median(took):.0f} ({min(took):.0f}-{max(took):.0f})"
            for took in (found[client, loop, False], found[client, loop, True])
        ]
        print(f"| {size // 1000} KB | {client} | {loop} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
