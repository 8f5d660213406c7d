"""How the bytes of one source become an output's."""

from __future__ import annotations

from dataclasses import dataclass

from coalesce.content.joiner import AsIs, Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import EMPTY_MEMBER, Members


@dataclass(frozen=True, slots=True)
class ContentRules:
    """How the bytes of sources become an output's: gzip members or plain lines, checked on their
    way or not.
    """

    gzipped: bool
    check: bool

    def joiner(self, key: str) -> Joiner:
        """The joiner of one source."""
        if not self.check:
            return AsIs()
        return Members(key) if self.gzipped else Lines(key)

    @property
    def empty_output(self) -> bytes:
        """What an output holds whose sources hold nothing."""
        return EMPTY_MEMBER if self.gzipped else b""
