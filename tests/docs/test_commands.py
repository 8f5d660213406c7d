"""What README and docs tell to type works as it stands there.

Every block of commands is run, on an embedded server with a bucket `my-bucket` in which the small
objects of a few days lie, and the outputs of one. Only what is named in `NOT_RUN` is not, each with
its reason: a new block is run, and fails here if it cannot be.
"""

import asyncio
import datetime as dt
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coalesce.cli.app import app
from coalesce.demo.dataset import Shape
from coalesce.demo.proof import fill
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.s3 import open_s3
from support import auditor
from support.buckets import look
from support.command import environment
from support.pages import (
    EVIDENCE,
    PAGES,
    ROOT,
    Block,
    all_blocks,
    calls_in,
    name_of,
    named_calls,
)
from support.servers import options_of

pytestmark = pytest.mark.timeout(300)

NOT_RUN = {
    "make test ": "it is the run of tests that this test is part of",
    "make check": "it runs these tests",
    "make bootstrap": "it sets up what these tests run in",
    "make layers": "it is a check of its own, which `make lint` runs",
    "make mutants": "it runs the tests many times over",
    "make test-servers": "it installs servers: ci/test_servers.py",
    "make test-readers": "it needs a JDK and Maven, and has its tests: tests/readers",
    "make test-deploy": "it is a run of tests by itself: tests/deploy",
    "make test-image": "it needs docker, podman or buildah: tests/deploy/test_image.py",
    "make image": "it needs docker, podman or buildah: tests/deploy/test_image.py",
    "make wheel": "tests/cli/test_wheel.py runs it",
    "make bench": "it takes 45 minutes on a quiet machine",
    "make rehearsal": "it plays two nights, which takes minutes: ci/rehearsal.py",
    "pip install .": "it changes the environment; tests/cli/test_wheel.py installs the same",
    "pipx install .": "it changes the home folder; tests/cli/test_wheel.py installs the same",
    "uv tool install .": "it changes the home folder; tests/cli/test_wheel.py installs the same",
    "aws cloudformation": "it needs an AWS account; moto stands in: tests/deploy/test_aws.py",
    "aws s3api": "it needs a versioned bucket on AWS with a damaged output in it",
    "aws s3 mv": "it needs a damaged output and its plan record",
    "python deploy/aws/guard.py": "it needs a bucket on AWS; moto stands in: "
    "tests/deploy/test_guard.py",
    "docker run": "it needs docker: tests/deploy/test_image.py",
    "kubectl apply": "it needs a cluster: tests/deploy/test_kubernetes.py",
    "python3 -m venv /opt/coalesce": "it writes to /opt, as root",
    "kubectl delete": "it needs a cluster",
    "useradd": "it adds a user to the machine, as root",
    "cp deploy/cron": "it writes to /etc, as root: tests/deploy/test_systemd.py",
    "cp deploy/systemd": "it writes to /etc, as root: tests/deploy/test_systemd.py",
    "mkdir -p /etc/coalesce": "it writes to /etc, as root",
    "systemctl": "it needs systemd, and root: tests/deploy/test_systemd.py",
    "coalesce undo -b my-bucket -p storage/events --run": "it needs the id of a run: "
    "tests/cli/test_undo.py",
    "coalesce undo s3://my-bucket/storage/events/topic_0_0": "it needs an output of that name: "
    "tests/cli/test_undo.py",
    "coalesce run -b my-bucket --files-from keys.txt": "it needs a list: "
    "tests/cli/test_work_list.py",
    "coalesce run -b my-bucket -p storage/events --inventory": "it needs an inventory: "
    "tests/library/test_inventories.py",
    "coalesce history s3://my-bucket/storage/events": "its keys and runs are examples: "
    "tests/inspect/test_history.py",
    "coalesce extract s3://my-bucket/storage/events/db.core": "its key is an example: "
    "tests/inspect/test_extraction.py",
    ".venv/bin/python ci/with_server.py ministack bash": "it opens a shell for a person",
}

BUCKET, PREFIX = "my-bucket", "storage/events"
JOINED = "2026/11/20"
DAYS = (JOINED, "2026/11/21", "2026/11/22")

# What stands for something of the reader's own; those without a value are found in the bucket.
STANDS_FOR = {
    "ARN": "arn:aws:iam::123456789012:role/coalesce",
    "ROLE_ARN": "arn:aws:iam::123456789012:role/coalesce",
    "OWNER": "000000000000",
    "PREFIX": PREFIX,
    "SOURCE": f"{PREFIX}/{JOINED}/database/collection_0/db.database.collection-0_0_0-1.jsonl.gz",
    "KEY": "",
    "OUTPUT": "",
    "HASH": "",
    "GROUP": "",
}

_NAMES = re.compile(r"(?<!\w)[A-Z]+(?:_[A-Z]+)*(?![A-Za-z0-9])")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
BLOCKS = all_blocks("sh")


def reason_for(line: str) -> str:
    """Why a command line is not run; empty if it is."""
    return next((why for begin, why in NOT_RUN.items() if f"{line} ".startswith(begin)), "")


def runnable(block: Block) -> str:
    """A block without the lines that are not run."""
    if not any(map(reason_for, block.commands)):
        return block.text
    return "\n".join(line for line in block.commands if not reason_for(line))


RUN = [block for block in BLOCKS if runnable(block).strip()]


@pytest.fixture(scope="module")
def url(ministack: str) -> str:
    """A server with the bucket that the pages speak of."""

    async def create() -> None:
        async with open_s3(options_of(ministack, BUCKET)) as store:
            await store.create_bucket()

    asyncio.run(create())
    return ministack


