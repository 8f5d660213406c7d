"""The tables that a person reads on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType
from rich.table import Table

from coalesce.exits import meaning_of
from coalesce.model import Why
from coalesce.report.report import AttributesPart, RecoveredPart, Report, StagePart
from coalesce.settings import format_duration

Row = tuple[str, str]

_PIPED_WIDTH = 160  # columns, so that lines stay whole where there is no terminal

_REASONS = {
    Why.YOUNG: "younger than --min-age{min_age}; run later or use --min-age 0",
    Why.SINGLE: "with nothing to join them with: fewer than --min-files",
    Why.TOO_LARGE: "larger than --max-size by themselves",
    Why.COVERED: "not joined: offsets already inside an existing output (duplicates?)",
    Why.CORRUPT: "corrupt: they failed the content check, see the failures",
    Why.EMPTY: "empty: they have no bytes",
    Why.ARCHIVED: "in an archive tier: restore them first",
    Why.UNPARSED: "other objects: named like neither source nor output of this layout",
    Why.CHANGED: "changed or deleted since they were listed; the next run takes them up",
    Why.DELETE_REFUSED: "joined, but the store refused to delete them; the next run tries again",
    Why.EXCLUDED: "left out by --include or --exclude",
    Why.UNPLANNED: "outside what the saved plan still joins; they wait for the next plan",
    Why.LEASED: "in groups that another run works on; run again when it has ended",
    Why.UNFINISHED: "in groups that an earlier run left unfinished: see the failures,"
    " or run without --no-delete",
    Why.STOPPED: "not reached before the run ended; run again",
    Why.ATTRIBUTES: "unlike their neighbours in content type, metadata or tags"
    " (--strict-attributes)",
    Why.FAILED: "in outputs that failed, see the failures; run again",
}


class _Stdout(Console):
    """Stdout, whose closed pipe is an error like any other: a job has more to do than to print."""

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError, where rich would end the process with code 1."""
        raise


def print_table(table: RenderableType) -> None:
    """Prints a table on stdout, as wide as the terminal is. Raises OSError."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    _Stdout(file=sys.stdout, highlight=False, soft_wrap=True, width=width).print(table)


def summary_table(report: Report, min_age: float | None = None) -> Table:
    """What came of a run; `min_age` is its --min-age in seconds, if that is known."""
    sources, outputs, groups = report.sources, report.outputs, report.groups
    found = {
        "joined": groups.coalesced,
        "left as they are": groups.left,
        "leased by another run": groups.leased,
        "failed": groups.failed,
    }
    rows: list[Row] = [
        ("groups", f"{groups.seen:,} found{_list_counts(found)}"),
        (
            "sources",
            f"{sources.seen:,} found, {sources.joined:,} joined, {sources.deleted:,} deleted",
        ),
        *kept_rows("kept", sources.left, min_age),
        (
            "outputs",
            f"{outputs.written:,} written, {outputs.recovered:,} recovered;"
            f" {outputs.bytes:,} bytes, {outputs.records:,} records"
            + (f"; {outputs.oversized:,} larger than --max-size" if outputs.oversized else ""),
        ),
        *_recovered_rows(report.recovered),
        ("offsets", f"{report.offsets.gaps:,} gaps, {report.offsets.overlaps:,} overlaps"),
        *_attribute_rows(report.attributes),
        *([("path list", _path_list(report))] if report.path_list.before else []),
        (
            "requests",
            f"{sum(report.requests.values()):,} (${report.cost_usd:.4f} at list price);"
            f" {report.retries:,} {'retry' if report.retries == 1 else 'retries'},"
            f" {report.throttled:,} throttled",
        ),
        *_stage_rows(report.stages),
        (
            "time",
            f"{report.seconds:.1f} s, {report.cpu_seconds:.1f} s of CPU"
            + (f" in {report.processes} worker processes" if report.processes > 1 else "")
            + f", peak memory {report.peak_rss_bytes // 2**20:,} MiB",
        ),
        ("store", _store(report)),
        _exit_code(report),
    ]
    return pairs(rows)


def plan_table(report: Report, min_age: float | None = None) -> Table:
    """What a run would do, topic by topic; `min_age` is its --min-age in seconds."""
    assert report.plan is not None
    plan = report.plan
    table = Table(box=None, pad_edge=False)
    table.add_column("topic", overflow="fold")
    for heading in ("sources", "bytes", "would be joined", "into outputs", "of bytes"):
        table.add_column(heading, justify="right")
    for topic in plan.topics:
        numbers = (topic.sources, topic.bytes, topic.joined, topic.outputs, topic.output_bytes)
        table.add_row(topic.topic, *(f"{number:,}" for number in numbers))
    rows: list[Row] = [
        *kept_rows("would be kept", report.sources.left, min_age),
        ("path list", _path_list(report)),
        (
            "requests",
            f"{sum(plan.requests.values()):,} (${plan.cost_usd:.4f} at list price)",
        ),
        (
            "forecast",
            f"about {plan.seconds:.0f} s with one process,"
            f" {plan.memory_bytes // 2**20:,} MiB of memory, {plan.bytes:,} bytes read and written",
        ),
        _exit_code(report),
    ]
    both = Table.grid()
    both.add_row(table)
    both.add_row("")
    both.add_row(pairs(rows))
    return both


def kept_rows(title: str, left: Mapping[str, int], min_age: float | None) -> list[Row]:
    """One row for each reason why sources were kept; `min_age` in seconds, if that is known."""
    age = "" if min_age is None else f" {format_duration(min_age)}"
    reasons = [
        f"{count:,} {_REASONS[Why(why)].format(min_age=age) if why in list(Why) else why}"
        for why, count in left.items()
        if count
    ]
    return list(zip([title, *[""] * len(reasons)], reasons or ["none"], strict=False))


def share_of_limit(characters: int, limit: int) -> str:
    """How much of the longest path list this is."""
    share = characters / limit
    part = f"{share:.1%}" if share >= 0.001 or not characters else "less than 0.1%"
    return f"{part} of the longest that Hadoop can take"


def count_of(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pairs(rows: Iterable[Row]) -> Table:
    """Names and what there is to say of each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _list_counts(counts: Mapping[str, int]) -> str:
    return "".join(f", {count:,} {name}" for name, count in counts.items() if count)


