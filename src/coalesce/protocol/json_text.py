"""JSON that is read while it comes: what is in it may be larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

# A generator that yields wherever it needs more text.
Step = Generator[None, None, T]

# Characters of a value that is held whole: many times those of a source with the longest key.
_LONGEST = 64 * 1024

_SPACE = re.compile(r"[ \t\n\r]*")
_MORE_DIGITS = re.compile(r"[-+.eE0-9]*")  # with which a number may go on
_parse_value = json.JSONDecoder().raw_decode


class JsonText:
    """The text that has come and was not read yet.

    Objects and lists are opened and gone through item by item; an item is read whole, or opened in
    its turn. Every step raises ValueError for text that is no JSON, or another kind of JSON than it
    is read as.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._opened = False  # nothing of the object or list was read yet
        self._ended = False

    def add(self, text: str, *, last: bool = False) -> None:
        """Takes more text; nothing comes after the last."""
        self._text = self._text[self._at :] + text
        self._at = 0
        self._ended = last

    def open(self, bracket: str) -> Step[None]:
        """Goes into an object or a list."""
        yield from self._expect(bracket)
        self._opened = True

    def goes_on(self, closing: str) -> Step[bool]:
        """Whether another item comes before the object or list ends."""
        opened, self._opened = self._opened, False
        if (yield from self._peek()) == closing:
            self._at += 1
            return False
        if not opened:
            yield from self._expect(",")
        return True

    def name(self) -> Step[str | None]:
        """The name of an object's next field; None at its end."""
        if not (yield from self.goes_on("}")):
            return None
        name = yield from self.value()
        yield from self._expect(":")
        if not isinstance(name, str):
            raise ValueError("a name that is no text")
        return name

    def value(self) -> Step[object]:
        """A value as a whole."""
        while True:
            yield from self._peek()
            try:
                value, end = _parse_value(self._text, self._at)
            except json.JSONDecodeError:
                yield from self._wait()  # it may go on
                continue
            if self._ended or not _MORE_DIGITS.fullmatch(self._text, end):
                self._at = end
                return value
            yield from self._wait()

    def end(self) -> Step[None]:
        """Makes sure that nothing follows."""
        while not (self._ended and self._at == len(self._text)):
            self._skip_space()
            if self._at < len(self._text):
                raise ValueError("something behind the end")
            if not self._ended:
                yield

    def _expect(self, character: str) -> Step[None]:
        if (yield from self._peek()) != character:
            raise ValueError(f"no {character!r}")
        self._at += 1

    def _peek(self) -> Step[str]:
        """The next character that is no white space."""
        while True:
            self._skip_space()
            if self._at < len(self._text):
                return self._text[self._at]
            yield from self._wait()

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _wait(self) -> Step[None]:
        if self._ended or len(self._text) - self._at > _LONGEST:
            raise ValueError("not whole")
        yield
