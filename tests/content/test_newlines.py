"""Records are counted exactly, by whichever of two ways is the quicker one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.lines import count_newlines

# Short and long lines, and neither: which way is taken depends on the beginning.
LINES = st.lists(
    st.one_of(st.just(b"\n"), st.integers(0, 600).map(lambda n: b"x" * n), st.binary(max_size=20)),
    max_size=60,
).map(b"".join)


@given(LINES, LINES, st.integers(0, 40))
def test_every_newline_counts_once(begin: bytes, end: bytes, times: int) -> None:
    text = begin + end * times
    assert count_newlines(text) == text.count(b"\n")


@pytest.mark.parametrize("rest", [b"\n", b"x\n", b"\r\n", b"x"])
def test_long_lines_at_the_beginning_may_be_followed_by_short_ones(rest: bytes) -> None:
    text = (b"x" * 5000 + b"\n") * 2 + rest * 3_000_000
    assert count_newlines(text) == text.count(b"\n")