async def furnish(url: str) -> None:
    """Puts into the bucket what the pages expect there, and nothing else: small objects of a few
    days, yesterday among them (also if it is past midnight by then), and the outputs of a day that
    was joined before.
    """
    today = dt.datetime.now(dt.UTC)
    recent = (day.strftime("%Y/%m/%d") for day in (today - dt.timedelta(days=1), today))
    days = tuple(f"{day}/" for day in sorted({*DAYS, *recent}))
    async with open_s3(options_of(url, BUCKET)) as store:
        for key in await look(store):
            await store.delete(key)
        shape = Shape(f"{PREFIX}/", days=days, partitions=1, objects=4 * len(days), records=2)
        await fill(store, shape)
        await fill(store, Shape("manifests/", layout="manifest", objects=12, records=2))
        joined = Settings(bucket=BUCKET, prefix=(PREFIX,), date=JOINED, min_age=0)
        assert (await Run(store, joined).coalesce()).exit_code == 0


async def held_in(url: str) -> dict[str, bytes]:
    async with open_s3(options_of(url, BUCKET)) as store:
        return await look(store)


def outputs_in(held: dict[str, bytes]) -> list[str]:
    return sorted(filter(auditor.OUTPUT.fullmatch, held))


def typed(text: str, url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What a shell makes of a text; of what is typed by mistake the rest is not run."""
    more = {
        "PATH": PATH,
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "COALESCE_TEST_ENDPOINT": url,
        "COALESCE_MIN_AGE": "0",  # the objects were written just now
    }
    inherited = {name: text for name, text in environment(url).items() if "MAKE" not in name}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=ROOT if "make " in text else folder,
        env=inherited | more,
        capture_output=True,
        text=True,
        check=False,
    )


def filled_in(text: str, held: dict[str, bytes]) -> str:
    """The text with the reader's own names in the place of those in capitals."""
    values = dict(STANDS_FOR)
    for key in held:
        if match := re.fullmatch(r"_coalesce/ledger/(.+)\.([0-9a-f]{16})\.jsonl\.gz", key):
            group = re.sub(r"_\d+_\d+\.jsonl\.gz", "", match[1])
            found = {"KEY": f"{match[1]}.{match[2]}.jsonl.gz", "OUTPUT": match[1]}
            values |= found | {"HASH": match[2], "GROUP": group}
    return _NAMES.sub(lambda name: values.get(name[0]) or name[0], text)


@pytest.mark.parametrize("block", RUN, ids=str)
def test_what_a_page_tells_to_type_does_what_it_says(
    block: Block, url: str, tmp_path: Path
) -> None:
    """It ends with 0 and warns of nothing; a run leaves outputs."""
    if re.search(r"^ *aws ", block.text, re.MULTILINE) and shutil.which("aws", path=PATH) is None:
        pytest.skip("needs the AWS CLI on the PATH; `make test-deploy` installs it")
    asyncio.run(furnish(url))
    before = asyncio.run(held_in(url))
    done = typed(filled_in(runnable(block), before), url, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert warnings_in(done.stderr) == []
    if re.search(r"\bcoalesce +run\b", runnable(block)):
        assert set(outputs_in(asyncio.run(held_in(url)))) - set(outputs_in(before)), done.stdout


def warnings_in(log: str) -> list[str]:
    """Lines of the log that say more than how it goes; `extract` says how it went."""
    return [
        line
        for line in log.splitlines()
        if not line.endswith("with the content that it had")
        if not line.startswith("{") or json.loads(line).get("level") in ("warning", "error")
    ]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_shell_can_read_every_block(block: Block) -> None:
    done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def parsed(words: list[str]) -> Result:
    """What the command line makes of these words; nothing is done."""
    if words[0].startswith("-") and words[0] not in ("--help", "-h", "--version", "-V"):
        words = ["run", *words]  # as the program does
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("coalesce.cli.command._exit_code", lambda command, work: 0)
        return CliRunner().invoke(app, words)


@pytest.mark.parametrize("page", [*PAGES, *EVIDENCE], ids=name_of)
def test_every_command_that_a_page_names_is_one_with_these_options(page: Path) -> None:
    """Also those that are not run, and those in the middle of a sentence."""
    lines = named_calls(page)
    for language in ("sh", "crontab"):
        for block in all_blocks(language):
            lines += block.commands if block.page == name_of(page) else []
    wrong = {
        line: done.stderr
        for line in lines
        for words in calls_in(line)
        if words and (done := parsed(words)).exit_code
    }
    assert wrong == {}


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for line in ("coalesce statsu", "coalesce run -b b --max-fles 3", "flock x coalesce plan -Z"):
        ((words,), code) = calls_in(line), 2
        assert parsed(words).exit_code == code, line


def test_what_is_not_run_stands_on_a_page_and_its_reason_names_what_is_there() -> None:
    lines = [line for block in BLOCKS for line in block.commands]
    for begin, why in NOT_RUN.items():
        assert any(f"{line} ".startswith(begin) for line in lines), begin
        for path in re.findall(r"\b(?:tests|ci)/[\w/.]*\w", why):
            assert (ROOT / path).exists(), why


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_is_not_run_could_be(block: Block) -> None:
    """Make knows its targets, and what it is to do; files of this repository are there."""
    for line in filter(reason_for, block.commands):
        if line.startswith("make "):
            words = ["make", "--dry-run", *shlex.split(line, comments=True)[1:]]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        for path in re.findall(r"(?<![\w/])(?:deploy|ci)/[\w/.@*-]*", line):
            assert [*ROOT.glob(path)], f"{path} of {line}"
