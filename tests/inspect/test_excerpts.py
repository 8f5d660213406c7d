"""What lies at a source's place gives its bytes back whatever the codec, and nothing else does."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.rules import ContentRules
from coalesce.errors import IntegrityError
from coalesce.inspect.excerpts import Held, excerpt_of
from coalesce.inspect.places import Places
from coalesce.model import Codec, Records
from coalesce.protocol.entry_reader import SourceLine
from coalesce.storage.checksums import crc64
from support.codecs import MAKE

COMPRESSED = [Codec.GZIP, Codec.ZSTD, Codec.BZIP2]
HEADER = b"id,name\n"

texts = st.binary(min_size=1, max_size=60)
cuts = st.lists(st.integers(1, 40))


def held(content: bytes, length: int) -> Held:
    return Held("k", length, len(content), crc64([content]))


def fed(place: Held, rules: ContentRules, data: bytes, at: list[int]) -> bytes:
    excerpt, given = excerpt_of(place, rules), b""
    for length in [*at, len(data)]:
        given += excerpt.feed(data[:length])
        data = data[length:]
    return given + excerpt.finish()


@pytest.mark.parametrize("codec", COMPRESSED)
@given(contents=st.lists(texts, min_size=1, max_size=5), supplied=st.booleans(), at=cuts)
def test_members_come_back_without_the_newline_that_was_supplied(
    codec: Codec, contents: list[bytes], supplied: bool, at: list[int]
) -> None:
    content, body = b"".join(contents), b"".join(map(MAKE[codec], contents))
    data = body + MAKE[codec](b"\n") * (supplied and not content.endswith(b"\n"))
    rules = ContentRules(codec, check=True)
    assert fed(held(content, len(data)), rules, data, at) == body


@pytest.mark.parametrize("codec", COMPRESSED)
@given(data=st.data(), content=texts, at=cuts)
def test_members_that_are_damaged_or_others_are_refused(
    codec: Codec, data: st.DataObject, content: bytes, at: list[int]
) -> None:
    """Bits that are no part of the content, such as a time, may change: it is the content that
    comes back.
    """
    body = bytearray(MAKE[codec](content))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        given = fed(held(content, len(body)), ContentRules(codec, check=True), bytes(body), at)
    except IntegrityError:
        return
    rules = ContentRules(codec, check=True)
    joiner = rules.text("k")
    assert b"".join([*joiner.feed(given), *joiner.finish()]).removesuffix(b"\n") == (
        content.removesuffix(b"\n")
    )


@pytest.mark.parametrize("codec", COMPRESSED)
def test_members_that_are_cut_are_never_whole(codec: Codec) -> None:
    body = MAKE[codec](b"some text\n")
    for length in range(len(body)):
        with pytest.raises(IntegrityError):
            fed(held(b"some text\n", length), ContentRules(codec, check=True), body[:length], [])


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("single", [True, False])
def test_behind_opaque_content_not_even_a_newline_may_come(codec: Codec, single: bool) -> None:
    as_text = single or codec is Codec.PLAIN
    make = MAKE[Codec.PLAIN if as_text else codec]
    content, data = b"no newline", make(b"no newline") + make(b"\n")
    place = held(content, len(data))
    lines = ContentRules(codec, check=True, single=single)
    assert fed(place, lines, data, []) == make(content)
    opaque = ContentRules(codec, check=True, single=single, records=Records.OPAQUE)
    with pytest.raises(IntegrityError):
        fed(place, opaque, data, [])
    assert fed(held(content, len(make(content))), opaque, make(content), []) == make(content)


# Of each source, how much of the output it has, after the first that has any.
UNDER_HEADER = [b"", HEADER + b"1,a", HEADER, HEADER.removesuffix(b"\n"), b"", HEADER + b"2,b\n"]


def under_header(codec: Codec) -> tuple[Places, bytes]:
    """The places of such sources, and the text of their output."""
    rules = ContentRules(codec, check=True, single=True, records=Records.CSV_HEADER)
    places, text = Places("out", rules), b""
    for n, source in enumerate(UNDER_HEADER):
        whole = source + b"\n" * (source[-1:] not in (b"", b"\n"))
        piece = whole.removeprefix(HEADER) if text else whole
        size = len(source)
        line = SourceLine(
            f"k{n}", '"e"', size, 0, 1, len(text), len(piece), crc64([source]), size, None
        )
        places.add(line)
        text += piece
    return places, text


@pytest.mark.parametrize("codec", Codec)
@given(at=cuts)
def test_sources_under_a_header_are_believed_with_it(codec: Codec, at: list[int]) -> None:
    places, text = under_header(codec)
    assert text == HEADER + b"1,a\n2,b\n"
    joiner, data = places.joiner(), MAKE[codec](text)
    for length in [*at, len(data)]:
        joiner.feed(data[:length])
        data = data[length:]
    assert joiner.finish() == []
    assert joiner.records == 2


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(
    ("was", "now"), [(b"id,name", b"id,fame"), (b"1,a", b"1,b"), (b"2,b", b"3,b"), (b"2,b\n", b"")]
)
def test_another_header_or_another_record_under_it_is_told(
    codec: Codec, was: bytes, now: bytes
) -> None:
    places, text = under_header(codec)
    with pytest.raises(IntegrityError) as caught:
        joiner = places.joiner()
        joiner.feed(MAKE[codec](text.replace(was, now)))
        joiner.finish()
    assert caught.value.code == "SourceNotProven"


def test_of_a_header_that_never_ends_little_is_held() -> None:
    rules = ContentRules(Codec.PLAIN, check=True, records=Records.CSV_HEADER)
    places, size = Places("out", rules), 8 * 1024**2
    places.add(SourceLine("k", '"e"', size, 0, 1, 0, size, 1, size, None))
    joiner, piece = places.joiner(), bytes(64 * 1024)
    tracemalloc.start()
    for _ in range(size // len(piece) - 1):
        joiner.feed(piece)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < size // 4
