"""What an output holds of a source becomes the source again, however the bytes come; and nothing
else does.
"""

import gzip
import hashlib
from itertools import pairwise
from typing import NamedTuple

import pytest
from awscrt import checksums
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.gzip_members import EMPTY_MEMBER
from coalesce.content.joiner import Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import Members
from coalesce.content.share import GzipMode, Share
from coalesce.content.text import Text
from coalesce.errors import IntegrityError


class Line(NamedTuple):
    key: str
    etag: str
    size: int
    content: int | None
    crc64: int | None


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def joined(source: bytes, mode: GzipMode) -> tuple[Line, bytes]:
    """What the ledger says of a source, and its place in the output."""
    joiner: Joiner = {"single": Text, "members": Members, "none": Lines}[mode]("k")
    place = b"".join([*joiner.feed(source), *joiner.finish()])
    return Line("k", etag_of(source), len(source), joiner.content_size, joiner.content_crc64), place


def given_back(line: Line, mode: GzipMode, pieces: list[bytes], *, md5: bool = True) -> bytes:
    share = Share(line, mode, md5_etag=md5)
    data = b"".join([part for piece in pieces for part in share.feed(piece)] + share.finish())
    assert (share.size, share.crc64) == (len(data), checksums.crc64nvme(data))
    return data


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(n % (len(data) + 1) for n in at)})
    return [data[begin:end] for begin, end in pairwise(edges)]


texts = st.lists(st.sampled_from([b"a\n", b"\n", b"no newline", b"", b"long " * 50 + b"\n"]))
cuts = st.lists(st.integers(0, 10_000), max_size=6)


@given(texts, cuts)
def test_lines_come_back_to_the_byte(parts: list[bytes], at: list[int]) -> None:
    source = b"".join(parts)
    line, place = joined(source, "none")
    assert given_back(line, "none", cut(place, at)) == source


@given(texts.filter(bool), cuts)
def test_members_that_hold_something_come_back_to_the_byte(
    parts: list[bytes], at: list[int]
) -> None:
    held = [part for part in parts if part] or [b"x"]
    source = b"".join(gzip.compress(part, mtime=0) for part in held)
    line, place = joined(source, "members")
    assert given_back(line, "members", cut(place, at)) == source


@given(texts.filter(bool), cuts, st.sampled_from(["members", "single"]))
def test_any_members_come_back_with_the_same_content(
    parts: list[bytes], at: list[int], mode: GzipMode
) -> None:
    source = b"".join(gzip.compress(part, mtime=0) for part in parts)
    line, place = joined(source, mode)
    data = given_back(line, mode, cut(place, at))
    assert gzip.decompress(data) == gzip.decompress(source)
    if mode == "single":
        joiner = Members("k")
        joiner.feed(data)
        joiner.finish()
        assert data[:3] == b"\x1f\x8b\x08"


def test_a_source_of_nothing_comes_back_as_an_empty_member() -> None:
    for mode in ("members", "single"):
        line, place = joined(gzip.compress(b"", mtime=0) * 2, mode)  # type: ignore[arg-type]
        assert place == b""
        data = given_back(line, mode, [])  # type: ignore[arg-type]
        assert gzip.decompress(data) == b""
        assert mode == "single" or data == EMPTY_MEMBER


def test_what_nobody_looked_at_comes_back_as_it_lies() -> None:
    for mode in ("members", "none"):
        line = Line("k", etag_of(b"anything"), 8, None, None)
        assert given_back(line, mode, [b"any", b"thing"]) == b"anything"  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["single", "members", "none"])
def test_other_bytes_do_not(mode: GzipMode) -> None:
    source = b"one\ntwo\n" if mode == "none" else gzip.compress(b"one\ntwo\n", mtime=0)
    line, place = joined(source, mode)
    for other in (place[:-1], place[:-2] + b"x\n", b"", place[:1] + b"\xff" + place[2:]):
        with pytest.raises(IntegrityError, match="k: what its output holds"):
            given_back(line, mode, [other])
    with pytest.raises(IntegrityError):
        given_back(line._replace(crc64=(line.crc64 or 0) ^ 1), mode, [place])


def test_bytes_that_do_not_have_the_md5_in_the_etag_do_not() -> None:
    """Where nobody looked at the content, nothing else tells."""
    line = Line("k", etag_of(b"anything"), 8, None, None)
    with pytest.raises(IntegrityError):
        given_back(line, "none", [b"ANYTHING"])
    assert given_back(line, "none", [b"ANYTHING"], md5=False) == b"ANYTHING"
    multipart = line._replace(etag=f"{line.etag[:-1]}-2" + '"')
    assert given_back(multipart, "none", [b"ANYTHING"]) == b"ANYTHING"
    with pytest.raises(IntegrityError):
        given_back(line, "none", [b"any"], md5=False)
