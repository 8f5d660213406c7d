"""Whatever the bytes of a bzip2 source are: what passes into an output is what every reader reads,
and all else is refused.
"""

import bz2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError
from coalesce.model import Codec

TEXT = b'{"n": 1}\n{"n": 2}\n'
RULES = ContentRules(Codec.BZIP2, check=True)
BODIES = {
    "one stream": bz2.compress(TEXT),
    "the shortest blocks": bz2.compress(TEXT, 1),
    "two streams": bz2.compress(TEXT) + bz2.compress(b'{"n": 3}\n'),
    "a run of one byte": bz2.compress(b"x" * 300 + b"\n"),
}


def join(data: bytes, step: int = 0) -> bytes:
    """What is written of a body that arrives `step` bytes at a time. Raises ContentError."""
    joiner = RULES.joiner("k")
    written = [
        piece
        for at in range(0, len(data), step or len(data) or 1)
        for piece in joiner.feed(data[at : at + (step or len(data))])
    ]
    written += joiner.finish()
    assert joiner.proves_itself
    return b"".join(written)


def check(data: bytes, step: int = 0) -> bool:
    """Whether a body is taken; then it reads the same in front of others and behind others."""
    try:
        written = join(data, step)
    except ContentError:
        return False
    text = bz2.decompress(data)
    ended = text + (b"\n" if text and not text.endswith(b"\n") else b"")
    between = bz2.compress(b"before\n") + written + bz2.compress(b"after\n")
    assert bz2.decompress(between) == b"before\n" + ended + b"after\n"
    return True


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("name", BODIES)
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_read(name: str, step: int) -> None:
    """Every bit of each body."""
    body = BODIES[name]
    assert check(body, step)
    text = bz2.decompress(body)
    for bit in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        if check(bytes(flipped), step):
            assert bz2.decompress(join(bytes(flipped), step)) == text, f"bit {bit}"


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_cut_anywhere_is_refused_unless_between_streams(name: str) -> None:
    body = BODIES[name]
    whole = {len(body), len(BODIES["one stream"])} if name == "two streams" else {len(body)}
    assert {end for end in range(len(body) + 1) if check(body[:end])} == whole


@given(
    st.lists(
        st.sampled_from([*BODIES.values(), bz2.compress(b""), bz2.compress(b"no end")]), max_size=4
    ),
    st.data(),
)
def test_streams_cut_mixed_and_glued_are_refused_or_read_the_same(
    streams: list[bytes], data: st.DataObject
) -> None:
    body = bytearray(b"".join(streams))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        length = data.draw(st.integers(0, 3))
        body[at : at + length] = data.draw(st.binary(max_size=3))
    check(bytes(body), data.draw(st.integers(1, 50)))


@given(st.binary(max_size=60))
def test_bytes_that_happen_to_begin_like_bzip2_are_refused_or_read_the_same(data: bytes) -> None:
    check(b"BZh9" + data)
    check(b"BZh91AY&SY" + data)


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 512, b"\n", b"junk", b"BZ", b"BZh0", b"BZh9\x17"])
def test_nothing_may_stand_behind_the_last_stream(tail: bytes) -> None:
    """Python's reader passes over it without a word."""
    for step in (0, 1):
        assert not check(BODIES["one stream"] + tail, step)
