"""What passes into an output, and what is refused."""

import gzip

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coalesce.content.checks import check_stored
from coalesce.content.gzip_members import NEWLINE_MEMBER
from coalesce.content.lines import Lines
from coalesce.content.members import Members
from coalesce.errors import ContentError
from coalesce.storage import checksums


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.integers(1, 60))
def test_members_pass_whole_and_their_last_record_is_ended(texts: list[bytes], step: int) -> None:
    """However the body arrives: what is written holds the same bytes, with a newline at the end."""
    data = b"".join(gzip.compress(text) for text in texts)
    joiner = Members("k")
    written = [
        piece for at in range(0, len(data), step) for piece in joiner.feed(data[at : at + step])
    ]
    written += joiner.finish()
    held = b"".join(texts)
    assert gzip.decompress(b"".join(written)) == held + (
        b"\n" if held and not held.endswith(b"\n") else b""
    )


def with_header(text: bytes, extra: bytes, name: bytes, comment: bytes) -> tuple[bytes, int]:
    """A gzip member with all optional fields but the header's CRC, and how long its header is."""
    header = b"\x1f\x8b\x08\x1c" + b"\1\2\3\4" + b"\0\3" + len(extra).to_bytes(2, "little")
    header += extra + name + b"\0" + comment + b"\0"
    return header + gzip.compress(text, mtime=0)[10:], len(header)


NAMES = st.binary(max_size=8).map(lambda name: name.replace(b"\0", b"."))


@given(st.binary(max_size=40), st.binary(max_size=8), NAMES, NAMES, st.data())
def test_a_bit_flipped_in_the_header_of_a_member_is_noticed_or_changes_no_record(
    text: bytes, extra: bytes, name: bytes, comment: bytes, data: st.DataObject
) -> None:
    """On a store that shows no checksum: no checksum of the member's own covers its header."""
    text += b"\n"
    member, length = with_header(text, extra, name, comment)
    flipped = bytearray(member)
    flipped[data.draw(st.integers(0, length - 1))] ^= 1 << data.draw(st.integers(0, 7))
    joiner = Members("k")
    try:
        written = b"".join([*joiner.feed(bytes(flipped)), *joiner.finish()])
    except ContentError:
        return
    assert gzip.decompress(written + gzip.compress(b"next\n")) == text + b"next\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: b + b"\0" * 20,
        lambda b: b + b"junk",
        lambda _: b"",
        lambda b: b[:-6] + bytes([b[-6] ^ 1]) + b[-5:],
    ],
)
def test_a_source_that_is_not_whole_gzip_is_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    """One such source would hide every later record from a reader."""
    joiner = Members("k")
    with pytest.raises(ContentError):
        joiner.feed(spoil(gzip.compress(b'{"a": 1}\n')))
        joiner.finish()


def test_a_member_of_a_newline_is_21_bytes() -> None:
    """As the readers' measurements had it."""
    assert len(NEWLINE_MEMBER) == 21


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_lines_pass_whole_and_the_last_one_is_ended(pieces: list[bytes]) -> None:
    held = b"".join(pieces)
    assume(not held.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh")))
    joiner = Lines("k")
    written = b"".join(piece for data in pieces for piece in joiner.feed(data)) + b"".join(
        joiner.finish()
    )
    assert written == held + (b"\n" if held and not held.endswith(b"\n") else b"")
    assert joiner.records == written.count(b"\n")


@given(st.lists(st.text(alphabet="ab\n", max_size=8), min_size=1, max_size=6))
def test_records_are_counted_as_a_reader_counts_them(texts: list[str]) -> None:
    joiner = Members("k")
    for text in texts:
        joiner.feed(gzip.compress(text.encode()))
    joiner.finish()
    assert joiner.records == len("".join(texts).split("\n")) - (
        "".join(texts).endswith("\n") or not "".join(texts)
    )


def test_members_that_hold_nothing_are_left_out() -> None:
    """Thousands of them in a row overflow the stack of the JDK's reader."""
    joiner = Members("k")
    written = (
        joiner.feed(gzip.compress(b"") * 3 + gzip.compress(b"a\n") + gzip.compress(b""))
        + joiner.finish()
    )
    assert gzip.decompress(b"".join(written)) == b"a\n"
    assert len(b"".join(written)) == len(gzip.compress(b"a\n"))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_sum_of_a_whole_follows_from_the_sums_of_its_parts(first: bytes, second: bytes) -> None:
    whole = checksums.crc64([first + second])
    assert (
        checksums.combine(checksums.crc64([first]), checksums.crc64([second]), len(second))
        == whole
        == checksums.crc64([first, second])
    )
    assert checksums.decode(checksums.encode(whole)) == whole


def test_a_body_that_is_not_what_its_stored_checksum_says_is_refused() -> None:
    stored = {"CRC64NVME": checksums.encode(checksums.crc64([b"right"]))}
    check_stored("k", b"right", stored)
    with pytest.raises(ContentError):
        check_stored("k", b"wrong", stored)
