"""The text of members: taken out of them, or on its way into the one member of an output."""

from __future__ import annotations

from typing_extensions import override

from coalesce.content.deflater import TakesText
from coalesce.content.form import Form
from coalesce.content.header import HeaderCut
from coalesce.content.members import GZIP, Members
from coalesce.model import Records

# The most text that a joiner gives out at once: twice what 64 KiB of gzip can become. What other
# codecs make of so little may be a thousand times as much again.
_MOST_TEXT = 128 * 1024**2


class Text(Members):
    """Checks the members of a source as `Members` does, and returns their text.

    Empty members vanish, a missing final newline is added, and `cut` takes a header out.
    """

    def __init__(
        self,
        key: str,
        form: Form = GZIP,
        records: Records = Records.LINES,
        cut: HeaderCut | None = None,
    ) -> None:
        super().__init__(key, form, records)
        self._output: list[bytes] = []
        self._given = 0
        self._cut = cut

    @override
    def feed(self, data: bytes) -> list[bytes]:
        self._given = 0
        output = super().feed(data)
        self.length = self._length(self.content_size)
        return output

    @override
    def finish(self) -> list[bytes]:
        if super().finish():
            self._take(b"\n")
            self.length = self._length(self.content_size + 1)
        if self._cut is not None:
            self._cut.finish()
        return self._output

    @override
    def _count(self, text: bytes) -> None:
        super()._count(text)
        self._take(text)

    @override
    def _pass_on(self, piece: bytes, output: list[bytes]) -> None:
        output += self._output
        self._output.clear()

    def _length(self, size: int) -> int:
        return size if self._cut is None else size - self._cut.dropped

    def _take(self, text: bytes) -> None:
        passed = text if self._cut is None else self._cut.take(text)
        if passed:
            self._add(passed)

    def _add(self, text: bytes) -> None:
        self._output.append(text)
        self._given += len(text)
        if self._given > _MOST_TEXT:
            raise self._corrupt(f"becomes more than {_MOST_TEXT:,} bytes of text at once")


class SingleMember(Text):
    """Hands the text to the `deflater` of the output, and returns what that has ready."""

    def __init__(
        self,
        key: str,
        deflater: TakesText,
        form: Form = GZIP,
        records: Records = Records.LINES,
        cut: HeaderCut | None = None,
    ) -> None:
        super().__init__(key, form, records, cut)
        self._deflater = deflater

    @override
    def _add(self, text: bytes) -> None:
        if deflated := self._deflater.deflate(text):
            self._output.append(deflated)
