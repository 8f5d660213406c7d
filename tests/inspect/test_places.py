"""An output is what its ledger entry says only if every place in it holds the content of its
source, and nothing lies between, before or behind them.
"""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.gzip_members import EMPTY_MEMBER, NEWLINE_MEMBER
from coalesce.content.rules import ContentRules
from coalesce.errors import IntegrityError
from coalesce.inspect.places import Places
from coalesce.model import Codec
from coalesce.protocol.entry_reader import SourceLine
from coalesce.storage.checksums import crc64

RULES = {
    "single": ContentRules(Codec.GZIP, check=True, single=True),
    "members": ContentRules(Codec.GZIP, check=True),
    "none": ContentRules(Codec.PLAIN, check=True),
}
MODES = list(RULES)
contents = st.lists(st.text(max_size=30).map(str.encode), min_size=1, max_size=6)


def output_of(texts: list[bytes], mode: str) -> tuple[Places, list[bytes]]:
    """The places of such sources by their entry, and what lies at each."""
    places, held, start = Places("out", RULES[mode]), list[bytes](), 0
    for n, text in enumerate(texts):
        whole = text if text.endswith(b"\n") or not text else text + b"\n"
        if mode == "members":
            supplied = NEWLINE_MEMBER if whole != text else b""
            piece = gzip.compress(text, mtime=0) + supplied if text else b""
        else:
            piece = whole
        held.append(piece)
        size = len(text)
        places.add(
            SourceLine(f"k{n}", '"e"', size, 0, 1, start, len(piece), crc64([text]), size, None)
        )
        start += len(piece)
    return places, held


def stored(held: list[bytes], mode: str) -> bytes:
    data = b"".join(held)
    if mode == "single":
        return gzip.compress(data, mtime=0)
    return data or (EMPTY_MEMBER if mode == "members" else b"")


def read(places: Places, data: bytes, cuts: list[int]) -> None:
    joiner = places.joiner()
    for length in [*cuts, len(data)]:
        joiner.feed(data[:length])
        data = data[length:]
    assert joiner.finish() == []


@pytest.mark.parametrize("mode", MODES)
@given(texts=contents, cuts=st.lists(st.integers(1, 50)))
def test_an_output_of_its_sources_is_believed_however_it_is_read(
    mode: str, texts: list[bytes], cuts: list[int]
) -> None:
    places, held = output_of(texts, mode)
    assert (len(places), places.digests) == (len(texts), len(texts))
    read(places, stored(held, mode), cuts)


@pytest.mark.parametrize("mode", MODES)
@given(texts=contents, data=st.data())
def test_an_output_that_holds_anything_else_is_not(
    mode: str, texts: list[bytes], data: st.DataObject
) -> None:
    """One place is left out, doubled, or holds another source's text."""
    places, held = output_of(texts, mode)
    at = data.draw(st.integers(0, len(held) - 1))
    other = output_of([b"other text\n"], mode)[1][0]
    change = data.draw(st.sampled_from([b"", held[at] * 2, other, held[at] + other]))
    changed = [*held[:at], change, *held[at + 1 :]]
    if b"".join(changed) == b"".join(held):
        return
    if mode == "members" and not any(held):
        return  # nothing is expected of the one empty member but that it is read
    with pytest.raises((IntegrityError, AssertionError)):
        read(places, stored(changed, mode), [])


@pytest.mark.parametrize("mode", MODES)
def test_an_output_that_ends_too_early_or_too_late_says_so(mode: str) -> None:
    places, held = output_of([b"one\n", b"two\n"], mode)
    with pytest.raises(IntegrityError, match="fewer bytes"):
        read(places, stored(held[:1], mode), [])
    with pytest.raises(IntegrityError, match="more bytes"):
        read(places, stored([*held, held[0]], mode), [])


@pytest.mark.parametrize("mode", MODES)
def test_the_message_names_the_source(mode: str) -> None:
    places, _ = output_of([b"one\n", b"two\n", b"six\n"], mode)
    _, held = output_of([b"one\n", b"2wo\n", b"six\n"], mode)
    with pytest.raises(IntegrityError, match="out, source 2 of 3"):
        read(places, stored(held, mode), [])


def test_what_nobody_looked_at_is_passed_over() -> None:
    places = Places("out", RULES["none"])
    places.add(SourceLine("k", '"e"', 4, 0, None, 0, 4, None, None))
    read(places, b"any\n", [])
    assert places.digests == 0


def test_a_gzip_that_is_cut_is_never_whole() -> None:
    places, held = output_of([b"one\n", b"two\n"], "single")
    data = stored(held, "single")
    assert zlib.decompress(data, 31) == b"one\ntwo\n"
    for length in range(len(data)):
        with pytest.raises(Exception, match=r"gzip|fewer"):
            read(places, data[:length], [])
