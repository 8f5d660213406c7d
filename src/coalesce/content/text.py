"""The text of gzip members: taken out of them, or on its way into the one member of an output."""

from __future__ import annotations

from typing_extensions import override

from coalesce.content.deflater import TakesText
from coalesce.content.members import Members


class Text(Members):
    """Checks the members of a source as `Members` does, and returns their text.

    Empty members vanish, and a missing final newline is added.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self._output: list[bytes] = []

    @override
    def feed(self, data: bytes) -> list[bytes]:
        output = super().feed(data)
        self.length = self.content_size
        return output

    @override
    def finish(self) -> list[bytes]:
        if super().finish():
            self._add(b"\n")
            self.length = self.content_size + 1
        return self._output

    @override
    def _count(self, text: bytes) -> None:
        super()._count(text)
        self._add(text)

    @override
    def _pass_on(self, piece: bytes, output: list[bytes]) -> None:
        output += self._output
        self._output.clear()

    def _add(self, text: bytes) -> None:
        self._output.append(text)


class SingleMember(Text):
    """Hands the text to the `deflater` of the output, and returns what that has ready."""

    def __init__(self, key: str, deflater: TakesText) -> None:
        super().__init__(key)
        self._deflater = deflater

    @override
    def _add(self, text: bytes) -> None:
        if deflated := self._deflater.deflate(text):
            self._output.append(deflated)
