"""Text in columns: nothing is lost, nothing that fits is cut, and no line is too wide."""

import string

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from coalesce.cli.columns import Columns, Pairs, Stack, fold, printable

WORDS = st.text(string.ascii_letters + "._-/é水", min_size=1, max_size=40)
TEXTS = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
NUMBERS = st.integers(0, 10**12).map("{:,}".format)


def without_spaces(lines: list[str]) -> str:
    return "".join("".join(line.split()) for line in lines)


@given(TEXTS, st.integers(20, 120))
def test_a_folded_text_has_all_its_words_and_none_that_fits_is_cut(text: str, room: int) -> None:
    lines = fold(text, room)
    assert without_spaces(lines) == without_spaces([text])
    whole = " ".join(lines).split(" ")
    for word in text.split(" "):
        assert cell_len(word) > room or word in whole


@given(TEXTS)
def test_a_pipe_gets_every_text_in_one_line(text: str) -> None:
    assert fold(text, None) == [text]


def test_a_name_longer_than_a_line_is_folded_behind_its_separators() -> None:
    assert fold("data/2026/db.core.claimant-contact-details", 20) == [
        "data/2026/db.core.",
        "claimant-contact-",
        "details",
    ]


@given(st.lists(st.tuples(WORDS, TEXTS), min_size=1), st.integers(80, 120))
def test_pairs_are_no_wider_than_the_terminal(rows: list[tuple[str, str]], width: int) -> None:
    lines = list(Pairs(rows).lines(width))
    assert len(lines) >= len(rows)
    assert all(cell_len(line) <= width for line in lines)


@given(st.lists(st.tuples(WORDS, NUMBERS, NUMBERS, NUMBERS), max_size=6), st.integers(1, 200))
def test_a_table_shows_every_number_whole_at_any_width(
    rows: list[tuple[str, ...]], width: int
) -> None:
    lines = list(Columns(("name", "one", "two", "three"), rows).lines(width))
    shown = [word for line in lines for word in line.split()]
    for _, *numbers in rows:
        assert set(numbers) <= set(shown)
    assert without_spaces(list(Columns(("name",), rows and [(rows[0][0],)]).lines(None))) == (
        "name" + (rows[0][0] if rows else "")
    )


def test_numbers_are_aligned_at_their_ends() -> None:
    table = Columns(("topic", "sources"), [("a", "1"), ("b", "1,000,000")])
    assert list(table.lines(None)) == ["topic    sources", "a              1", "b      1,000,000"]


def test_a_name_stands_above_its_numbers_where_the_table_is_too_wide() -> None:
    table = Columns(("topic", "sources", "size"), [("a" * 20, "1,000", "5 B")])
    assert list(table.lines(25)) == ["topic", "  sources  size", "a" * 20, "    1,000   5 B"]


def test_the_narrowest_terminal_gets_a_line_for_each_number() -> None:
    table = Columns(("topic", "sources", "size"), [("a", "1,000", "5 B")])
    assert list(table.lines(10)) == ["a", "  sources 1,000", "  size 5 B"]


def test_blocks_have_an_empty_line_between_them() -> None:
    stack = Stack([Pairs([("a", "b")]), Pairs([("c", "d")])])
    assert list(stack.lines(80)) == ["a  b", "", "c  d"]


@given(st.text())
def test_nothing_that_is_printed_moves_the_cursor(text: str) -> None:
    assert printable(text).isprintable()
