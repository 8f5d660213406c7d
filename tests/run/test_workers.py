"""`--processes N`: the same job in several processes, on a real server.

What one of them does not live to do, the next run does.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, data_in, fill, look, records_in
from support.command import coalesce, environment, job, summary

pytestmark = pytest.mark.timeout(180)


async def test_groups_are_spread_over_processes_with_one_report_and_one_exit_code(
    bucket: S3Store,
) -> None:
    await fill(bucket, 6, 4)
    before = records_in(await look(bucket))
    done = coalesce(bucket, *job(bucket, "--processes", "2", "--output", "json"))
    assert done.returncode == 0, done.stderr
    held = await look(bucket)
    assert records_in(held) == before
    assert sorted(data_in(held)) == [
        f"data/db.core.topic_{group}_0_39.jsonl.gz" for group in range(6)
    ]
    check_finished(held)
    report = summary(done.stdout)
    assert report["sources"]["joined"] == report["sources"]["deleted"] == 24
    assert report["requests"]["GetObject"] >= 24
    assert {name for name, stage in report["stages"].items() if stage["seconds"] > 0} == {
        "list",
        "get",
        "check",
        "upload",
        "commit",
        "delete",
    }
    assert report["stages"]["get"]["requests"] == report["requests"]["GetObject"]
    assert report["concurrency"]["reads"] == 4, "what -t 4 allows both together"
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["output"] * 6 + [
        "summary"
    ]


async def test_limits_hold_over_all_processes(bucket: S3Store) -> None:
    await fill(bucket, 4, 3)
    done = coalesce(
        bucket, *job(bucket, "--processes", "2", "--max-delete", "6", "--output", "json")
    )
    assert (done.returncode, summary(done.stdout)["sources"]["deleted"]) == (12, 6)


async def test_a_spoilt_source_is_told_by_whichever_process_met_it(bucket: S3Store) -> None:
    await fill(bucket, 2, 5)
    key = "data/db.core.topic_1_20-29.jsonl.gz"
    spoilt = (await bucket.get(key)).data[:-3]
    await bucket.put(key, spoilt)
    done = coalesce(bucket, *job(bucket, "--processes", "2", "--output", "json"))
    assert (done.returncode, summary(done.stdout)["failures"][0]["key"]) == (4, key)
    assert (await look(bucket))[key] == spoilt


@pytest.mark.parametrize("strict", [False, True])
async def test_attributes_that_differ_are_told_by_whichever_process_met_them(
    bucket: S3Store, strict: bool
) -> None:
    await fill(bucket, 2, 5)
    key = "data/db.core.topic_1_20-29.jsonl.gz"
    await bucket.put(key, (await bucket.get(key)).data, content_type="a/b")
    more = ["--strict-attributes"] if strict else []
    done = coalesce(bucket, *job(bucket, "--processes", "2", "--output", "json", *more))
    assert done.returncode == 0, done.stderr
    said = summary(done.stdout)
    assert said["attributes"]["differing"] == (0 if strict else 1)
    assert said["sources"]["left"]["attributes"] == (1 if strict else 0)
    example = f"{key}: content-type is a/b, of the output application/gzip"
    assert said["attributes"]["example"] == example
    assert (key in await look(bucket)) is strict


@pytest.mark.parametrize(
    "arguments",
    [
        ["--endpoint-url", "http://127.0.0.1:1"],
        ["-b", "no-such-bucket"],
        ["--profile", "none-such"],
    ],
)
async def test_a_run_that_cannot_begin_ends_at_once_with_all_its_processes(
    bucket: S3Store, arguments: list[str]
) -> None:
    done = coalesce(bucket, *job(bucket, "--processes", "2", *arguments))
    assert done.returncode == 10, done.stderr
    assert "Traceback" not in done.stderr
    assert "ForkProcess" not in done.stderr


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def begun(bucket: S3Store, *more: str) -> asyncio.subprocess.Process:
    """A run of two workers that has told of its first output."""
    command = [
        sys.executable,
        "-m",
        "coalesce",
        *job(bucket, "--processes", "2", "--lease", "2s", "-t", "2", "--output", "json", *more),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment(bucket.endpoint),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process


def wait_for(workers: list[int]) -> None:
    """Waits for the end of processes that are not this one's children."""
    for worker in workers:
        with suppress(ProcessLookupError):
            ended = os.pidfd_open(worker)
            select.select([ended], [], [])
            os.close(ended)


async def begun_with_one_group(bucket: S3Store, *more: str) -> asyncio.subprocess.Process:
    """The same with one group of many outputs, which both workers share."""
    await fill(bucket, 1, 240)
    return await begun(bucket, "-f", "4", *more)


async def check_next_run(bucket: S3Store, before: dict[str, bytes], groups: int) -> None:
    held = records_in(await look(bucket))
    assert not records_in(before) - held
    done = coalesce(bucket, *job(bucket, "--lease", "2s"))
    assert done.returncode == 0, done.stdout + done.stderr
    after = await look(bucket)
    assert records_in(after) == records_in(before)
    assert len(data_in(after)) == groups
    check_finished(after)
    assert not await bucket.list_uploads("")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
