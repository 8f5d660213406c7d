"""Whatever a source's bytes are: what passes into an output is what every reader reads, and all
else is refused.

Python's own gzip and zlib are the judges; the program inflates with another library.
"""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.joiner import Joiner
from coalesce.content.members import Members
from coalesce.errors import ContentError

TEXT = b'{"n": 1}\n{"n": 2}\n'


def with_a_name() -> bytes:
    """As `gzip FILE` writes it."""
    body = gzip.compress(TEXT, mtime=0)
    return body[:3] + b"\x08" + body[4:10] + b"name\0" + body[10:]


def with_every_header_field() -> bytes:
    """A member with FTEXT, FHCRC, FEXTRA, FNAME and FCOMMENT (RFC 1952)."""
    header = b"\x1f\x8b\x08\x1f\0\0\0\0\0\x03" + b"\x02\0ab" + b"name\0" + b"comment\0"
    return (
        header
        + (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
        + gzip.compress(TEXT, mtime=0)[10:]
    )


BODIES = {
    "one member": gzip.compress(TEXT, mtime=0),
    "two members": gzip.compress(TEXT, mtime=0) + gzip.compress(b'{"n": 3}\n', mtime=0),
    "a stored block": gzip.compress(TEXT, 0, mtime=0),
    "a file's name": with_a_name(),
    "every header field": with_every_header_field(),
}


def join(data: bytes, step: int = 0) -> bytes:
    """What is written of a body that arrives `step` bytes at a time. Raises ContentError."""
    joiner: Joiner = Members("k")
    written = [
        piece
        for at in range(0, len(data), step or len(data) or 1)
        for piece in joiner.feed(data[at : at + (step or len(data))])
    ]
    return b"".join(written + joiner.finish())


def as_zlib_reads(data: bytes) -> bytes:
    """The text of all members, by zlib's own header check. Raises zlib.error, EOFError."""
    text = b""
    while data:
        reader = zlib.decompressobj(wbits=31)
        text += reader.decompress(data)
        if not reader.eof:
            raise EOFError
        data = reader.unused_data
    return text


def check(data: bytes, step: int = 0) -> bool:
    """Whether a body is taken; then it reads the same in front of others and behind others, by both
    judges.
    """
    try:
        written = join(data, step)
    except ContentError:
        return False
    text = gzip.decompress(data)
    ended = text + (b"\n" if text and not text.endswith(b"\n") else b"")
    between = gzip.compress(b"before\n") + written + gzip.compress(b"after\n")
    assert as_zlib_reads(between) == gzip.decompress(between) == b"before\n" + ended + b"after\n"
    return True


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("name", BODIES)
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_read(name: str, step: int) -> None:
    """Every bit of each body."""
    body = BODIES[name]
    assert check(body, step)
    text = as_zlib_reads(body)
    taken = 0
    for bit in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        if check(bytes(flipped), step):
            taken += 1
            assert as_zlib_reads(join(bytes(flipped), step)) == text, f"bit {bit}"
    assert taken < len(body) * 3  # time, name and system: nothing that a reader looks at


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_cut_anywhere_is_refused_unless_between_members(name: str) -> None:
    body = BODIES[name]
    whole = {len(body), len(BODIES["one member"])} if name == "two members" else {len(body)}
    assert {end for end in range(len(body) + 1) if check(body[:end])} == whole


@given(
    st.lists(
        st.sampled_from([*BODIES.values(), gzip.compress(b""), gzip.compress(b"no end", mtime=0)]),
        max_size=4,
    ),
    st.data(),
)
def test_members_cut_mixed_and_glued_are_refused_or_read_the_same_by_all(
    members: list[bytes], data: st.DataObject
) -> None:
    body = bytearray(b"".join(members))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        length = data.draw(st.integers(0, 3))
        body[at : at + length] = data.draw(st.binary(max_size=3))
    check(bytes(body), data.draw(st.integers(1, 50)))


@given(st.binary(max_size=60))
def test_bytes_that_happen_to_begin_like_gzip_are_refused_or_read_the_same_by_all(
    data: bytes,
) -> None:
    check(b"\x1f\x8b\x08" + data)


@pytest.mark.parametrize(
    "tail", [b"\0", b"\0" * 512, b"\n", b"junk", b"\x1f\x8b", b"\x1f\x8b\x08\0", b"PK\3\4"]
)
def test_nothing_may_stand_behind_the_last_member(tail: bytes) -> None:
    """Hadoop fails a job on it, the JDK hides every record behind it."""
    for step in (0, 1):
        assert not check(BODIES["one member"] + tail, step)
