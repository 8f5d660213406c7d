"""Of content under a header, each output has the header once, and every other line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.header import LONGEST
from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError, HeadersDiffer
from coalesce.model import Codec, Records
from support.codecs import MAKE, READ

HEADER = b"id,name\n"
ROWS = st.lists(st.sampled_from([b"1,a\n", b"2,b\n", b"id,name\n", b"\n"]), max_size=4).map(
    b"".join
)


def rules_for(codec: Codec) -> ContentRules:
    single = codec is not Codec.PLAIN
    return ContentRules(codec, check=True, single=single, records=Records.CSV_HEADER)


def join(codec: Codec, texts: list[bytes], step: int = 1000) -> tuple[bytes, list[int | None]]:
    """The text of an output of these sources, and the records of each. Raises ContentError."""
    rules = rules_for(codec)
    deflater, header = rules.deflater(), rules.header()
    output, records, length = b"", list[int | None](), 0
    for n, text in enumerate(texts):
        joiner = rules.joiner(f"k{n}", deflater, header)
        body = MAKE[codec](text)
        for at in range(0, len(body), step):
            output += b"".join(joiner.feed(body[at : at + step]))
        output += b"".join(joiner.finish())
        records.append(joiner.records)
        length += joiner.length
    output += deflater.finish() if deflater else b""
    text = READ[codec](output)
    assert length == len(text)
    return text, records


@pytest.mark.parametrize("codec", Codec)
@given(
    rows=st.lists(ROWS, min_size=1, max_size=4),
    unended=st.booleans(),
    step=st.integers(1, 40),
)
def test_the_first_header_stays_and_equal_ones_are_dropped(
    codec: Codec, rows: list[bytes], unended: bool, step: int
) -> None:
    """Rows that look like it stay; a last line without its newline is ended."""
    sources = [HEADER + some for some in rows]
    cut = [source[:-1] if unended and source[-2:] != b"\n\n" else source for source in sources]
    text, records = join(codec, cut, step)
    assert text == HEADER + b"".join(rows)
    assert records == [some.count(b"\n") for some in rows]


@pytest.mark.parametrize("codec", Codec)
def test_a_source_without_text_has_no_header_that_could_differ(codec: Codec) -> None:
    empty = b"" if codec is not Codec.PLAIN else HEADER
    text, records = join(codec, [empty, HEADER + b"1,a\n", empty, HEADER])
    assert (text, records) == (HEADER + b"1,a\n", [0, 1, 0, 0])


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("other", [b"id,nama\n", b"id,name\r\n", b"id\n", b"id,name,more\n", b"\n"])
def test_a_source_with_another_header_is_not_joined(codec: Codec, other: bytes) -> None:
    with pytest.raises(HeadersDiffer) as caught:
        join(codec, [HEADER + b"1,a\n", other + b"2,b\n"])
    assert caught.value.key == "k1"
    assert caught.value.kind
    assert b"name" not in str(caught.value).encode()


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("first", [b'id,"na\nme"\n1,a\n', b"x" * (LONGEST + 1) + b"\n1,a\n"])
def test_a_header_of_which_it_is_not_clear_where_it_ends_is_refused(
    codec: Codec, first: bytes
) -> None:
    with pytest.raises(ContentError) as caught:
        join(codec, [first])
    assert caught.value.code == "UnclearHeader"


def test_a_source_that_is_cut_short_does_not_say_what_the_header_is() -> None:
    """It is not joined: the next one's stays."""
    rules = rules_for(Codec.GZIP)
    deflater, header = rules.deflater(), rules.header()
    assert header is not None
    spoilt = rules.joiner("k0", deflater, header)
    spoilt.feed(MAKE[Codec.GZIP](b"garbled\n1,a\n")[:-1])
    with pytest.raises(ContentError):
        spoilt.finish()
    rules.joiner("k1", deflater, header).feed(MAKE[Codec.GZIP](HEADER))
    assert header.line == b""


def test_the_source_that_gave_the_header_keeps_it_when_it_is_read_again() -> None:
    rules = rules_for(Codec.PLAIN)
    header = rules.header()
    for _ in range(2):
        joiner = rules.joiner("k0", None, header)
        assert b"".join([*joiner.feed(HEADER + b"1,a\n"), *joiner.finish()]) == HEADER + b"1,a\n"
