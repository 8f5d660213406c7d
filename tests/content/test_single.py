"""One gzip member of the members of many sources: what every reader reads to its end."""

import base64
import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.deflater import (
    CHOICE_BYTES,
    PIECE_BYTES,
    QUICK,
    THOROUGH,
    Deflater,
    level_for,
)
from coalesce.content.rules import ContentRules
from coalesce.content.text import SingleMember, Text
from coalesce.errors import ContentError
from coalesce.model import Codec
from coalesce.storage import checksums

SINGLE = ContentRules(Codec.GZIP, check=True, single=True)

# A source: the texts of its members.
TEXTS = st.lists(st.binary(max_size=40), min_size=1, max_size=4)


def ended(text: bytes) -> bytes:
    return text + b"\n" if text and not text.endswith(b"\n") else text


def members_in(data: bytes) -> int:
    """How many gzip members stand one behind the other, and nothing behind the last."""
    count = 0
    while data:
        inflater = zlib.decompressobj(31)
        inflater.decompress(data)
        assert inflater.eof
        data, count = inflater.unused_data, count + 1
    return count


def feed(joiner: Text, data: bytes, step: int) -> bytes:
    pieces = [p for at in range(0, len(data), step) for p in joiner.feed(data[at : at + step])]
    return b"".join([*pieces, *joiner.finish()])


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 60))
def test_whatever_the_sources_are_the_output_is_one_member_of_all_their_text(
    sources: list[list[bytes]], step: int
) -> None:
    """However their bodies arrive; and each source knows its text, records and place."""
    deflater = SINGLE.deflater()
    assert deflater is not None
    output, texts = b"", []
    for source in sources:
        joiner = SINGLE.joiner("k", deflater)
        assert isinstance(joiner, SingleMember)
        output += feed(joiner, b"".join(map(gzip.compress, source)), step)
        text = b"".join(source)
        texts.append(ended(text))
        assert joiner.length == len(ended(text))
        assert (joiner.content_size, joiner.content_crc64) == (len(text), checksums.crc64([text]))
        assert joiner.records == ended(text).count(b"\n")
    output += deflater.finish()
    assert gzip.decompress(output) == b"".join(texts)
    assert members_in(output) == 1


@given(TEXTS, st.integers(1, 60))
def test_the_text_of_a_source_is_taken_out_whole(texts: list[bytes], step: int) -> None:
    joiner = Text("k")
    text = feed(joiner, b"".join(map(gzip.compress, texts)), step)
    assert text == ended(b"".join(texts))
    assert joiner.length == len(text)


def test_sources_without_text_make_one_empty_member() -> None:
    deflater = Deflater()
    joiner = SingleMember("k", deflater)
    output = feed(joiner, gzip.compress(b"") * 3, 1000) + deflater.finish()
    assert (gzip.decompress(output), members_in(output)) == (b"", 1)


@pytest.mark.parametrize("length", [1000, 4000, 12_000])
def test_text_that_repeats_itself_from_afar_is_not_many_times_as_long(length: int) -> None:
    """Such as the schema in each record of a change stream, with a member of its own before."""
    rng = random.Random(1)
    schema = base64.b64encode(rng.randbytes(length)).decode()
    rows = (f'{{"id":{rng.randrange(10**9)},"schema":"{schema}"}}\n' for _ in range(200))
    body = gzip.compress("".join(rows).encode(), mtime=0)
    deflater = Deflater()
    output = feed(SingleMember("k", deflater), body, 2**20) + deflater.finish()
    assert len(output) < 1.5 * len(body)


def encrypted(length: int, seed: int = 1) -> bytes:
    """What a payload that is encrypted looks like: nothing in it repeats itself."""
    return base64.b64encode(random.Random(seed).randbytes(length))[:length]


def with_schema(length: int, schema_bytes: int = 4000) -> bytes:
    """Records that say little new, each with the same schema in it."""
    schema, rng = encrypted(schema_bytes), random.Random(2)
    rows = (b'{"id":%d,"s":"%s"}\n' % (rng.randrange(10**9), schema) for _ in range(length))
    return b"".join(row for row, _ in zip(rows, range(0, length, schema_bytes), strict=False))[
        :length
    ]


def test_text_in_which_nothing_repeats_itself_is_deflated_in_less_time() -> None:
    assert level_for(encrypted(PIECE_BYTES)) == QUICK
    assert level_for(random.Random(1).randbytes(PIECE_BYTES)) == QUICK


@pytest.mark.parametrize("schema_bytes", [1000, 4000, 12_000, 20_000])
def test_text_that_the_quick_level_makes_longer_is_deflated_thoroughly(schema_bytes: int) -> None:
    assert level_for(with_schema(PIECE_BYTES, schema_bytes)) == THOROUGH


KINDS = {
    "encrypted": encrypted(PIECE_BYTES),
    "with a schema": with_schema(PIECE_BYTES),
    "incompressible": random.Random(1).randbytes(PIECE_BYTES),
    "empty": b"",
    "short": b"{}\n",
}


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=30))
def test_a_member_of_text_of_any_kinds_inflates_to_all_of_it(names: list[str]) -> None:
    """Whatever levels it is deflated at."""
    deflater = Deflater()
    output = b"".join([*(deflater.deflate(KINDS[name]) for name in names), deflater.finish()])
    assert gzip.decompress(output) == b"".join(KINDS[name] for name in names)
    assert members_in(output) == 1


@pytest.mark.parametrize("first", ["encrypted", "with a schema"])
def test_text_that_becomes_of_another_kind_is_soon_deflated_at_its_own_level(first: str) -> None:
    (second,) = {"encrypted", "with a schema"} - {first}
    pieces = CHOICE_BYTES // PIECE_BYTES
    names = [first] * (pieces - 1) + [second] * (3 * pieces)
    deflater = Deflater()
    lengths = [len(deflater.deflate(KINDS[name])) for name in names]
    alone = Deflater()
    expected = [len(alone.deflate(KINDS[second])) for _ in range(pieces)]
    assert sum(lengths[-pieces:]) < 1.05 * sum(expected)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"\0" * 20, lambda b: b + b"x"])
def test_a_source_that_is_not_whole_is_refused_in_this_mode_too(spoil) -> None:  # type: ignore[no-untyped-def]
    joiner = SingleMember("k", Deflater())
    with pytest.raises(ContentError):
        feed(joiner, spoil(gzip.compress(b'{"a": 1}\n')), 1000)


def test_a_member_says_nothing_of_a_time_or_a_file() -> None:
    """So that the same sources make the same bytes."""
    header = Deflater().finish()[:10]
    assert header[3:8] == bytes(5)


@pytest.mark.parametrize(
    ("codec", "check"), [(Codec.PLAIN, True), (Codec.GZIP, False), (Codec.PLAIN, False)]
)
def test_text_and_what_is_not_checked_stays_as_it_is(codec: Codec, check: bool) -> None:
    assert ContentRules(codec, check, single=True).deflater() is None
