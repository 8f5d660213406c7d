"""What holds of every codec: records stay whole and in order, and memory is bounded."""

import base64
import gzip
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.joiner import Joiner
from coalesce.content.rules import ContentRules
from coalesce.content.text import Text
from coalesce.errors import ContentError
from coalesce.model import Codec, Records
from coalesce.storage import checksums
from support.codecs import MAKE, READ, members_in, zstd

MIB = 1024**2
COMPRESSED = [Codec.GZIP, Codec.ZSTD, Codec.BZIP2]
NEW = [Codec.ZSTD, Codec.BZIP2]

# A source: the texts of its members.
TEXTS = st.lists(st.binary(max_size=40), min_size=1, max_size=4)


def ended(text: bytes) -> bytes:
    return text + b"\n" if text and not text.endswith(b"\n") else text


def feed(joiner: Joiner, data: bytes, step: int) -> bytes:
    pieces = [p for at in range(0, len(data), step) for p in joiner.feed(data[at : at + step])]
    return b"".join([*pieces, *joiner.finish()])


@pytest.mark.parametrize("codec", NEW)
@given(texts=TEXTS, step=st.integers(1, 60))
def test_members_pass_whole_and_their_last_record_is_ended(
    codec: Codec, texts: list[bytes], step: int
) -> None:
    """However the body arrives; and its records and content are known."""
    joiner = ContentRules(codec, check=True).joiner("k")
    data = b"".join(map(MAKE[codec], texts))
    written, held = feed(joiner, data, step), b"".join(texts)
    assert (READ[codec](written) if written else b"") == ended(held)
    assert joiner.length == len(written)
    assert joiner.records == ended(held).count(b"\n")
    assert (joiner.content_size, joiner.content_crc64) == (len(held), checksums.crc64([held]))


@pytest.mark.parametrize("codec", NEW)
def test_members_are_passed_on_byte_for_byte_but_for_those_that_hold_nothing(codec: Codec) -> None:
    make = MAKE[codec]
    joiner = ContentRules(codec, check=True).joiner("k")
    written = feed(joiner, make(b"") * 3 + make(b"a\n") + make(b"") + make(b"b\n"), 1000)
    assert written == make(b"a\n") + make(b"b\n")
    assert joiner.left_out == 4 * len(make(b""))


@pytest.mark.parametrize("codec", COMPRESSED)
@given(sources=st.lists(TEXTS, min_size=1, max_size=4), step=st.integers(1, 60))
def test_whatever_the_sources_are_the_output_is_one_member_of_all_their_text(
    codec: Codec, sources: list[list[bytes]], step: int
) -> None:
    """And each source knows its text, records and place."""
    rules = ContentRules(codec, check=True, single=True)
    deflater = rules.deflater()
    assert deflater is not None
    output, texts = b"", []
    for source in sources:
        joiner = rules.joiner("k", deflater)
        output += feed(joiner, b"".join(map(MAKE[codec], source)), step)
        text = b"".join(source)
        texts.append(ended(text))
        assert joiner.length == len(ended(text))
        assert (joiner.content_size, joiner.content_crc64) == (len(text), checksums.crc64([text]))
        assert joiner.records == ended(text).count(b"\n")
    output += deflater.finish()
    assert READ[codec](output) == b"".join(texts)
    assert codec is Codec.GZIP or members_in(codec, output) == 1


@pytest.mark.parametrize("codec", COMPRESSED)
def test_sources_without_text_make_one_empty_member(codec: Codec) -> None:
    """In either mode, and of the same length, by which such an output is known."""
    rules = ContentRules(codec, check=True, single=True)
    deflater = rules.deflater()
    assert deflater is not None
    output = feed(rules.joiner("k", deflater), MAKE[codec](b"") * 3, 1000) + deflater.finish()
    assert READ[codec](output) == READ[codec](rules.empty_output) == b""
    assert len(output) == len(rules.empty_output)


def test_a_zstd_output_has_a_checksum_that_its_readers_notice() -> None:
    """Though its sources have none."""
    deflater = ContentRules(Codec.ZSTD, check=True, single=True).deflater()
    assert deflater is not None
    output = deflater.deflate(b"abcdefgh\n") + deflater.finish()
    assert READ[Codec.ZSTD](output) == b"abcdefgh\n"
    assert READ[Codec.ZSTD](MAKE[Codec.ZSTD](b"abcdefgh\n").replace(b"abc", b"abd"))
    with pytest.raises(zstd.ZstdError):
        READ[Codec.ZSTD](output.replace(b"abc", b"abd"))


