"""Reads the regular expressions and templates that layouts are made of. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from coalesce.naming.layout_data import Kind

_NAMED = re.compile(r"\(\?P<([A-Za-z_]\w*)>", re.ASCII)
_PLACEHOLDER = re.compile(r"\{(?:(first|last|max)\.)?([A-Za-z_]\w*)\}", re.ASCII)
_NUMBER = re.compile(r"(?:\\d|\[0-9\])(?:\+|\{[1-9]\d*(?:,\d*)?\})?", re.ASCII)
_ENDS_IN_NUMBER = re.compile(r"\\d\+\)*$")
_TIME_MARKS = re.compile(r"\\?[-T:_.Z+ ]|\(\?:|\)|\?")


def sub_patterns(pattern: str) -> dict[str, str]:
    """Returns what stands in each named group of a regular expression.

    Raises ValueError for a name that is there twice, and for groups that do not close.
    """
    found: dict[str, str] = {}
    opened: list[tuple[str, int]] = []
    for at, sign in _signs(pattern):
        if sign == "(":
            named = _NAMED.match(pattern, at)
            opened.append((named[1], named.end()) if named else ("", at + 1))
        elif sign == ")":
            if not opened:
                raise ValueError("a group closes that was not opened")
            name, begin = opened.pop()
            if name in found:
                raise ValueError(f"the group {name} is there twice")
            if name:
                found[name] = pattern[begin:at]
    if opened:
        raise ValueError("a group is not closed")
    return found


def _signs(pattern: str) -> Iterator[tuple[int, str]]:
    """Yields the characters of a pattern that stand for themselves neither by a backslash nor in a
    class, and their places.
    """
    at, class_begin = 0, -1
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
        elif class_begin >= 0:
            # a bracket that comes first, or after a caret, stands for itself
            if sign == "]" and pattern[class_begin + 1 : at] not in ("", "^"):
                class_begin = -1
        elif sign == "[":
            class_begin = at
        else:
            yield at, sign
        at += 1


def split_directory(pattern: str) -> tuple[str, str]:
    """Splits the pattern of a whole key into that of its directory and that of the rest.

    Raises ValueError if it does not begin with the group `dir`.
    """
    begin = "(?P<dir>"
    if not pattern.startswith(begin):
        raise ValueError("it does not begin with the group dir, such as (?P<dir>.*/)")
    directory = sub_patterns(pattern).get("dir", "")
    return directory, pattern[len(begin) + len(directory) + 1 :]


def kind_of(pattern: str) -> Kind:
    """Returns how texts that match a pattern are to be ordered: by their number if they are digits,
    by their time if they are digits with what stands between them in a time.
    """
    rest = _NUMBER.sub("", pattern)
    if not rest:
        return Kind.NUMBER
    return Kind.TEXT if _TIME_MARKS.sub("", rest) or rest == pattern else Kind.TIME


class Placeholder(NamedTuple):
    """A field in a template: of the group, or of the source that `end` says."""

    end: str
    field: str


@dataclass(frozen=True, slots=True)
class Template:
    """The key of an output: its texts and placeholders in order, without the directory."""

    parts: tuple[str | Placeholder, ...]

    @classmethod
    def of(cls, text: str) -> Template:
        """Reads a template. Raises ValueError if it is none, or does not begin with `{dir}`."""
        parts: list[str | Placeholder] = []
        at = 0
        for found in _PLACEHOLDER.finditer(text):
            parts += [text[at : found.start()]] if found.start() > at else []
            parts.append(Placeholder(found[1] or "", found[2]))
            at = found.end()
        parts += [text[at:]] if at < len(text) else []
        if parts[:1] != [Placeholder("", "dir")]:
            raise ValueError("it does not begin with {dir}")
        for part in parts:
            if isinstance(part, str) and ("{" in part or "}" in part):
                raise ValueError(f"{part!r} is no field; write {{field}} or {{first.field}}")
        return cls(tuple(parts[1:]))

    @property
    def group_fields(self) -> tuple[str, ...]:
        """The fields of the group that stand in it."""
        return tuple(part.field for part in self.placeholders if not part.end)

    @property
    def range_fields(self) -> frozenset[tuple[str, str]]:
        """The fields of single sources that stand in it, each with its end."""
        return frozenset((part.end, part.field) for part in self.placeholders if part.end)

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """Its placeholders in order."""
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    def pattern(self, fields: Mapping[str, str]) -> str:
        """Returns a regular expression of the names that it makes.

        The fields of single sources are groups such as `first__offset`. They may have more zeros at
        the front than `fields` allows: that tells two names of the same ends apart.
        """
        return "".join(
            re.escape(part) if isinstance(part, str) else _group_pattern(part, fields[part.field])
            for part in self.parts
        )

    def names(self, values: Mapping[str, str]) -> str:
        """Returns what all outputs of a group are called, with a `*` where they differ."""
        shown: list[str] = []
        waiting = ""  # text behind a star, which the next star swallows
        for part in self.parts:
            if isinstance(part, Placeholder) and part.end:
                waiting = ""
                shown += [] if shown[-1:] == ["*"] else ["*"]
            elif isinstance(part, str) and shown[-1:] == ["*"]:
                waiting = part
            else:
                text = part if isinstance(part, str) else values[part.field]
                shown.append(waiting + text)
                waiting = ""
        return "".join([*shown, waiting])


def _group_pattern(part: Placeholder, pattern: str) -> str:
    if not part.end:
        return f"(?P<{part.field}>{pattern})"
    nested = _NAMED.sub(rf"(?P<{part.end}__\1>", pattern)
    zeros = "" if _ENDS_IN_NUMBER.search(pattern) else "0*"
    return f"{zeros}(?P<{part.end}__{part.field}>{nested})"
