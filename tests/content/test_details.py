"""What passes and what is refused, byte by byte, where a body's pieces or its size meet a limit."""

import gzip
import zlib
from base64 import b64encode

import pytest
from awscrt import checksums

from coalesce.content.checks import check_stored
from coalesce.content.gzip_members import NEWLINE_MEMBER
from coalesce.content.members import Members
from coalesce.errors import ContentError

MIB = 1024**2


def joined(body: bytes, step: int = 1 << 30) -> tuple[bytes, int | None]:
    """What goes into the output, and the records counted."""
    joiner = Members("k")
    written = [p for at in range(0, len(body), step) for p in joiner.feed(body[at : at + step])]
    written += joiner.finish()
    return b"".join(written), joiner.records


@pytest.mark.parametrize("count", range(1, 10))
def test_the_beginning_of_a_header_behind_the_last_member_is_refused(count: int) -> None:
    """A reader would stop there with an error."""
    member = gzip.compress(b"a\n", mtime=0)
    with pytest.raises(ContentError):
        joined(member + member[:count])


def test_a_member_with_a_reserved_flag_is_refused() -> None:
    """Hadoop refuses it."""
    member = bytearray(gzip.compress(b"a\n", mtime=0))
    for flag in (32, 64, 128):
        member[3] = flag
        with pytest.raises(ContentError):
            joined(bytes(member))


def named_member(header_bytes: int, text: bytes = b"a\n") -> bytes:
    """A member whose name makes its header so long."""
    plain = gzip.compress(text, mtime=0)
    return plain[:3] + b"\x08" + plain[4:10] + b"n" * (header_bytes - 11) + b"\0" + plain[10:]


@pytest.mark.parametrize("step", [1000, 256 * 1024, 1 << 30])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_header_is_read_up_to_256_kib_and_refused_beyond(more: int, step: int) -> None:
    body = named_member(256 * 1024 + more)
    if more > 0:
        with pytest.raises(ContentError):
            joined(body, step)
    else:
        assert joined(body, step) == (body, 1)


@pytest.mark.parametrize("step", [1, 7, 1 << 30])
def test_every_field_of_a_header_is_skipped(step: int) -> None:
    """Extra data whose length needs two bytes, a name, a comment and a checksum of the header."""
    plain = gzip.compress(b"a\nb\n", mtime=0)
    extra = b"AP" + (300 - 4).to_bytes(2, "little") + bytes(296)
    fields = (300).to_bytes(2, "little") + extra + b"name\0" + b"comment\0"
    header = plain[:3] + bytes([2 | 4 | 8 | 16]) + plain[4:10] + fields
    body = header + (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little") + plain[10:]
    assert joined(body + plain, step) == (body + plain, 4)


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_a_member_of_more_than_a_mebibyte_is_whole(size: int) -> None:
    text = (b"x" * 1022 + b"\n") * (size // 1023 + 1)
    text = text[: size - 1] + b"\n"
    body = gzip.compress(text, mtime=0)
    assert joined(body) == (body, text.count(b"\n"))


def test_what_counts_is_how_the_text_ends_not_how_it_begins() -> None:
    open_ended = gzip.compress(b"\nabc", mtime=0)
    ended = gzip.compress(b"abc\n", mtime=0)
    assert joined(open_ended) == (open_ended + NEWLINE_MEMBER, 2)
    assert joined(ended) == (ended, 1)


DATA = b"some bytes"
SUMS = {
    "CRC64NVME": b64encode(checksums.crc64nvme(DATA).to_bytes(8)).decode(),
    "CRC32C": b64encode(checksums.crc32c(DATA).to_bytes(4)).decode(),
    "CRC32": b64encode(zlib.crc32(DATA).to_bytes(4)).decode(),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_body_is_held_against_each_stored_checksum(name: str) -> None:
    check_stored("k", DATA, {name: SUMS[name]})
    with pytest.raises(ContentError):
        check_stored("k", DATA + b"x", {name: SUMS[name]})


def test_a_checksum_of_checksums_says_nothing_of_the_whole() -> None:
    """As an upload in parts has it."""
    check_stored("k", DATA, {name: f"{value}-2" for name, value in SUMS.items()})