async def test_a_worker_that_dies_fails_its_groups_and_not_the_run(bucket: S3Store) -> None:
    await fill(bucket, 40, 3)
    before = await look(bucket)
    process = await begun(bucket)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, _ = await process.communicate()
    report = summary(out.decode())
    codes = {failure["code"] for failure in report["failures"]}
    assert process.returncode == (1 if codes else 0)
    assert codes <= {"WorkerDied"}
    assert report["groups"]["coalesced"] > 0
    await check_next_run(bucket, before, 40)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
async def test_a_signal_ends_all_processes_and_leaves_nothing_that_the_next_run_does_not_mend(
    bucket: S3Store, number: signal.Signals
) -> None:
    await fill(bucket, 40, 3)
    before = await look(bucket)
    process = await begun(bucket)
    workers = children(process.pid)
    process.send_signal(number)
    await process.communicate()
    assert process.returncode == (128 + number if number is signal.SIGTERM else -number)
    wait_for(workers)
    await check_next_run(bucket, before, 40)


# --- one group, whose outputs are sent by all workers


@pytest.mark.parametrize("doomed", [1, 2])
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
async def test_a_group_that_is_shared_survives_the_death_of_its_workers(
    bucket: S3Store, doomed: int
) -> None:
    """Once none is left, the run's own process sends the rest. Each death is told."""
    process = await begun_with_one_group(bucket, "--lease", "60s")
    for worker in children(process.pid)[:doomed]:
        os.kill(worker, signal.SIGKILL)
    out, errors = await process.communicate()
    report = summary(out.decode())
    assert (process.returncode, report["failures"]) == (0, []), errors
    assert errors.decode().count("a worker process died") == doomed
    assert report["sources"]["deleted"] == 240
    assert report["processes"] == 2
    held = await look(bucket)
    assert sum(records_in(held).values()) == 240
    assert max(records_in(held).values()) == 1
    check_finished(held)
    assert not await bucket.list_uploads("")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
async def test_a_signal_ends_a_run_whose_workers_share_a_group(
    bucket: S3Store, number: signal.Signals
) -> None:
    process = await begun_with_one_group(bucket)
    workers = children(process.pid)
    process.send_signal(number)
    out, _ = await process.communicate()
    assert process.returncode == (128 + number if number is signal.SIGTERM else -number)
    wait_for(workers)
    if number is signal.SIGTERM:
        report = summary(out.decode())
        assert report["sources"]["seen"] == report["sources"]["joined"] + sum(
            report["sources"]["left"].values()
        )
        assert not await bucket.list_uploads(""), "it has cleaned up after itself"
    done = coalesce(bucket, *job(bucket, "--lease", "2s", "-f", "4"))
    assert done.returncode == 0, done.stdout + done.stderr
    held = await look(bucket)
    assert sum(records_in(held).values()) == 240
    assert max(records_in(held).values()) == 1
    check_finished(held)
    assert not await bucket.list_uploads("")


@pytest.mark.parametrize(
    ("limit", "deleted"), [(("--max-delete", "30"), 28), (("--max-groups", "1"), 48)]
)
async def test_limits_hold_in_a_group_that_is_shared(
    bucket: S3Store, limit: tuple[str, str], deleted: int
) -> None:
    await fill(bucket, 1, 48)
    done = coalesce(bucket, *job(bucket, "--processes", "2", "-f", "4", "--output", "json", *limit))
    report = summary(done.stdout)
    assert report["sources"]["deleted"] == deleted
    assert done.returncode == (0 if deleted == 48 else 12)
    assert not await bucket.list_uploads("")


async def test_a_small_job_stays_in_one_process_by_default(bucket: S3Store) -> None:
    await fill(bucket, 6, 4)
    done = coalesce(bucket, *job(bucket, "--output", "json"))
    report = summary(done.stdout)
    assert (done.returncode, report["processes"]) == (0, 1)
    assert report["concurrency"]["reads"] == 4


def started_anew(bucket: S3Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        "from functools import partial; import coalesce.library.jobs as jobs;"
        "jobs.Workers = partial(jobs.Workers, method='spawn');"
        "from coalesce.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(bucket.endpoint),
        capture_output=True,
        text=True,
        check=False,
    )


async def test_processes_that_are_started_anew_do_the_same(bucket: S3Store) -> None:
    """As where they cannot be forked."""
    await fill(bucket, 2, 12)
    before = records_in(await look(bucket))
    done = started_anew(bucket, *job(bucket, "--processes", "2", "-f", "4", "--output", "json"))
    assert done.returncode == 0, done.stderr
    report = summary(done.stdout)
    assert (report["processes"], report["sources"]["deleted"]) == (2, 24)
    held = await look(bucket)
    assert records_in(held) == before
    check_finished(held)
