"""Text that is deflated beside the event loop, in order and in bounded memory."""

import asyncio
import gzip
import random
import threading
import tracemalloc

import pytest
from typing_extensions import override

from coalesce.content.deflater import PIECE_BYTES, Deflater
from coalesce.transfer.deflating import DeflaterThread


def text_of(n: int, length: int) -> bytes:
    """Text that hardly gets shorter, so that each piece of it comes out as bytes at once."""
    return random.Random(n).randbytes(length)


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES // 3, PIECE_BYTES - 1, PIECE_BYTES])
async def test_whatever_its_pieces_are_a_member_has_all_text_in_order(length: int) -> None:
    thread = DeflaterThread(Deflater())
    output = b""
    for n in range(20):
        await thread.until_almost_done()
        output += thread.deflate(text_of(n, length))
    output += await thread.finish()
    assert gzip.decompress(output) == b"".join(text_of(n, length) for n in range(20))


async def test_outputs_that_are_deflated_at_once_do_not_mix() -> None:
    async def member(n: int) -> bytes:
        thread = DeflaterThread(Deflater())
        output = b""
        for _ in range(5):
            await thread.until_almost_done()
            output += thread.deflate(text_of(n, PIECE_BYTES))
        return output + await thread.finish()

    members = await asyncio.gather(*map(member, range(6)))
    assert [gzip.decompress(m) for m in members] == [text_of(n, PIECE_BYTES) * 5 for n in range(6)]


class Counted(Deflater):
    """Counts the pieces that it was given, and how many there were at most that it has not yet
    begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given = self.begun = self.most = 0

    @override
    def deflate(self, text: bytes) -> bytes:
        self.begun += 1
        self.most = max(self.most, self.given - self.begun)
        return super().deflate(text)


async def test_text_that_comes_faster_than_it_is_deflated_does_not_fill_the_memory() -> None:
    """Such as that of sources which inflate many times over: whoever has more of it waits."""
    counted = Counted()
    thread = DeflaterThread(counted)
    output = b""
    for counted.given in range(1, 31):
        output += thread.deflate(text_of(1, PIECE_BYTES))
    output += await thread.finish()
    assert gzip.decompress(output) == text_of(1, PIECE_BYTES) * 30
    assert counted.most <= 5


async def test_outputs_that_wait_for_their_sources_hold_little_text_however_many_there_are() -> (
    None
):
    """As where each has joined a source that inflates many times over, and its next one is slow."""
    threads = [DeflaterThread(Deflater()) for _ in range(128)]
    output = [b""] * len(threads)
    texts = [b"%7d\n" % n * 8192 for n in range(len(threads))]
    tracemalloc.start()
    try:
        for n, thread in enumerate(threads):
            for _ in range(15):
                output[n] += thread.deflate(bytes(bytearray(texts[n])))
                await thread.until_almost_done()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    for n, thread in enumerate(threads):
        output[n] += await thread.finish()
    assert [gzip.decompress(o) for o in output] == [text * 15 for text in texts]
    assert held < 60 * PIECE_BYTES


async def test_outputs_that_were_finished_leave_whole_pieces_to_others() -> None:
    ended = [DeflaterThread(Deflater()) for _ in range(64)]
    for thread in ended:
        thread.deflate(text_of(1, 1))
        await thread.finish()
    counted = Counted()
    thread = DeflaterThread(counted)
    for _ in range(4):
        thread.deflate(text_of(1, PIECE_BYTES // 4))
    await thread.finish()
    assert counted.begun == 2  # the whole piece, and nothing at the end


class Held(Deflater):
    """Waits before it deflates."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    @override
    def deflate(self, text: bytes) -> bytes:
        self.go_on.wait(10)
        return super().deflate(text)


@pytest.mark.timeout(20)
async def test_outputs_that_are_given_up_while_they_wait_take_no_room_from_later_ones() -> None:
    """Otherwise the run would stand still for good, and hear no signal."""
    for _ in range(5):
        held, given_up = Held(), DeflaterThread(Deflater())
        busy = DeflaterThread(held)
        busy.deflate(text_of(1, PIECE_BYTES))
        for _ in range(2):
            given_up.deflate(text_of(2, PIECE_BYTES))
        waiting = asyncio.create_task(given_up.until_almost_done())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        held.go_on.set()
        assert gzip.decompress(await busy.finish()) == text_of(1, PIECE_BYTES)


class Broken(Deflater):
    @override
    def deflate(self, text: bytes) -> bytes:
        raise MemoryError


async def test_whoever_has_more_text_waits_beside_the_event_loop() -> None:
    """Which goes on reading and sending for all other outputs meanwhile."""
    may_go_on = threading.Event()

    class Slow(Deflater):
        @override
        def deflate(self, text: bytes) -> bytes:
            may_go_on.wait(10)
            return super().deflate(text)

    thread = DeflaterThread(Slow())
    for n in range(2):
        await thread.until_almost_done()
        thread.deflate(text_of(n, PIECE_BYTES))
    waiting = asyncio.create_task(thread.until_almost_done())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    may_go_on.set()
    await waiting
    await thread.finish()


@pytest.mark.timeout(20)
async def test_a_piece_that_cannot_be_deflated_fails_its_output_and_no_other() -> None:
    for _ in range(5):
        broken = DeflaterThread(Broken())
        with pytest.raises(MemoryError):
            for _ in range(10):
                broken.deflate(text_of(1, PIECE_BYTES))
                await broken.until_almost_done()
    thread = DeflaterThread(Deflater())
    output = b"".join([thread.deflate(text_of(1, PIECE_BYTES)) for _ in range(9)])
    output += await thread.finish()
    assert gzip.decompress(output) == text_of(1, PIECE_BYTES) * 9


async def test_text_of_which_nothing_has_come_out_counts_as_waiting() -> None:
    """The memory that its sources were granted is kept for it: given back too early, it was taken
    twice, 60 MiB over all outputs of a run.
    """
    thread = DeflaterThread(Deflater())
    assert thread.deflate(text_of(0, 1000)) == b""
    assert thread.waiting == 1000
    thread.deflate(text_of(1, PIECE_BYTES))
    assert thread.waiting == 1000 + PIECE_BYTES
    thread.deflate(text_of(2, PIECE_BYTES))
    thread.deflate(text_of(3, 500))
    await thread.finish()
    assert thread.waiting == 500
