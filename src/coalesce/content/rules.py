"""Which joiner the sources of a layout need."""

from __future__ import annotations

from dataclasses import dataclass

from coalesce.content.deflater import Deflater, TakesText
from coalesce.content.joiner import AsIs, Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import EMPTY_MEMBER, Members
from coalesce.content.text import SingleMember
from coalesce.model import Codec


@dataclass(frozen=True, slots=True)
class ContentRules:
    """What sources are made of, and whether that is checked.

    Attributes:
        codec: How content is stored.
        check: Whether the content is checked while it is joined.
        single: Whether an output of gzip members becomes one member; only what is checked does.
    """

    codec: Codec
    check: bool
    single: bool = False

    def deflater(self) -> Deflater | None:
        """Returns what deflates the text of one output; None where its bytes stay as they are."""
        return Deflater() if self.single and self.check and self.codec is Codec.GZIP else None

    def joiner(self, key: str, deflater: TakesText | None = None) -> Joiner:
        """Returns a new joiner for one source; its key is for messages."""
        if not self.check:
            return AsIs()
        if self.codec is Codec.PLAIN:
            return Lines(key)
        return Members(key) if deflater is None else SingleMember(key, deflater)

    @property
    def empty_output(self) -> bytes:
        """The bytes of an output whose sources hold no text."""
        return EMPTY_MEMBER if self.codec is Codec.GZIP else b""