def _recovered_rows(recovered: RecoveredPart) -> list[Row]:
    """What was done for earlier runs; nothing if there was nothing to do."""
    if not (recovered.groups or recovered.outputs or recovered.unsettled_groups):
        return []
    parts = [
        (recovered.groups, "group", "of earlier runs settled"),
        (recovered.sources_deleted, "source", "deleted for them"),
        (recovered.unsettled_groups, "group", "not settled"),
    ]
    said = [f"{count_of(number, noun)} {what}" for number, noun, what in parts if number]
    return [("recovered", ", ".join(said or [f"{count_of(recovered.outputs, 'output')} proven"]))]


def _attribute_rows(said: AttributesPart) -> list[Row]:
    """What sources say of themselves and their outputs do not; nothing if all is the same."""
    parts = []
    if said.differing:
        parts.append(f"{count_of(said.differing, 'source')} unlike their output")
    if said.not_kept:
        parts.append(f"{count_of(said.not_kept, 'output')} changed by the store")
    if said.example:
        parts.append(f"{'such as' if parts else 'not joined, such as'} {said.example}")
    return [("attributes", "; ".join(parts))] if parts else []


def _stage_rows(stages: Mapping[str, StagePart]) -> list[Row]:
    """Where the time went, stage by stage; the seconds of the check are of CPU."""
    return [
        (
            f"  {name}",
            f"{count_of(stage.requests, 'request')},"
            f" {stage.seconds / stage.requests * 1000:,.0f} ms each"
            if stage.requests
            else f"{stage.seconds:.1f} s of CPU",
        )
        for name, stage in stages.items()
        if stage.requests or stage.seconds
    ]


def _store(report: Report) -> str:
    """Its mode, and by which checksum its outputs are proven; merged reports of several stores have
    modes only.
    """
    checksum = report.store.capabilities.get("checksum")
    mode = {"": "not tried", "full": "keeps every guarantee that a run needs"}.get(
        report.store.mode, f"weaker mode {report.store.mode}"
    )
    return f"{mode}, checksum {checksum}" if checksum else mode


def _path_list(report: Report) -> str:
    paths = report.path_list
    return (
        f"{paths.before:,} characters before, {paths.after:,} after:"
        f" {share_of_limit(paths.after, paths.limit)}"
    )


def _exit_code(report: Report) -> Row:
    return "exit code", f"{report.exit_code}: {meaning_of(report.exit_code)}"
