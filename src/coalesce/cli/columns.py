"""Text in columns that fits a terminal: numbers stay whole, and so do names that fit a line.

A width of None is a pipe or a file: there nothing is folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len

Row = tuple[str, str]

_GAP = "  "
_NARROWEST = 20
# A name that is longer than a line is folded behind one of these.
_PIECE = re.compile(r"[^-._/,:=]*[-._/,:=]+|[^-._/,:=]+")


class Block(Protocol):
    """Something that can be printed."""

    def lines(self, width: int | None) -> Iterator[str]:
        """Its lines, each no longer than `width` if its words allow."""
        ...


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names, and what there is to say of each."""

    rows: Sequence[Row]

    def lines(self, width: int | None) -> Iterator[str]:
        """A line for each row, and more for a text that does not fit."""
        indent = max((cell_len(name) for name, _ in self.rows), default=0) + len(_GAP)
        room = None if width is None else max(_NARROWEST, width - indent)
        for name, text in self.rows:
            for line in fold(printable(text), room):
                yield f"{_fill(name, indent)}{line}".rstrip()
                name = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """A table: a name in the first column of each row, numbers in the others."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self, width: int | None) -> Iterator[str]:
        """The table; where it is too wide, each name stands on a line above its numbers."""
        rows = [[printable(name), *numbers] for name, *numbers in self.rows]
        table = [list(self.headings), *rows]
        widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
        room = sum(widths) + len(_GAP) * (len(widths) - 1)
        if width is None or room <= width:
            for name, *numbers in table:
                yield _fill(name, widths[0]) + _aligned(numbers, widths[1:])
        elif room - widths[0] <= width:
            yield self.headings[0]
            yield _aligned(self.headings[1:], widths[1:])
            for name, *numbers in rows:
                yield from fold(name, width)
                yield _aligned(numbers, widths[1:])
        else:
            for name, *numbers in rows:
                yield from fold(name, width)
                pairs = zip(self.headings[1:], numbers, strict=True)
                yield from (f"{_GAP}{heading} {number}" for heading, number in pairs)


@dataclass(frozen=True, slots=True)
class Stack:
    """Blocks below one another, with an empty line between them."""

    blocks: Sequence[Block]

    def lines(self, width: int | None) -> Iterator[str]:
        """The lines of all blocks."""
        for at, block in enumerate(self.blocks):
            if at:
                yield ""
            yield from block.lines(width)


def fold(text: str, room: int | None) -> list[str]:
    """Lines of no more than `room` columns: whole words, and only what is longer than a line is
    folded, behind a dot, a slash or the like.
    """
    if room is None or cell_len(text) <= room:
        return [text]
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= room:
            lines[-1] += f" {word}"
        elif cell_len(word) <= room:
            lines.append(word)
        else:
            lines += _fold_word(word, room)
    return lines


def printable(text: str) -> str:
    """The text, with what would move a terminal's cursor written out: keys may hold anything."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _fold_word(word: str, room: int) -> Iterator[str]:
    line = ""
    for piece in _PIECE.findall(word):
        if line and cell_len(line) + cell_len(piece) > room:
            yield line
            line = ""
        line += piece
    yield line


def _fill(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _aligned(numbers: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(
        f"{_GAP}{number:>{width}}" for number, width in zip(numbers, widths, strict=True)
    )
