"""The tables that a person reads on stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping

from coalesce.cli.columns import Block, Columns, Pairs, Row, Stack
from coalesce.exits import ExitCode, meaning_of
from coalesce.model import Why
from coalesce.report.next_step import next_step
from coalesce.report.report import (
    AttributesPart,
    OffsetsPart,
    OutputsPart,
    RecoveredPart,
    Report,
    ScopePart,
    StagePart,
)
from coalesce.report.units import human_bytes, human_rate, human_seconds, human_share
from coalesce.settings import format_duration

# As many prefixes are named; --date may make hundreds.
_MOST_PREFIXES = 5

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
    Why.HEADER: "unlike their neighbours in their first line, the header",
    Why.FAILED: "in outputs that failed, see the failures; run again",
}


def print_table(table: Block) -> None:
    """Prints a table on stdout, as wide as the terminal is; in a pipe no line is folded.

    Characters that stdout does not know become question marks. Raises OSError.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    text = "".join(f"{line.rstrip()}\n" for line in table.lines(width))
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def summary_table(report: Report, min_age: float | None = None) -> Block:
    """What came of a run; `min_age` is its --min-age in seconds, if that is known."""
    sources, outputs, groups = report.sources, report.outputs, report.groups
    found = {
        "joined": groups.coalesced,
        "left as they are": groups.left,
        "leased by another run": groups.leased,
        "failed": groups.failed,
    }
    rows: list[Row] = [
        *scope_rows(report.scope),
        ("run", report.run_id),
        ("groups", f"{groups.seen:,} found{_list_counts(found)}"),
        (
            "sources",
            f"{sources.seen:,} found"
            + (f" ({sources.outputs:,} of them earlier outputs)" if sources.outputs else "")
            + f", {sources.joined:,} joined, {sources.deleted:,} deleted",
        ),
        *kept_rows("kept", sources.left, min_age),
        (
            "outputs",
            f"{outputs.written:,} written, {outputs.recovered:,} recovered;"
            f" {human_bytes(outputs.bytes)}, {_records(outputs)}"
            + (f"; {outputs.oversized:,} larger than --max-size" if outputs.oversized else ""),
        ),
        *_recovered_rows(report.recovered),
        ("offsets", _offsets(report.offsets)),
        *_attribute_rows(report.attributes),
        *([("path list", _path_list(report))] if report.path_list.before else []),
        (
            "requests",
            f"{sum(report.requests.values()):,} (${report.cost_usd:.4f} at list price);"
            f" {report.retries:,} {'retry' if report.retries == 1 else 'retries'},"
            f" {report.throttled:,} throttled",
        ),
        *_stage_rows(report.stages),
        ("store", _store(report)),
        (
            "time",
            f"{human_seconds(report.seconds)}, {human_seconds(report.cpu_seconds)} of CPU"
            + (f" in {report.processes} worker processes" if report.processes > 1 else "")
            + f", peak memory {report.peak_rss_bytes // 2**20:,} MiB",
        ),
        *_rate_rows(report),
        *_end_rows(report),
    ]
    return Pairs(rows)


def plan_table(report: Report, min_age: float | None = None) -> Block:
    """What a run would do, topic by topic; `min_age` is its --min-age in seconds."""
    assert report.plan is not None
    plan = report.plan
    headings = ("topic", "sources", "size", "to join", "outputs", "size")
    topics = [
        (
            topic.topic,
            f"{topic.sources:,}",
            human_bytes(topic.bytes),
            f"{topic.joined:,}",
            f"{topic.outputs:,}",
            human_bytes(topic.output_bytes),
        )
        for topic in plan.topics
    ]
    joined, outputs = (
        sum(topic.joined for topic in plan.topics),
        sum(topic.outputs for topic in plan.topics),
    )
    rows: list[Row] = [
        *kept_rows("would be kept", report.sources.left, min_age),
        ("path list", _path_list(report)),
        *([("outputs", f"of at most {human_bytes(plan.max_size)}")] if plan.max_size else []),
        (
            "requests",
            f"{sum(plan.requests.values()):,} (${plan.cost_usd:.4f} at list price);"
            " more where the store deletes one by one",
        ),
        (
            "forecast",
            f"about {human_seconds(plan.seconds)} with one process,"
            f" up to {plan.memory_bytes // 2**20:,} MiB of memory,"
            f" {human_bytes(plan.bytes)} read and written",
        ),
        *_reduction_rows(joined, outputs, "would become"),
        *_end_rows(report),
    ]
    scope = Pairs([*scope_rows(report.scope), ("plan", f"{report.run_id}; nothing was written")])
    return Stack([scope, Columns(headings, topics), Pairs(rows)])


