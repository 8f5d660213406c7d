"""Deflates the text of outputs beside the event loop.

A thread that is given a megabyte at a time works for milliseconds without the interpreter, and asks
for it ten times. So the loop can read and inflate the next bodies meanwhile: see
docs/evidence/performance.md, "Deflating again".
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakSet

from typing_extensions import override

from coalesce.content.deflater import PIECE_BYTES, Compressor, TakesText

# One thread for all outputs of a process. It works on what it is given in that order.
_THREAD = ThreadPoolExecutor(1, "deflater")

# How many pieces of text all outputs together may have given to it. Whoever has one more to give
# waits for a place, and the event loop with it: only sources that inflate many times over make so
# much text at once.
_PLACES = threading.BoundedSemaphore(4)

# So many outputs may collect a whole piece each. The more there are beside them, the shorter the
# pieces: each may wait for a slow source when it has most of one.
_WHOLE_PIECES = 8


class DeflaterThread(TakesText):
    """Collects the text of one output, and gives it to its deflater in large pieces, in order.

    Attributes:
        seconds: CPU seconds of deflating so far.
        waiting: Bytes of text that it was given and of which nothing has come out yet.
        delayed_bytes: The most that its deflater keeps back.
    """

    def __init__(self, deflater: Compressor) -> None:
        self.seconds = 0.0
        self.delayed_bytes = deflater.delayed_bytes
        self._deflater = deflater
        self._texts: list[bytes] = []
        self._size = 0
        self.waiting = 0
        self._pieces: deque[tuple[Future[bytes], int]] = deque()  # with the size of the text

    @override
    def deflate(self, text: bytes) -> bytes:
        _COLLECTING.add(self)
        self._texts.append(text)
        self._size += len(text)
        self.waiting += len(text)
        if self._size >= PIECE_BYTES // max(1, len(_COLLECTING) // _WHOLE_PIECES):
            _COLLECTING.discard(self)
            texts, size = self._texts, self._size
            self._texts, self._size = [], 0
            _PLACES.acquire()
            piece = _THREAD.submit(self._measured, texts)
            piece.add_done_callback(lambda _: _PLACES.release())  # one that is cancelled never runs
            self._pieces.append((piece, size))
        return self._take_ready()

    async def until_almost_done(self) -> None:
        """Waits until one piece is left to be deflated, so that there is room for more."""
        while len(self._pieces) > 1 and not self._pieces[-2][0].done():
            await asyncio.wrap_future(self._pieces[-2][0])

    async def finish(self) -> bytes:
        """The rest of the member."""
        _COLLECTING.discard(self)
        if self._pieces:
            await asyncio.wrap_future(self._pieces[-1][0])
        ready = self._take_ready()
        if self._deflater.is_slow:
            return ready + await asyncio.wrap_future(_THREAD.submit(self._end))
        return ready + self._end()

    def _end(self) -> bytes:
        rest = self._measured(self._texts)
        begun = time.thread_time()
        rest += self._deflater.finish()
        self.seconds += time.thread_time() - begun
        return rest

    def _measured(self, texts: list[bytes]) -> bytes:
        begun = time.thread_time()
        text = b"".join(texts)
        texts.clear()
        ready = self._deflater.deflate(text)
        self.seconds += time.thread_time() - begun
        return ready

    def _take_ready(self) -> bytes:
        ready = []
        while self._pieces and self._pieces[0][0].done():
            piece, size = self._pieces.popleft()
            ready.append(piece.result())
            self.waiting -= size
        return b"".join(ready)


# Outputs that hold text. One that is given up is forgotten.
_COLLECTING: WeakSet[DeflaterThread] = WeakSet()
