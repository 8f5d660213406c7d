"""Which joiner the sources of a layout need."""

from __future__ import annotations

from dataclasses import dataclass

from coalesce.content.joiner import AsIs, Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import EMPTY_MEMBER, Members


@dataclass(frozen=True, slots=True)
class ContentRules:
    """What sources are made of, and whether that is checked.

    Attributes:
        gzipped: Gzip members; plain lines otherwise.
        check: Whether the content is checked while it is joined.
    """

    gzipped: bool
    check: bool

    def joiner(self, key: str) -> Joiner:
        """Returns a new joiner for one source; its key is for messages."""
        if not self.check:
            return AsIs()
        return Members(key) if self.gzipped else Lines(key)

    @property
    def empty_output(self) -> bytes:
        """The bytes of an output whose sources hold no text."""
        return EMPTY_MEMBER if self.gzipped else b""