def undo_table(report: Report) -> Block:
    """What an undo has given back, or would give back."""
    undone, plan = report.undone, report.plan
    if plan is None:
        found = (undone.outputs, undone.sources, undone.bytes)
        what = "given back and deleted"
    else:
        topics = plan.topics
        found = (
            sum(topic.outputs for topic in topics),
            sum(topic.sources for topic in topics),
            sum(topic.output_bytes for topic in topics),
        )
        what = "would be given back; nothing was written"
    outputs, sources, size = found
    text = f"{count_of(outputs, 'output')} of {count_of(sources, 'source')}, {human_bytes(size)}"
    requests, dollars = report.requests, report.cost_usd
    if plan is not None:
        requests, dollars = plan.requests, plan.cost_usd
    rows: list[Row] = [
        *scope_rows(report.scope),
        ("run", report.run_id),
        ("undo", f"{text} {what}"),
        *_recovered_rows(report.recovered),
        ("requests", f"{sum(requests.values()):,} (${dollars:.4f} at list price)"),
        *([] if plan else [("store", _store(report))]),
        *_end_rows(report),
    ]
    if plan is not None and outputs and report.exit_code == ExitCode.DONE:
        rows[-1] = ("next", "`coalesce undo` with the same options does it")
    return Pairs(rows)


def scope_rows(scope: ScopePart) -> list[Row]:
    """Where a command was at work."""
    shown = scope.prefixes[:_MOST_PREFIXES]
    more = len(scope.prefixes) - len(shown)
    names = " ".join(prefix or "(all keys)" for prefix in shown)
    rows = [
        ("bucket", scope.bucket),
        ("prefixes" if len(scope.prefixes) > 1 else "prefix", names),
    ]
    if more:
        rows[-1] = ("prefixes", f"{names} and {more:,} more")
    if scope.shard != "0/1":
        rows.append(("shard", scope.shard))
    return rows


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
    return f"{human_share(characters, limit)} of the longest that Hadoop can take"


def count_of(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pairs(rows: Iterable[Row]) -> Block:
    """Names and what there is to say of each."""
    return Pairs(list(rows))


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


def _offsets(offsets: OffsetsPart) -> str:
    if not offsets.unknown:
        return f"{offsets.gaps:,} gaps, {offsets.overlaps:,} overlaps"
    groups = count_of(offsets.unknown, "group")
    return f"unknown in {groups}, whose names do not say where a source ends"


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


def _records(outputs: OutputsPart) -> str:
    """Without the check nobody counts them."""
    if outputs.written and not outputs.records:
        return "records not counted"
    return f"{outputs.records:,} records"


def _path_list(report: Report) -> str:
    paths = report.path_list
    return (
        f"{paths.before:,} characters before, {paths.after:,} after:"
        f" {share_of_limit(paths.after, paths.limit)}"
    )


def _rate_rows(report: Report) -> list[Row]:
    """How fast a run was, and how many fewer objects there are; nothing if it joined nothing."""
    joined, outputs, seconds = report.sources.joined, report.outputs, report.seconds
    if not joined or not seconds:
        return []
    per_second = human_rate(joined, seconds), human_bytes(outputs.bytes / seconds)
    return [
        ("rate", "{} sources/s, {}/s written".format(*per_second)),
        *_reduction_rows(joined, outputs.written, "became"),
    ]


def _reduction_rows(joined: int, outputs: int, became: str) -> list[Row]:
    if not joined or not outputs:
        return []
    factor = joined / outputs
    times = f"{factor:,.0f}" if factor >= 9.95 else f"{factor:.1f}"
    text = f"{joined:,} sources {became} {count_of(outputs, 'output')}: {times} times fewer objects"
    return [("reduction", text)]


def _end_rows(report: Report) -> list[Row]:
    """How it ended, and what to do next."""
    stopped = report.exit_code == ExitCode.LIMIT and report.stopped_by
    limit = f", {report.stopped_by}" if stopped else ""
    return [
        ("exit code", f"{report.exit_code}: {meaning_of(report.exit_code)}{limit}"),
        ("next", next_step(report)),
    ]
