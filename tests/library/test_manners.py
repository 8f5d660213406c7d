"""The library is a guest in its process: it prints nothing, and leaves everything as it was."""

import asyncio
import inspect
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import coalesce
from support.buckets import filled
from support.library import chosen, opening


def state() -> tuple[object, ...]:
    """What a process shares among all that runs in it."""
    loggers = [logging.getLogger(name) for name in ("", "botocore", "asyncio")]
    return (
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        [(logger.level, tuple(logger.handlers)) for logger in loggers],
        dict(os.environ),
        Path.cwd(),
        sys.stdout,
        sys.stderr,
        sys.excepthook,
    )


@pytest.mark.parametrize("running", [False, True])
def test_nothing_is_printed_and_nothing_of_the_process_is_changed(
    running: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with opening({"b": filled()}):
            coalesce.status(chosen())
            coalesce.plan(chosen())
            coalesce.run(chosen())
            coalesce.verify(chosen(), deep=True)
            coalesce.recover(chosen())

    async def inside() -> None:
        work()

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        before = state()
        if running:
            loop.run_until_complete(inside())
        else:
            work()
        assert state() == before
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert capfd.readouterr() == ("", "")


def test_what_is_logged_is_not_printed_unless_somebody_asks_for_it() -> None:
    program = (
        "import logging, coalesce; coalesce.Settings\n"
        "logging.getLogger('coalesce.protocol.round').error('a defect')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "first", ["coalesce", "coalesce.run", "coalesce.run.pipeline", "coalesce.cli.app"]
)
def test_the_function_run_can_be_called_whatever_was_imported_first(first: str) -> None:
    """There is a package of that name."""
    program = (
        f"import {first}, coalesce, inspect, pickle\n"
        "run = pickle.loads(pickle.dumps(coalesce.run))\n"
        "assert 'settings' in inspect.signature(run).parameters\n"
        "try: run(coalesce.Settings(bucket='b', prefix=['p']), store=coalesce.S3('c'))\n"
        "except coalesce.ConfigurationError as error: print(error.code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("Usage\n", "")


@pytest.mark.parametrize("name", coalesce.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(coalesce, name)
    assert name in dir(coalesce)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = coalesce.nothing  # type: ignore[attr-defined]


def test_the_blocking_functions_take_what_the_coroutines_take() -> None:
    for name in ("run", "plan", "recover", "status", "verify"):
        blocking, coroutine = getattr(coalesce, name), getattr(coalesce, f"a{name}")
        assert inspect.iscoroutinefunction(coroutine)
        assert inspect.signature(blocking) == inspect.signature(coroutine)


def test_functions_can_be_sent_to_other_processes() -> None:
    for name in ("run", "arun", "plan", "recover", "status", "verify", "merge"):
        assert pickle.loads(pickle.dumps(getattr(coalesce, name))) is getattr(coalesce, name)


def test_importing_it_loads_next_to_nothing() -> None:
    heavy = "pydantic rich typer aiobotocore botocore aiohttp awscrt asyncio logging"
    program = "import sys, coalesce; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not set(heavy.split()).intersection(done.stdout.split())
