"""Proposes a layout for keys that fit none. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from coalesce.model import Records
from coalesce.naming.own_layouts import OwnLayout

# What a name is made of, the most particular first: a field's name, and its pattern.
_PIECES = (
    ("id", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    ("time", r"\d{4}-\d{2}-\d{2}[T_-]\d{2}[:.-]?\d{2}(?:[:.-]?\d{2})?(?:\.\d+)?Z?"),
    ("time", r"\d{8}T\d{4}(?:\d{2})?Z?"),
    ("time", r"\d{4}-\d{2}-\d{2}"),
    ("number", r"\d+"),
)
_WORD = ("word", r"[A-Za-z](?:[A-Za-z_.-]*[A-Za-z])?")
_ENDING = re.compile(r"(?:\.[a-z][a-z0-9]*){1,2}$", re.ASCII)
_PIECE = re.compile("|".join(f"({pattern})" for _, pattern in _PIECES), re.ASCII)
_FIELD = re.compile(r"\{(\d)\}", re.ASCII)

# Names as pieces: texts, and `{n}` for a field that is the n-th of the above, 0 for a word.
_Shape = tuple[str, ...]


def propose(keys: Sequence[str]) -> OwnLayout | None:
    """Proposes a layout that fits the names that most of the keys have, None if there is none.

    They are ordered by what looks like a time, or else by the last number that differs. Words, and
    numbers in front of that, make the group.
    """
    names = [key.rpartition("/")[2] for key in keys]
    shapes = Counter(shape for name in names if (shape := tuple(_shape(name))))
    if not shapes:
        return None
    shape = max(shapes, key=lambda one: shapes[one])
    order = _order(shape, [name for name in names if tuple(_shape(name)) == shape])
    if order is None:
        return None
    proposed = _layout(shape, order)
    try:
        parse = proposed.layout("guess").parse
    except ValueError:
        return None
    return proposed if any(map(parse, keys)) else None


def _shape(name: str) -> Iterator[str]:
    """Yields the pieces of a name, its ending last."""
    at, end = 0, _end_of_stem(name)
    for match in _PIECE.finditer(name, 0, end):
        yield from _words(name[at : match.start()])
        yield f"{{{match.lastindex}}}"
        at = match.end()
    yield from _words(name[at:end])
    yield from filter(None, (name[end:],))


def _end_of_stem(name: str) -> int:
    found = _ENDING.search(name)
    return found.start() if found else len(name)


def _words(text: str) -> Iterator[str]:
    """Yields a text with a field in the place of its word, which may differ from name to name."""
    letters = [at for at, sign in enumerate(text) if sign.isascii() and sign.isalpha()]
    if not letters:
        yield from filter(None, (text,))
        return
    yield from filter(None, (text[: letters[0]], "{0}", text[letters[-1] + 1 :]))


def _order(shape: _Shape, names: Sequence[str]) -> int | None:
    """Returns the place of the piece that orders names of one shape."""
    places = [place for place, piece in enumerate(shape) if _FIELD.fullmatch(piece)]
    fields = [place for place in places if shape[place] != "{0}"]
    kinds = {place: _PIECES[int(shape[place][1]) - 1][0] for place in fields}
    times = [place for place in fields if kinds[place] == "time"]
    numbers = [place for place in fields if kinds[place] == "number"]
    found = (_PIECE.finditer(name, 0, _end_of_stem(name)) for name in names)
    rows = [[match[0] for match in matches] for matches in found]
    differ = [p for p in numbers if len({row[fields.index(p)] for row in rows}) > 1]
    return next(iter([*times[:1], *differ[-1:], *numbers[-1:]]), None)


def _layout(shape: _Shape, order: int) -> OwnLayout:
    source, output, group, ordered = "(?P<dir>(?:.*/)?)", "{dir}", ["dir"], ""
    counts = Counter[str]()
    for place, piece in enumerate(shape):
        found = _FIELD.fullmatch(piece)
        if found is None:
            source += re.escape(piece).replace(r"\-", "-")
            output += piece.lstrip("-_.") if output == "{dir}" and place < order else piece
            continue
        name, pattern = _PIECES[int(found[1]) - 1] if piece != "{0}" else _WORD
        counts[name] += 1
        field = name if counts[name] == 1 else f"{name}{counts[name]}"
        if place == order:
            source += f"(?P<{field}>{pattern})"
            output += f"{{first.{field}}}--{{last.{field}}}"
            ordered = field
        elif name == "word" or (name == "number" and place < order):
            source += f"(?P<{field}>{pattern})"
            output += f"{{{field}}}"
            group.append(field)
        else:
            source += f"(?:{pattern})"
            output = output.rstrip("-_.")
    records = Records.CSV_HEADER if ".csv" in shape[-1] else Records.LINES
    return OwnLayout(
        source=source, group=tuple(group), order=(ordered,), output=output, records=records
    )
