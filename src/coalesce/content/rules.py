"""Which joiner the sources of a layout need."""

from __future__ import annotations

from dataclasses import dataclass

from coalesce.content.deflater import Deflater, TakesText
from coalesce.content.joiner import AsIs, Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import EMPTY_MEMBER, Members
from coalesce.content.text import SingleMember


@dataclass(frozen=True, slots=True)
class ContentRules:
    """What sources are made of, and whether that is checked.

    Attributes:
        gzipped: Gzip members; plain lines otherwise.
        check: Whether the content is checked while it is joined.
        single: Whether an output of gzip members becomes one member; only what is checked does.
    """

    gzipped: bool
    check: bool
    single: bool = False

    def deflater(self) -> Deflater | None:
        """Returns what deflates the text of one output; None where its bytes stay as they are."""
        return Deflater() if self.gzipped and self.check and self.single else None

    def joiner(self, key: str, deflater: TakesText | None = None) -> Joiner:
        """Returns a new joiner for one source; its key is for messages."""
        if not self.check:
            return AsIs()
        if not self.gzipped:
            return Lines(key)
        return Members(key) if deflater is None else SingleMember(key, deflater)

    @property
    def empty_output(self) -> bytes:
        """The bytes of an output whose sources hold no text."""
        return EMPTY_MEMBER if self.gzipped else b""
