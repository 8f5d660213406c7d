"""What to do after a run, in one sentence: the end of every summary."""

from __future__ import annotations

from coalesce.exits import ExitCode
from coalesce.model import Why
from coalesce.report.report import Report

_AFTER = {
    ExitCode.FAILED: "mend what the failures name, then run again; their sources were kept",
    ExitCode.INTEGRITY: "look at what the failures name; their sources were kept, and"
    " docs/exit-codes.md says what each failure means",
    ExitCode.CONFIGURATION: "change what the failures name, then run again",
    ExitCode.LEASED: "run again when the other run has ended",
    ExitCode.TRANSIENT: "run again: it takes up what is left",
    ExitCode.INTERRUPTED: "run again: it finishes what is left",
    ExitCode.TERMINATED: "run again: it finishes what is left",
    ExitCode.NOTHING: "if there should be something, check the prefix, the date and --layout",
}


def next_step(report: Report) -> str:
    """What the report asks of whoever reads it."""
    code, left = report.exit_code, report.sources.left
    if code == ExitCode.LIMIT:
        limit = f" with a higher {report.stopped_by}" if report.stopped_by else ""
        return f"run again, or{limit or ' with a higher limit'}: it takes up what is left"
    if code != ExitCode.DONE:
        return _AFTER.get(ExitCode(code), "") if code in list(ExitCode) else "see the failures"
    if report.plan is not None:
        planned = any(topic.outputs for topic in report.plan.topics)
        return "`coalesce run` with the same options does it" if planned else "nothing"
    if report.sources.joined and not report.sources.deleted:
        return f"run without --no-delete: it deletes the {report.sources.joined:,} joined sources"
    if young := left.get(Why.YOUNG, 0):
        return f"nothing now; the next run takes the {young:,} sources that are too young"
    return "nothing"
