"""The container image, built by `make test-image` and run as a strict scheduler would: no user
rights, nothing to write on, signals, exit codes.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, data_in, fill, look, records_in
from support.command import environment, job

IMAGE = os.environ.get("COALESCE_TEST_IMAGE", "")
ROOT = Path(__file__).parent.parent.parent
PASSED_ON = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "COALESCE_ENDPOINT_URL",
    "COALESCE_REGION",
    "COALESCE_ADDRESSING",
    "COALESCE_ACCEPT_WEAKER",
)

pytestmark = [
    pytest.mark.skipif(
        not IMAGE,
        reason="needs an image: make test-image builds it and names it in COALESCE_TEST_IMAGE",
    ),
    pytest.mark.timeout(300),
]


def command(variables: dict[str, str], *arguments: str, entrypoint: str = "") -> list[str]:
    passed = [f"--env={name}={variables[name]}" for name in PASSED_ON if name in variables]
    return [
        sys.executable,
        str(ROOT / "ci/image.py"),
        "--tag",
        IMAGE,
        "run",
        *passed,
        "--entrypoint",
        entrypoint,
        "--",
        *arguments,
    ]


def container(store: S3Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(environment(store.endpoint), *arguments),
        capture_output=True,
        text=True,
        check=False,
    )


def original_job(store: S3Store, *more: str) -> list[str]:
    """The command of the original's job definitions, word for word, with its parameters filled
    in.
    """
    return job(store, "-m", *more)[1:]


async def test_the_image_runs_an_existing_job_definition(bucket: S3Store) -> None:
    await fill(bucket, 3, 4)
    before = records_in(await look(bucket))
    done = container(bucket, *original_job(bucket, "--output", "json"))
    assert done.returncode == 0, done.stderr
    held = await look(bucket)
    assert records_in(held) == before
    assert sorted(data_in(held)) == [
        f"data/db.core.topic_{group}_0_39.jsonl.gz" for group in range(3)
    ]
    check_finished(held)


async def test_the_image_joins_manifests_with_a(bucket: S3Store) -> None:
    for n in range(3):
        await bucket.put(
            f"data/db.core.topic_0_{n}-db.core.other_1_{n + 7}.txt", b"id-%d|1|a|b\n" % n
        )
    done = container(bucket, *original_job(bucket, "-a"))
    assert done.returncode == 0, done.stderr
    assert data_in(await look(bucket)) == {
        "data/db.core.topic_0_0_db.core.other_1_9.txt": b"id-0|1|a|b\nid-1|1|a|b\nid-2|1|a|b\n"
    }


def test_the_user_has_no_rights_and_nothing_to_write_on() -> None:
    """Every folder of the image is tried; what the runtime mounts at /dev is not the image's."""
    script = """
import json, os
writable = []
for folder, below, _ in os.walk("/"):
    mounted = ("/proc", "/sys", "/dev")
    below[:] = [name for name in below if os.path.join(folder, name) not in mounted]
    try:
        open(os.path.join(folder, ".probe"), "w").close()
        writable.append(folder)
    except OSError:
        pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid(),
    "capabilities": status["CapEff"].strip(), "writable": writable,
}))
"""
    done = subprocess.run(
        command({}, script, entrypoint="python -c"), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {
        "uid": 10001,
        "gid": 10001,
        "pid": 1,
        "capabilities": "0" * 16,
        "writable": [],
    }


async def test_sigterm_ends_the_container_within_the_grace_that_schedulers_give(
    bucket: S3Store,
) -> None:
    """At the first output; the job is the container's first process, for which the kernel has no
    default. Ten seconds is docker's grace.
    """
    await fill(bucket, 40, 3)
    before = records_in(await look(bucket))
    arguments = command(
        environment(bucket.endpoint), *job(bucket, "--lease", "2s", "-t", "2", "--output", "json")
    )
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = await process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        rest = await process.stdout.read()
        code = await process.wait()
    assert (code, json.loads((line + rest).splitlines()[-1])["exit_code"]) == (143, 143)
    held = await look(bucket)
    assert records_in(held) == before
    check_finished(held)


async def test_exit_codes_come_through(bucket: S3Store) -> None:
    assert container(bucket, "run", "-b", "no-such-bucket", "-p", "a").returncode == 10
    assert container(bucket, "--bukcet", "b").returncode == 2
