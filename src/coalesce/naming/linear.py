"""Users' regular expressions, which must not take more than linear time on any key."""

from __future__ import annotations

import re
from typing import Protocol


class Pattern(Protocol):
    """A compiled regular expression."""

    def fullmatch(self, text: str, /) -> re.Match[str] | None:
        """Matches the whole of a text."""
        ...


def compile_linear(pattern: str) -> Pattern:
    """Compiles a user's regular expression, with RE2.

    Raises ValueError for one that is none, or that only an engine that backtracks could match.
    """
    import re2

    quiet = re2.Options()
    quiet.log_errors = False
    try:
        compiled: Pattern = re2.compile(pattern, quiet)
    except re2.error as error:
        raise ValueError(_text(error)) from error
    return compiled


def _text(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
