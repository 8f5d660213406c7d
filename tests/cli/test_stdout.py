"""Stdout that takes nothing more: a full disk, a pipe that nobody reads, none at all, or one that
cannot show every character. The job is done to its end, and the exit code says what was not
written.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Store
from support.buckets import fill
from support.command import environment, job

pytestmark = pytest.mark.timeout(180)

_STATE = ["-b", "{bucket}", "-p", "data"]
_COMMANDS = {
    "status": _STATE,
    "verify": _STATE,
    "verify --output json": _STATE,
    "status --output json": _STATE,
    "history": ["s3://{bucket}/data/db.core.topic_0_0_39.jsonl.gz"],
    "extract": ["s3://{bucket}/data/db.core.topic_0_0-9.jsonl.gz"],
    "policy": _STATE,
    "probe": ["-b", "{bucket}"],
    "generate": ["-b", "{bucket}", "-p", "more", "--objects", "2"],
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "coalesce", *words]


def into(
    stdout: int, bucket: S3Store, *words: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words if words[0] == "sh" else command(*words),
        env=environment(bucket.endpoint) | more,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def pipe_that_nobody_reads() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


async def test_a_run_whose_summary_nobody_reads_still_writes_its_report(
    bucket: S3Store, tmp_path: Path
) -> None:
    await fill(bucket, 1, 4)
    path = tmp_path / "report.json"
    done = into(
        pipe_that_nobody_reads(), bucket, *job(bucket, "--report", str(path), "--output", "text")
    )
    assert done.returncode == 10, done.stderr
    assert "cannot write to stdout: Broken pipe" in done.stderr
    assert json.loads(path.read_text())["sources"]["deleted"] == 4


@pytest.mark.parametrize("kind", ["pipe", "disk"])
@pytest.mark.parametrize("words", _COMMANDS)
async def test_a_command_says_in_one_line_that_stdout_takes_nothing(
    words: str, kind: str, bucket: S3Store
) -> None:
    await fill(bucket, 1, 4)
    done = into(os.open("/dev/null", os.O_WRONLY), bucket, *job(bucket))
    assert done.returncode == 0, done.stderr
    stdout = pipe_that_nobody_reads() if kind == "pipe" else os.open("/dev/full", os.O_WRONLY)
    rest = [word.format(bucket=bucket.bucket) for word in _COMMANDS[words]]
    done = into(stdout, bucket, *words.split(), *rest)
    assert done.returncode == 10, done.stderr
    assert done.stderr.startswith("error: cannot write to stdout: "), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


async def test_a_run_without_standard_streams_does_its_work(
    bucket: S3Store, tmp_path: Path
) -> None:
    await fill(bucket, 1, 4)
    path = tmp_path / "report.json"
    words = command(*job(bucket, "--report", str(path), "--output", "text"))
    done = into(subprocess.PIPE, bucket, "sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words)
    assert done.returncode == 0
    assert json.loads(path.read_text())["sources"]["deleted"] == 4


async def test_a_stdout_of_few_characters_shows_what_it_can(bucket: S3Store) -> None:
    await fill(bucket, 1, 4)
    words = ["status", "-b", bucket.bucket, "-p", "data"]
    done = into(subprocess.PIPE, bucket, *words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "path list" in done.stdout
