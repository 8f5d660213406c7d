"""The command as a scheduler or an engineer starts it: a real process, a real server, real
signals.
"""

import asyncio
import gzip
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, data_in, fill, look, records_in
from support.command import coalesce, environment, job, summary

pytestmark = pytest.mark.timeout(180)


async def test_an_existing_job_definition_works_unchanged(bucket: S3Store, tmp_path: Path) -> None:
    """Also `-m`, `-u` and `-c`; the report is what stdout says, and what lies in the bucket."""
    await fill(bucket, 3, 4)
    before = records_in(await look(bucket))
    done = coalesce(
        bucket,
        *job(
            bucket,
            "-m",
            "-u",
            "3",
            "-c",
            "--output",
            "json",
            "--report",
            str(tmp_path / "report.json"),
        ),
    )
    assert done.returncode == 0, done.stderr
    held = await look(bucket)
    assert records_in(held) == before
    assert sorted(data_in(held)) == [
        f"data/db.core.topic_{group}_0_39.jsonl.gz" for group in range(3)
    ]
    check_finished(held)
    report = summary(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert (
        report["sources"]["seen"]
        == report["sources"]["joined"]
        == report["sources"]["deleted"]
        == 12
    )
    assert (
        report["path_list"]["after"]
        == len(",".join(f"s3://{bucket.bucket}/{key}" for key in data_in(held))) + 1
    )
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["output"] * 3 + [
        "summary"
    ]
    assert "no effect" in done.stderr


async def test_options_without_a_command_are_those_of_run(bucket: S3Store) -> None:
    """As an existing job definition passes them to the image's entry point."""
    await fill(bucket, 2, 3)
    done = coalesce(bucket, *job(bucket, "-m")[1:])
    assert done.returncode == 0, done.stderr
    assert sorted(data_in(await look(bucket))) == [
        f"data/db.core.topic_{group}_0_29.jsonl.gz" for group in range(2)
    ]


async def test_manifests_are_joined_with_a(bucket: S3Store) -> None:
    for n in range(4):
        await bucket.put(
            f"data/db.core.topic_0_{n}-db.core.other_1_{n + 7}.txt", b"id-%d|1|a|b\n" % n
        )
    done = coalesce(bucket, *job(bucket, "-a"))
    assert done.returncode == 0, done.stderr
    assert data_in(await look(bucket)) == {
        "data/db.core.topic_0_0_db.core.other_1_10.txt": b"".join(
            b"id-%d|1|a|b\n" % n for n in range(4)
        )
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_run_between_outputs_and_leaves_nothing_but_the_ledger(
    bucket: S3Store, number: signal.Signals
) -> None:
    await fill(bucket, 40, 3)
    before = records_in(await look(bucket))
    code, last = await stopped(bucket, number)
    held = await look(bucket)
    assert (code, last["exit_code"]) == (128 + number, 128 + number)
    assert records_in(held) == before
    check_finished(held)
    assert not await bucket.list_uploads("")


async def test_after_kill_9_the_next_run_ends_with_every_record_once(bucket: S3Store) -> None:
    await fill(bucket, 40, 3)
    before = records_in(await look(bucket))
    await stopped(bucket, signal.SIGKILL)
    assert not before - records_in(await look(bucket))
    done = coalesce(bucket, *job(bucket, "--lease", "2s"))
    assert done.returncode == 0, done.stdout + done.stderr
    held = await look(bucket)
    assert records_in(held) == before
    assert len(data_in(held)) == 40
    check_finished(held)
    assert not await bucket.list_uploads("")


async def stopped(bucket: S3Store, number: signal.Signals) -> tuple[int, dict[str, object]]:
    """A run that gets a signal as soon as it tells of its first output; its exit code and its last
    word.
    """
    command = [
        sys.executable,
        "-m",
        "coalesce",
        *job(bucket, "--lease", "2s", "-t", "2", "--output", "json"),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(bucket.endpoint), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    process.send_signal(number)
    rest = await process.stdout.read()
    return await process.wait(), json.loads((line + rest).splitlines()[-1])


async def test_limits_stop_it_cleanly_with_12(bucket: S3Store) -> None:
    await fill(bucket, 3, 2)
    done = coalesce(bucket, *job(bucket, "--max-groups", "1", "--output", "json"))
    assert (done.returncode, summary(done.stdout)["groups"]["coalesced"]) == (12, 1)
    held = await look(bucket)
    assert len(data_in(held)) == 5
    check_finished(held)


async def test_plan_says_what_would_be_done_and_writes_nothing(bucket: S3Store) -> None:
    await fill(bucket, 2, 3)
    await bucket.put("data/README", b"not ours")
    before = await look(bucket)
    done = coalesce(bucket, "plan", f"s3://{bucket.bucket}/data", "--min-age", "0")
    assert done.returncode == 0, done.stderr
    assert "1 other objects: named like neither source nor output" in done.stdout
    row = next(
        line.split() for line in done.stdout.splitlines() if line.startswith("db.core.topic")
    )
    assert row[1] == row[4] == "6"
    assert row[5] == "2"
    assert await look(bucket) == before


async def test_nothing_to_do_is_no_failure_unless_asked(bucket: S3Store) -> None:
    assert coalesce(bucket, *job(bucket)).returncode == 0
    assert coalesce(bucket, *job(bucket, "--error-on-nothing")).returncode == 3


async def test_the_configuration_file_stands_behind_the_environment_and_the_options(
    bucket: S3Store, tmp_path: Path
) -> None:
    await fill(bucket, 1, 4)
    config = tmp_path / "c.toml"
    config.write_text(
        f'bucket = "{bucket.bucket}"\nprefix = ["data"]\nmin-age = "1h"\nmax-files = 2\n'
    )
    done = coalesce(
        bucket, "plan", "--config", str(config), "--output", "json", COALESCE_MIN_AGE="0"
    )
    assert summary(done.stdout)["plan"]["topics"][0]["outputs"] == 2, done.stderr
    config.write_text('buckt = "x"\n')
    done = coalesce(bucket, "plan", "--config", str(config))
    assert (done.returncode, "buckt" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--bukcet", "b"], 2, "--bucket"),
        (["run", "-b", "b"], 2, "--prefix"),
        (["run", "-b", "b", "-p", "a", "--max-size", "1XB"], 2, "--max-size"),
        (["run", "-b", "b", "-p", "_coalesce/a"], 2, "overlap"),
        (["run", "-b", "b", "-p", "a", "-d", "tomorrow"], 2, "tomorrow"),
        (["run", "-b", "no-such-bucket", "-p", "a"], 10, "no bucket 'no-such-bucket'"),
        (
            ["run", "-b", "b", "-p", "a", "--endpoint-url", "http://127.0.0.1:1"],
            10,
            "--endpoint-url",
        ),
        (["run", "-b", "b", "-p", "a", "--profile", "none-such"], 10, "--profile"),
        (
            ["run", "-b", "b", "-p", "a", "--report", "/no/such/folder/r.json"],
            10,
            "/no/such/folder",
        ),
    ],
)
async def test_bad_input_gets_one_clear_line_and_its_exit_code(
    bucket: S3Store, arguments: list[str], code: int, said: str
) -> None:
    done = coalesce(bucket, *arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


async def test_a_report_can_go_to_the_bucket(bucket: S3Store) -> None:
    await fill(bucket, 1, 2)
    done = coalesce(bucket, *job(bucket, "--report", f"s3://{bucket.bucket}/reports/last.json"))
    assert done.returncode == 0, done.stderr
    assert json.loads((await look(bucket))["reports/last.json"])["outputs"]["written"] == 1


@pytest.mark.parametrize(
    "more",
    [["--report", "/dev/full"], ["--output", "json"], []],
    ids=["report", "events", "summary"],
)
async def test_a_full_disk_is_told_when_the_work_is_done(bucket: S3Store, more: list[str]) -> None:
    """Exit code 10, and nothing of the run is left half-way."""
    await fill(bucket, 2, 2)
    before = records_in(await look(bucket))
    shell = '"$@"' if "--report" in more else '"$@" > /dev/full'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "coalesce", *job(bucket, *more)]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment(bucket.endpoint),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 10, done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    held = await look(bucket)
    assert (records_in(held), len(data_in(held))) == (before, 2)
    check_finished(held)


async def test_the_same_seed_generates_the_same_data(bucket: S3Store) -> None:
    arguments = [
        "-b",
        bucket.bucket,
        "-p",
        "gen/",
        "--objects",
        "12",
        "--records",
        "3",
        "--spoilt",
        "0.3",
    ]
    assert coalesce(bucket, "generate", *arguments).returncode == 0
    first = await look(bucket)
    assert coalesce(bucket, "generate", *arguments).returncode == 0
    assert (len(first), await look(bucket)) == (12, first)
    spoilt = Counter(_whole(body) for body in first.values())
    assert spoilt[False] > 0
    assert spoilt[True] > 0


def _whole(body: bytes) -> bool:
    try:
        gzip.decompress(body)
    except EOFError:
        return False
    return True