@pytest.mark.parametrize("codec", Codec)
@given(texts=TEXTS, step=st.integers(1, 60))
def test_opaque_content_is_joined_as_it_is(codec: Codec, texts: list[bytes], step: int) -> None:
    """No newline is supplied, no record is counted."""
    held = b"".join(texts)
    for single in (False, True):
        rules = ContentRules(codec, check=True, single=single, records=Records.OPAQUE)
        deflater = rules.deflater()
        joiner = rules.joiner("k", deflater)
        written = feed(joiner, b"".join(map(MAKE[codec], texts)), step)
        written += deflater.finish() if deflater else b""
        assert (READ[codec](written) if written else b"") == held
        assert joiner.records is None
        assert (joiner.content_size, joiner.content_crc64) == (len(held), checksums.crc64([held]))


@pytest.mark.parametrize("said", Codec)
@pytest.mark.parametrize("held", Codec)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_name_that_says_another_codec_than_the_bytes_is_not_believed(
    said: Codec, held: Codec, step: int
) -> None:
    body = MAKE[held](b'{"n": 1}\n')
    joiner = ContentRules(said, check=True).joiner("k")
    if said is held:
        assert feed(joiner, body, step) == body
        return
    with pytest.raises(ContentError) as caught:
        feed(joiner, body, step)
    plain = "Compressed" if said is Codec.PLAIN else f"Corrupt{said.capitalize()}"
    assert caught.value.code == plain


@pytest.mark.parametrize("codec", COMPRESSED)
def test_an_object_without_a_member_is_refused(codec: Codec) -> None:
    with pytest.raises(ContentError) as caught:
        ContentRules(codec, check=True).joiner("k").finish()
    assert caught.value.code == f"Not{codec.capitalize()}"


def bomb(codec: Codec) -> bytes:
    """64 MiB in a few kilobytes."""
    return MAKE[codec](bytes(64 * MIB - 1) + b"\n")


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("codec", COMPRESSED)
@pytest.mark.usefixtures("traced")
def test_what_becomes_many_times_as_long_takes_no_more_memory(codec: Codec, single: bool) -> None:
    body = bomb(codec)
    rules = ContentRules(codec, check=True, single=single)
    deflater = rules.deflater()
    joiner = rules.joiner("k", deflater)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    feed(joiner, body, len(body))
    _, peak = tracemalloc.get_traced_memory()
    assert joiner.content_size == 64 * MIB
    assert peak - before < 6 * MIB


@pytest.mark.parametrize("codec", NEW)
def test_text_is_not_given_out_without_bounds(codec: Codec) -> None:
    """Of two bombs in a row, which a few kilobytes make."""
    body = bomb(codec) * 3
    text = ContentRules(codec, check=True).text("k")
    assert isinstance(text, Text)
    with pytest.raises(ContentError):
        text.feed(body)


def empty_blocks(codec: Codec) -> bytes:
    """The beginning of a member that holds nothing, and does not end."""
    if codec is Codec.GZIP:
        return gzip.compress(b"", mtime=0)[:10] + b"\0\0\0\xff\xff" * (MIB // 2)
    return b"\x28\xb5\x2f\xfd\0\x38" + bytes(3) * MIB


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.ZSTD])
def test_a_member_that_holds_nothing_is_not_held_for_ever(codec: Codec) -> None:
    joiner = ContentRules(codec, check=True).joiner("k")
    body = empty_blocks(codec)
    with pytest.raises(ContentError):
        for at in range(0, len(body), 64 * 1024):
            joiner.feed(body[at : at + 64 * 1024])


@pytest.mark.parametrize("codec", NEW)
@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_a_member_of_more_than_a_mebibyte_is_whole(codec: Codec, size: int) -> None:
    """Of text in which nothing repeats itself, so that the body is nearly as long."""
    lines = base64.b64encode(random.Random(1).randbytes(size)).replace(b"/", b"\n")
    text = lines[: size - 1] + b"\n"
    joiner = ContentRules(codec, check=True).joiner("k")
    body = MAKE[codec](text)
    assert feed(joiner, body, 100_000) == body
    assert joiner.records == text.count(b"\n")
