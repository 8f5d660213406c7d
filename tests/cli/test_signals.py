"""The first signal stops a run between outputs, the second ends it at once."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from coalesce.cli.jobs import run_until_stopped
from coalesce.cli.output import Printer
from coalesce.cli.request import OutputOptions
from coalesce.exits import ExitCode
from coalesce.model import Batch
from coalesce.report.report import Report
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.settings import settings


class Listener(logging.Handler):
    """Keeps the messages, and says when there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.heard.set()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("limit", [0, ExitCode.LIMIT], ids=["no limit", "a limit before"])
async def test_the_second_signal_ends_a_run_at_once(limit: int) -> None:
    run, started = Run(MemoryStore(MemoryBucket()), settings()), asyncio.Event()
    run.stop.request(limit)

    async def endless(_: Run) -> Report:
        started.set()
        await asyncio.Event().wait()
        return run.report

    listener = Listener()
    logging.getLogger("coalesce").addHandler(listener)
    task = asyncio.create_task(
        run_until_stopped(run, endless, Printer.of(OutputOptions(no_progress=True)))
    )
    await started.wait()
    os.kill(os.getpid(), signal.SIGINT)
    await listener.heard.wait()
    assert not task.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    logging.getLogger("coalesce").removeHandler(listener)
    assert run.stop.code == (limit or ExitCode.INTERRUPTED)
    assert listener.messages == [
        "stopping: no output is being written; Ctrl-C again to quit now, the next run cleans up"
    ]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([], "no output is being written"),
        ([180_000_000], "finishing 1 output (180 MB)"),
        ([90_000_000, 1_110_000_000], "finishing 2 outputs (1,200 MB)"),
    ],
)
def test_a_run_says_what_it_still_does_when_it_is_told_to_stop(
    sizes: list[int], words: str
) -> None:
    run = Run(MemoryStore(MemoryBucket()), settings())
    with ExitStack() as outputs:
        for size in sizes:
            outputs.enter_context(run.stop.in_progress(Batch("data/output", (), size, "")))
        assert run.in_progress == words


def test_an_interrupt_while_the_command_loads_ends_it_without_a_traceback() -> None:
    interrupted = """
import sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
import coalesce.__main__
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupted], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.INTERRUPTED, "", "")
