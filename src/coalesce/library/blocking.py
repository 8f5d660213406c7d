"""Coroutines for callers that wait: with or without an event loop that runs already."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

# A thread that has not begun by then was interrupted before it was started.
_BEGIN_SECONDS = 5.0


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, and returns what it returns.

    In this thread where no event loop runs; where one does, as in Jupyter, on a thread of its own.
    The caller's event loop is never replaced. Whatever interrupts the wait cancels the coroutine,
    and is raised once that has ended.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    return _run_on_thread(work)


def _run(work: Coroutine[Any, Any, T]) -> T:
    # with a factory, the runner does not make its loop the thread's
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def _run_on_thread(work: Coroutine[Any, Any, T]) -> T:
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
    ended: Future[T] = Future()

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await work

    def run() -> None:
        try:
            ended.set_result(_run(main()))
        except BaseException as error:
            ended.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="coalesce")
    try:
        thread.start()
        return ended.result()
    except BaseException:
        if not ended.done():  # the wait was interrupted, or the start before it
            with suppress(TimeoutError):
                loop, task = begun.result(_BEGIN_SECONDS)
                with suppress(RuntimeError):  # it has ended meanwhile
                    loop.call_soon_threadsafe(task.cancel)
                wait([ended])
        raise
