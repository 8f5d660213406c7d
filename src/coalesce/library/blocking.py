"""Coroutines for callers that wait: with or without an event loop that runs already."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


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
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def main() -> T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1, "coalesce") as pool:
        ended = pool.submit(contextvars.copy_context().run, _run, main())
        try:
            return ended.result()
        except BaseException:
            if not ended.done():
                loop, task = begun.result()
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
            raise
