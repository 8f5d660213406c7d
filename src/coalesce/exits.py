"""Every exit code: its number, how severe it is, and what it means.

The table in the README has the same words, and the one in `docs/exit-codes.md` the same codes; a
test holds them together.
"""

from __future__ import annotations

import enum

from coalesce.errors import (
    CoalesceError,
    ConfigurationError,
    ContentError,
    GroupOwned,
    IntegrityError,
    LeaseLost,
    RecordDamaged,
    Unavailable,
    UsageError,
)

_SIGNALS = 128


class ExitCode(enum.IntEnum):
    """An exit code of the command. A signal's is 128 + its number."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING = 3
    INTEGRITY = 4
    CONFIGURATION = 10
    LEASED = 11
    LIMIT = 12
    TRANSIENT = 75
    INTERRUPTED = 130
    TERMINATED = 143

    @property
    def meaning(self) -> str:
        """What the code says, in a phrase."""
        return _MEANINGS[self]


_INTERRUPTED = "interrupted; everything unfinished can be recovered"
_MEANINGS = {
    ExitCode.DONE: "done, or nothing to do",
    ExitCode.FAILED: "some groups failed; their sources were kept",
    ExitCode.USAGE: "the command line, environment or configuration file is wrong",
    ExitCode.NOTHING: "nothing to do; only with --error-on-nothing",
    ExitCode.INTEGRITY: "a content or integrity check failed; the sources were kept",
    ExitCode.CONFIGURATION: (
        "wrong configuration or credentials, bucket not reachable, or store refused"
    ),
    ExitCode.LEASED: "other runs hold the lease of every group in scope",
    ExitCode.LIMIT: "stopped at a limit that you set",
    ExitCode.TRANSIENT: (
        "the store or the network was in trouble, "
        "or what an earlier run left could not be settled yet"
    ),
    ExitCode.INTERRUPTED: _INTERRUPTED,
    ExitCode.TERMINATED: _INTERRUPTED,
}


# The most severe first. An interruption tells less than a set-up or content that needs a person,
# and more than what the next run mends.
SEVERITY = (
    ExitCode.CONFIGURATION,
    ExitCode.INTEGRITY,
    ExitCode.TERMINATED,
    ExitCode.INTERRUPTED,
    ExitCode.FAILED,
    ExitCode.TRANSIENT,
    ExitCode.LIMIT,
    ExitCode.LEASED,
    ExitCode.DONE,
    ExitCode.NOTHING,
)


def exit_code_of(error: CoalesceError) -> ExitCode:
    """The exit code that one failure asks for."""
    match error:
        case UsageError():
            return ExitCode.USAGE
        case ConfigurationError():
            return ExitCode.CONFIGURATION
        case ContentError() | IntegrityError() | RecordDamaged():
            return ExitCode.INTEGRITY
        case GroupOwned():
            return ExitCode.LEASED
        case Unavailable() | LeaseLost():
            return ExitCode.TRANSIENT
    return ExitCode.FAILED


def worst(*codes: int) -> int:
    """The most severe of the codes; an unknown one is a failure that wins over all."""
    return min(codes, key=lambda code: SEVERITY.index(code) if code in SEVERITY else -1)


def is_signal(code: int) -> bool:
    """Whether an exit code says that a signal ended the process."""
    return code > _SIGNALS


def code_of_signal(number: int) -> int:
    """The exit code of a process that this signal interrupts."""
    return _SIGNALS + number


def meaning_of(code: int) -> str:
    """What an exit code says; an unknown one is a failure."""
    return _MEANINGS[ExitCode(code)] if code in list(ExitCode) else "failed"
