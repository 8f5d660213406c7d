"""Joins many small S3 objects of each topic-partition into few large ones, without losing or
repeating a record.

    report = coalesce.run(coalesce.Settings(bucket="lake", prefix=["storage/events"]))

See `docs/library.md`. What stands here is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalesce.errors import CoalesceError, ConfigurationError
    from coalesce.inspect.status import Status
    from coalesce.inspect.verification import Verification
    from coalesce.library.calls import (
        Refused,
        StopSign,
        aplan,
        arecover,
        arun,
        astatus,
        averify,
        plan,
        recover,
        run,
        status,
        verify,
    )
    from coalesce.library.events import (
        Event,
        Notice,
        OutputPlanned,
        OutputUndone,
        OutputVerified,
        OutputWritten,
        SourceLeft,
    )
    from coalesce.library.settings import S3, Settings
    from coalesce.report.merging import MergedReport, merge
    from coalesce.report.report import Failure, Report

    __version__: str

_HOMES = {
    "errors": ("CoalesceError", "ConfigurationError"),
    "inspect.status": ("Status",),
    "inspect.verification": ("Verification",),
    "library.calls": (
        "Refused",
        "StopSign",
        "aplan",
        "arecover",
        "arun",
        "astatus",
        "averify",
        "plan",
        "recover",
        "run",
        "status",
        "verify",
    ),
    "library.events": (
        "Event",
        "Notice",
        "OutputPlanned",
        "OutputUndone",
        "OutputVerified",
        "OutputWritten",
        "SourceLeft",
    ),
    "library.settings": ("S3", "Settings"),
    "report.merging": ("MergedReport", "merge"),
    "report.report": ("Failure", "Report"),
}

__all__ = [
    "S3",
    "CoalesceError",
    "ConfigurationError",
    "Event",
    "Failure",
    "MergedReport",
    "Notice",
    "OutputPlanned",
    "OutputUndone",
    "OutputVerified",
    "OutputWritten",
    "Refused",
    "Report",
    "Settings",
    "SourceLeft",
    "Status",
    "StopSign",
    "Verification",
    "aplan",
    "arecover",
    "arun",
    "astatus",
    "averify",
    "merge",
    "plan",
    "recover",
    "run",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Looks a name up when it is asked for: what stands behind one takes longer to load than all
    the rest of `--help`, the version too.
    """
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("coalesce-s3")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"coalesce.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
