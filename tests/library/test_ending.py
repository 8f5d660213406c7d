"""How a run ends before its time: told to, cancelled, or by what its listener raises."""

import asyncio
import copy
import signal
import threading
from collections.abc import Callable

import pytest

import coalesce
from coalesce.library.blocking import wait_for
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, Request
from support.buckets import check_finished, contents, data_in, filled, records_in, unfinished_in
from support.library import chosen, opening


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a run has been told to end."""
    event, interrupt = asyncio.Event(), Run.interrupt

    def note(run: Run, code: int) -> None:
        interrupt(run, code)
        event.set()

    monkeypatch.setattr(Run, "interrupt", note)
    return event


def test_a_run_that_is_stopped_before_it_begins_writes_no_output() -> None:
    bucket, stop = filled(3), threading.Event()
    stop.set()
    before = data_in(contents(bucket))
    with opening({"b": bucket}):
        report = coalesce.run(chosen(), stop=stop)
    assert (report.exit_code, report.outputs.written) == (130, 0)
    assert data_in(contents(bucket)) == before
    assert unfinished_in(bucket.objects) == []


@pytest.mark.parametrize("kind", [threading.Event, asyncio.Event])
async def test_a_run_that_is_stopped_finishes_what_it_has_begun_and_begins_nothing_more(
    kind: Callable[[], coalesce.StopSign], told: asyncio.Event
) -> None:
    bucket, stop = filled(100, 2), kind()
    before = records_in(contents(bucket))

    async def set_and_wait(request: Request) -> None:
        if request.operation == "UploadPart" and request.key.startswith("data/"):
            stop.set()  # type: ignore[attr-defined]
            await told.wait()

    with opening({"b": bucket}, set_and_wait):
        report = await coalesce.arun(chosen(), stop=stop)
    assert report.exit_code == 130
    assert 0 < report.outputs.written < 100
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)


async def test_what_a_listener_raises_ends_the_run_between_outputs_and_is_raised(
    told: asyncio.Event,
) -> None:
    bucket = filled(100, 2)
    before = records_in(contents(bucket))
    heard: list[coalesce.Event] = []

    def listen(event: coalesce.Event) -> None:
        heard.append(event)
        raise LookupError("mine")

    async def wait(request: Request) -> None:
        if heard and request.operation == "UploadPart":
            await told.wait()

    with opening({"b": bucket}, wait), pytest.raises(LookupError, match="mine"):
        await coalesce.arun(chosen(), on_event=listen)
    assert len(heard) == 1
    assert 100 < len(data_in(bucket.objects)) < 200  # each output takes two sources away
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)


async def cancelled_at(bucket: MemoryBucket, number: int) -> bool:
    """Cancels a run when it sends this request; whether it came so far."""
    sent = 0

    async def cancel(_: Request) -> None:
        nonlocal sent
        sent += 1
        if sent == number:
            task.cancel()

    with opening({"b": bucket}, cancel):
        task = asyncio.create_task(coalesce.arun(chosen(max_files=2)))
        await asyncio.gather(task, return_exceptions=True)
    return sent >= number


async def test_a_run_that_is_cancelled_leaves_nothing_but_what_recover_settles() -> None:
    """Wherever it was: every record is there all the while, and once when all is done."""
    full = filled(2, 4)
    before = records_in(contents(full))
    number = 0
    while True:
        number += 1
        bucket = copy.deepcopy(full)
        if not await cancelled_at(bucket, number):
            break
        assert records_in(contents(bucket)).keys() == before.keys(), number
        bucket.now += 1000
        with opening({"b": bucket}):
            assert (await coalesce.arecover(chosen())).exit_code == 0, number
            assert unfinished_in(bucket.objects) == [], number
            assert (await coalesce.arun(chosen(max_files=2))).exit_code == 0, number
        assert records_in(contents(bucket)) == before, number
        assert len(data_in(bucket.objects)) == 4, number
        assert not bucket.uploads, number
        check_finished(bucket.objects)
    assert number > 30


def test_an_interrupt_of_a_notebook_cell_cancels_the_run_and_is_raised_after_it() -> None:
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def interrupted() -> None:
        async def main() -> None:
            number = (threading.main_thread().ident, signal.SIGINT)
            threading.Thread(target=signal.pthread_kill, args=number).start()
            await work()

        with pytest.raises(KeyboardInterrupt):
            wait_for(main())
        assert ended.is_set()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(interrupted())
    finally:
        loop.close()
