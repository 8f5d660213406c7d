"""Whatever the bytes of a zstd source are: what passes into an output is what every reader reads,
and all else is refused.
"""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError
from coalesce.model import Codec
from support.codecs import members_in, summed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b'{"n": 1}\n{"n": 2}\n'
RULES = ContentRules(Codec.ZSTD, check=True)


def without_size(text: bytes, **options: int) -> bytes:
    """As a writer makes it that does not know how much is to come."""
    chosen = {zstd.CompressionParameter[name]: value for name, value in options.items()}
    frame = zstd.ZstdCompressor(options=chosen)
    return frame.compress(text) + frame.flush()


def skippable(content: bytes, number: int = 0) -> bytes:
    return (
        (0x184D2A50 + number).to_bytes(4, "little") + len(content).to_bytes(4, "little") + content
    )


# With a checksum in each frame, a reader notices whatever happens to one.
SUMMED = {
    "a checksum": summed(TEXT),
    "a checksum and no size": without_size(TEXT, checksum_flag=1),
    "two frames": summed(TEXT) + summed(b'{"n": 3}\n'),
    "a skippable frame in front": skippable(b"what is this") + summed(TEXT),
    "a skippable frame behind": summed(TEXT) + skippable(b"", 15),
    "a block that is not compressed": summed(bytes(range(256)) + b"\n"),
    "a block of one byte": summed(b"x" * 300 + b"\n"),
}
UNSUMMED = {
    "no checksum": zstd.compress(TEXT),
    "neither checksum nor size": without_size(TEXT),
    "one frame of two with a checksum": summed(TEXT) + zstd.compress(b'{"n": 3}\n'),
}
BODIES = {**SUMMED, **UNSUMMED}


def join(data: bytes, step: int = 0) -> tuple[bytes, bool]:
    """What is written of a body that arrives `step` bytes at a time, and whether checksums of its
    own prove it. Raises ContentError.
    """
    joiner = RULES.joiner("k")
    written = [
        piece
        for at in range(0, len(data), step or len(data) or 1)
        for piece in joiner.feed(data[at : at + (step or len(data))])
    ]
    return b"".join(written + joiner.finish()), joiner.proves_itself


def check(data: bytes, step: int = 0) -> bool:
    """Whether a body is taken; then it reads the same in front of others and behind others."""
    try:
        written, _ = join(data, step)
    except ContentError:
        return False
    text = zstd.decompress(data)
    ended = text + (b"\n" if text and not text.endswith(b"\n") else b"")
    between = zstd.compress(b"before\n") + written + zstd.compress(b"after\n")
    assert zstd.decompress(between) == b"before\n" + ended + b"after\n"
    return True


@pytest.mark.parametrize("name", BODIES)
def test_content_proves_itself_only_if_every_frame_has_a_checksum(name: str) -> None:
    assert join(BODIES[name])[1] == (name in SUMMED)


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("name", SUMMED)
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_read(name: str, step: int) -> None:
    """Every bit of each body."""
    body = SUMMED[name]
    assert check(body, step)
    text = zstd.decompress(body)
    for bit in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        if check(bytes(flipped), step):
            assert zstd.decompress(join(bytes(flipped), step)[0]) == text, f"bit {bit}"


@pytest.mark.parametrize("name", UNSUMMED)
def test_a_flipped_bit_that_no_checksum_shows_is_not_taken_for_proven(name: str) -> None:
    """It is for what the store says of the source to tell."""
    body = UNSUMMED[name]
    text = zstd.decompress(body)
    for bit in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        if check(bytes(flipped)):
            written, proven = join(bytes(flipped))
            assert not proven or zstd.decompress(written) == text, f"bit {bit}"


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_cut_anywhere_is_refused_unless_between_frames(name: str) -> None:
    body = BODIES[name]
    whole = {len(body)}
    if members_in(Codec.ZSTD, body) == 2:
        decoder = zstd.ZstdDecompressor()
        decoder.decompress(body)
        whole.add(len(body) - len(decoder.unused_data))
    assert {end for end in range(len(body) + 1) if check(body[:end])} == whole


@given(
    st.lists(
        st.sampled_from([*BODIES.values(), zstd.compress(b""), zstd.compress(b"no end")]),
        max_size=4,
    ),
    st.data(),
)
def test_frames_cut_mixed_and_glued_are_refused_or_read_the_same(
    frames: list[bytes], data: st.DataObject
) -> None:
    body = bytearray(b"".join(frames))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        length = data.draw(st.integers(0, 3))
        body[at : at + length] = data.draw(st.binary(max_size=3))
    check(bytes(body), data.draw(st.integers(1, 50)))


@given(st.binary(max_size=60), st.integers(0x4E, 0x61))
def test_bytes_that_happen_to_begin_like_zstd_are_refused_or_read_the_same(
    data: bytes, first: int
) -> None:
    check(b"\x28\xb5\x2f\xfd" + data)
    check(bytes([first]) + b"\x2a\x4d\x18" + data)


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\0" * 512, b"\n", b"junk", b"\x28\xb5", b"\x28\xb5\x2f\xfd\0", b"\x50\x2a\x4d"],
)
def test_nothing_may_stand_behind_the_last_frame(tail: bytes) -> None:
    for step in (0, 1):
        assert not check(BODIES["a checksum"] + tail, step)


def test_a_frame_of_a_version_from_before_the_format_was_settled_is_refused() -> None:
    for old in (0x1E, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27):
        assert not check(bytes([old]) + b"\xb5\x2f\xfd" + BODIES["no checksum"][4:])


def code_of(data: bytes) -> str:
    with pytest.raises(ContentError) as caught:
        join(data)
    return caught.value.code


def test_a_frame_that_needs_a_dictionary_is_refused_and_told_as_one() -> None:
    """Its reader would have to know which, and an output says nothing of it."""
    samples = [b'{"name": "n%d", "value": %d}' % (n, n * 7) for n in range(2000)]
    dictionary = zstd.train_dict(samples, 4096)
    assert dictionary.dict_id
    assert code_of(zstd.compress(samples[0], zstd_dict=dictionary)) == "ZstdDictionary"


def test_a_frame_that_needs_more_memory_than_every_reader_has_is_refused() -> None:
    """8 MiB is what RFC 8878 asks of all of them."""
    assert join(without_size(TEXT, window_log=23))
    assert code_of(without_size(TEXT, window_log=24)) == "ZstdWindow"
    huge = b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + (2**40).to_bytes(8, "little")
    assert code_of(huge + b"\1\0\0") == "ZstdWindow"


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 300_000])
def test_skippable_frames_hold_no_record_and_are_left_out(content: bytes) -> None:
    """They may say where frames begin (the seekable format), which is not so in an output."""
    joiner = RULES.joiner("k")
    skipped = skippable(content, 14)
    written = b"".join(joiner.feed(skipped + summed(TEXT) + skipped) + joiner.finish())
    assert (written, joiner.left_out, joiner.records) == (summed(TEXT), 2 * len(skipped), 2)


def test_a_long_skippable_frame_is_no_member_that_holds_nothing() -> None:
    joiner = RULES.joiner("k")
    skipped = skippable(bytes(2 * 1024**2), 0)
    written = b"".join(joiner.feed(skipped + summed(TEXT)) + joiner.finish())
    assert (written, joiner.left_out) == (summed(TEXT), len(skipped))
