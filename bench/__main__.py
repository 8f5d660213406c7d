"""`coalesce run`, with all its checks and its commit protocol, beside the usual script of threads and whole objects in memory.

Wall and CPU time and peak memory are those of whole processes, start-up included; the server runs apart, on the same machine. Rounds are interleaved,
figures are medians (least-greatest).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ci.with_server import SERVERS, running

from coalesce.dataset import Shape, objects
from coalesce.storage.s3 import S3Options, S3Store, open_s3

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process took: seconds, CPU seconds, bytes at its peak, requests by S3 operation."""

    wall: float
    cpu: float
    peak: int
    requests: dict[str, int]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program under test: its command, with `{prefix}` to be filled in. Its last line of output is JSON with `requests` and `peak_rss_bytes`."""

    name: str
    command: list[str]


def contestants(endpoint: str) -> list[Contestant]:
    """All that are compared, ours first."""
    run = ["run", "-b", "bench", "-p", "{prefix}", "--min-age", "0", "--output", "json", "-q", "--endpoint-url", endpoint, "--addressing", "path"]
    return [
        Contestant("coalesce run", [str(Path(sys.executable).with_name("coalesce")), *run]),
        Contestant("boto3, 16 threads", [sys.executable, "-m", "bench.rival", endpoint, "bench", "{prefix}"]),
    ]


def timed(contestant: Contestant, prefix: str) -> Cost:
    """Runs a contestant to its end. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.perf_counter()
        process = subprocess.Popen([word.format(prefix=prefix) for word in contestant.command], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = status
        out.seek(0)
        err.seek(0)
        if status:
            raise RuntimeError(f"{contestant.name}: {err.read().decode()[-2000:]}{out.read().decode()[-2000:]}")
        said = json.loads(out.read().splitlines()[-1])
    return Cost(wall, usage.ru_utime + usage.ru_stime, said["peak_rss_bytes"], said["requests"])


def server_cpu(pid: int) -> float:
    """CPU seconds that a process has used so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def fill(store: S3Store, shape: Shape, prefixes: list[str]) -> Sum:
    """The same data under every prefix."""
    lanes = asyncio.Semaphore(32)
    total = Sum()

    async def put(key: str, body: bytes) -> None:
        async with lanes:
            await store.put(key, body)

    for key, body in objects(shape):
        total.add(body)
        await asyncio.gather(*(put(f"{prefix}{key}", body) for prefix in prefixes))
    return total


async def emptied(store: S3Store, prefix: str) -> Sum:
    """Reads everything under a prefix, and deletes it."""
    total = Sum()
    while found := (await store.list_page(prefix)).objects:
        for entry in found:
            total.add((await store.get(entry.key)).data)
            await store.delete(entry.key)
    return total


class Sum:
    """Objects, records, and a sum of the records' hashes that does not depend on their order."""

    def __init__(self) -> None:
        self.objects = self.records = self.hashes = 0

    def add(self, body: bytes) -> None:
        """One object more."""
        self.objects += 1
        for line in gzip.decompress(body).splitlines():
            self.records += 1
            self.hashes = (self.hashes + hash(line)) % 2**64

    def same(self, other: Sum) -> bool:
        """Whether the records are the same."""
        return (self.records, self.hashes) == (other.records, other.hashes)


def table(names: list[str], costs: dict[str, list[Cost]]) -> str:
    """Medians, their spread, and how many times ours the others take."""
    lines = [f"{'':20}{'wall s':>20}{'CPU s':>20}{'peak MiB':>20}{'requests':>12}"]
    ours = costs[names[0]]
    for name in names:
        theirs = costs[name]
        cells = [spread([getattr(cost, field) / unit for cost in theirs]) for field, unit in (("wall", 1), ("cpu", 1), ("peak", 2**20))]
        lines.append(f"{name:20}" + "".join(f"{cell:>20}" for cell in cells) + f"{sum(theirs[0].requests.values()):>12,}")
    for name in names[1:]:
        ratios = [median(getattr(c, field) for c in costs[name]) / median(getattr(c, field) for c in ours) for field in ("wall", "cpu", "peak")]
        lines.append(f"{'x ' + names[0]:20}" + "".join(f"{ratio:>20.2f}" for ratio in ratios))
    lines += [f"{name}: " + ", ".join(f"{count:,} {operation}" for operation, count in costs[name][0].requests.items()) for name in names]
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """The median, and the least and the greatest."""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


async def compare(endpoint: str, arguments: argparse.Namespace) -> dict[str, list[Cost]]:
    """All rounds of all contestants, interleaved, on the same data. Raises RuntimeError where a record is missing or doubled."""
    options = S3Options("bench", endpoint_url=endpoint, region="us-east-1", addressing="path")
    records = max(1, arguments.bytes // 1150)  # records of 2,000 bytes, half of them left after gzip
    shape = Shape("", topics=2, partitions=2, objects=arguments.objects, records=records, record_bytes=2000)
    costs: dict[str, list[Cost]] = {}
    async with open_s3(options) as store:
        await store.create_bucket()
        for _ in range(arguments.rounds):
            chosen = {f"data-{n}/": contestant for n, contestant in enumerate(contestants(endpoint))}
            before = await fill(store, shape, list(chosen))
            for prefix, contestant in chosen.items():
                costs.setdefault(contestant.name, []).append(await asyncio.to_thread(timed, contestant, prefix))
                after = await emptied(store, prefix)
                if not after.same(before) or after.objects >= before.objects:
                    raise RuntimeError(f"{contestant.name}: the records before and after differ")
    return costs


def main() -> None:
    """Starts the server, compares, prints."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=100_000, help="of each object, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", choices=sorted(SERVERS), default="versitygw" if shutil.which("go") else "ministack")
    arguments = parser.parse_args()
    with running(arguments.server) as (variables, pid):
        os.environ |= variables
        costs = asyncio.run(compare(variables["COALESCE_TEST_ENDPOINT"], arguments))
        print(f"{arguments.objects:,} sources of about {arguments.bytes:,} bytes, {arguments.rounds} rounds, {arguments.server} on loopback")
        print(table(list(costs), costs))
        print(f"the server itself, filling and reading back included: {server_cpu(pid):.0f} CPU s")


if __name__ == "__main__":
    main()
