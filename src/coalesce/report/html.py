"""Renders a report as one self-contained web page: the verdict first, then what to do, then why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from coalesce.exits import ExitCode, meaning_of
from coalesce.report.failure_kinds import FailureKind
from coalesce.report.html_parts import (
    STYLE,
    Cell,
    Long,
    Number,
    bar,
    name,
    paragraph,
    section,
    table,
)
from coalesce.report.merging import MergedReport, RunPart
from coalesce.report.next_step import next_step
from coalesce.report.reasons import reason_of
from coalesce.report.report import Failure, LocationPart, SharePart
from coalesce.report.units import human_bytes, human_rate, human_seconds, human_share

_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)

_MAX_ROWS = 200

# Codes of runs that did nothing wrong, and that the next one follows up.
_STOPPED = frozenset(
    {
        ExitCode.LIMIT,
        ExitCode.LEASED,
        ExitCode.TRANSIENT,
        ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
        ExitCode.NOTHING,
    }
)
_SHARES = ("sources", "size", "joined", "outputs", "size of outputs", "fewer objects")


def render_page(report: MergedReport) -> str:
    """Renders a merged report as an HTML 5 page.

    The page fetches nothing and runs no script; every text from the report is escaped. Long tables
    show the first rows and say how many there are.

    Returns:
        The page, to be stored as UTF-8.
    """
    locations, dates = _by_location(report.locations), _by_date(report.locations)
    topics = {topic.topic: topic for topic in report.topics}
    parts = [
        _render_verdict(report),
        _render_totals(report),
        section("Failures", _list_failures(report)),
        section("Path list, against the longest that Hadoop can take", _show_path_list(report)),
        section("Sources that were kept, and why", _show_kept(report)),
        section("By location", _list_shares("location", locations)),
        section("By date", _list_shares("date", dates, largest_first=False)),
        section("By topic", _list_shares("topic", topics)),
        section("Attributes", _list_attributes(report)),
        section("Runs", _list_runs(report.runs)),
        section("Stages", _list_stages(report)),
        section("Requests", _list_requests(report)),
    ]
    title = f"coalesce: {escape(meaning_of(report.exit_code))}"
    return (
        f"{_HEAD}<title>{title}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _kind_of(code: int) -> str:
    """The CSS class of an exit code."""
    if code == ExitCode.DONE:
        return "good"
    return "stopped" if code in _STOPPED else "bad"


def _render_verdict(report: MergedReport) -> str:
    scope, code = report.scope, report.exit_code
    limit = f" ({report.stopped_by})" if code == ExitCode.LIMIT and report.stopped_by else ""
    verdict = escape(f"{meaning_of(code)}{limit}")
    where = f"s3://{scope.bucket}: {', '.join(prefix or 'all keys' for prefix in scope.prefixes)}"
    when = f"exit code {code} · {report.started}, {human_seconds(report.seconds)}"
    return (
        f'<h1 class="{_kind_of(code)}">{verdict}</h1>'
        f"<p>{name(where)}</p>"
        f'<p class="faint">{name(f"{when} · run {report.run_id} · version {report.version}")}</p>'
        f'<p class="next {_kind_of(code)}"><span><b>Next:</b> {name(next_step(report))}</span></p>'
    )


def _render_totals(report: MergedReport) -> str:
    sources, outputs = report.sources, report.outputs
    totals = {
        "sources joined": f"{sources.joined:,}",
        "outputs written": f"{outputs.written:,}",
        "fewer objects": _factor(sources.joined, outputs.written),
        "sources deleted": f"{sources.deleted:,}",
        "records in the outputs": f"{outputs.records:,}",
        "written": human_bytes(outputs.bytes),
        "written in a second": f"{human_bytes(outputs.bytes / (report.seconds or 1))}/s",
        "sources in a second": human_rate(sources.joined, report.seconds),
        "requests": f"{sum(report.requests.values()):,}",
        "for requests, at list price": f"${report.cost_usd:,.4f}",
    }
    tiles = (f"<div><b>{escape(text)}</b>{what}</div>" for what, text in totals.items())
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _factor(joined: int, outputs: int) -> str:
    if not joined or not outputs:
        return "–"
    factor = joined / outputs
    return f"{factor:,.0f} times" if factor >= 9.95 else f"{factor:.1f} times"


def _list_failures(report: MergedReport) -> str:
    by_kind: dict[FailureKind, list[Failure]] = defaultdict(list)
    for failure in report.failures:
        by_kind[FailureKind.of(failure)].append(failure)
    rows: list[Sequence[Cell]] = [
        (
            kind.name or "failure",
            Number.of(len(failures)),
            Long(f"{failures[0].message.rstrip('.')}."),
            Long(kind.hint),
        )
        for kind, failures in by_kind.items()
    ]
    headings = ("failure", "times", "the first of them", "what to do next")
    shown = table("failures by kind", headings, rows[:_MAX_ROWS])
    notes = {
        "more kinds of failures are in the JSON report": len(rows) - _MAX_ROWS,
        "more are only counted": report.failures_omitted,
    }
    rest = [paragraph(f"{count:,} {what}.") for what, count in notes.items() if count > 0]
    repeated = [_list_repeated(kind, found) for kind, found in by_kind.items() if len(found) > 1]
    return "".join((shown, *rest, *repeated))


def _list_repeated(kind: FailureKind, failures: Sequence[Failure]) -> str:
    """Where one kind of failure happened, to be unfolded."""
    rows: list[Sequence[Cell]] = [
        (failure.key or failure.group or "–", Long(failure.request_id or "–"))
        for failure in failures[:_MAX_ROWS]
    ]
    more = len(failures) - len(rows)
    rest = paragraph(f"{more:,} more are in the JSON report.") if more else ""
    title = f"Where {kind.name} happened"
    shown = table(title, ("key", "request id"), rows)
    return f"<details><summary>{name(title)}</summary>{shown}{rest}</details>"


def _show_path_list(report: MergedReport) -> str:
    paths = report.path_list
    if not paths.before:
        return ""
    lengths = {"before": paths.before, "after": paths.after}
    return "".join(
        bar(
            f"{when}: {length:,} characters, {human_share(length, paths.limit)} of {paths.limit:,}",
            length / paths.limit,
        )
        for when, length in lengths.items()
    )


def _show_kept(report: MergedReport) -> str:
    left, seen = report.sources.left, report.sources.seen
    return "".join(
        bar(
            f"{count:,} {reason_of(why)}, {human_share(count, seen)} of all that were seen",
            count / seen if seen else 1.0,
        )
        for why, count in sorted(left.items(), key=lambda item: -item[1])
        if count
    )


def _by_location(locations: Iterable[LocationPart]) -> dict[str, SharePart]:
    return _sum_by((one.location or "the whole bucket", one) for one in locations)


def _by_date(locations: Iterable[LocationPart]) -> dict[str, SharePart]:
    dated = _sum_by((one.date or "without a date", one) for one in locations)
    return dated if dated.keys() != {"without a date"} else {}


def _sum_by(named: Iterable[tuple[str, SharePart]]) -> dict[str, SharePart]:
    total: dict[str, SharePart] = {}
    for key, share in named:
        whole = total.setdefault(key, SharePart())
        for field in SharePart.model_fields:
            setattr(whole, field, getattr(whole, field) + getattr(share, field))
    return total


def _list_shares(what: str, shares: Mapping[str, SharePart], *, largest_first: bool = True) -> str:
    items = sorted(shares.items(), key=lambda item: (-item[1].sources, item[0]))
    shown = items[:_MAX_ROWS] if largest_first else sorted(items[:_MAX_ROWS])
    rows: list[Sequence[Cell]] = [
        (
            key,
            Number.of(share.sources),
            Number(human_bytes(share.bytes)),
            Number.of(share.joined),
            Number.of(share.outputs),
            Number(human_bytes(share.output_bytes)),
            Number(_factor(share.joined, share.outputs)),
        )
        for key, share in shown
    ]
    rest = f"The {_MAX_ROWS} largest of {len(items):,} {what}s."
    return table(f"sources by {what}", (what, *_SHARES), rows) + (
        paragraph(rest) if len(items) > _MAX_ROWS else ""
    )


def _list_attributes(report: MergedReport) -> str:
    said = report.attributes
    rows = [
        ("sources that say something else than their output", said.differing),
        ("outputs whose store did not keep what they were to say", said.not_kept),
    ]
    cells = [(what, Number.of(count)) for what, count in rows if count]
    return table("attributes", ("what", "number"), cells) + (
        paragraph(said.example) if said.example else ""
    )


def names_of(runs: Sequence[RunPart]) -> list[str]:
    """What tells each run from the others: only what differs, or its prefixes if nothing does."""
    fields = [
        [run.scope.bucket for run in runs],
        [run.scope.layout for run in runs],
        [" ".join(run.scope.prefixes) or "all keys" for run in runs],
        [" ".join(f"partition {number}" for number in run.scope.partitions) for run in runs],
        [f"shard {run.scope.shard}" for run in runs],
    ]
    differing = [texts for texts in fields if len(set(texts)) > 1] or [fields[2]]
    return [" ".join(filter(None, texts)) for texts in zip(*differing, strict=True)]


def _list_runs(runs: Sequence[RunPart]) -> str:
    rows: list[Sequence[Cell]] = [
        (
            named,
            run.started,
            Number(human_seconds(run.seconds)),
            Number.of(run.joined),
            Number.of(run.written),
            Number.of(run.failures),
            f"{run.exit_code} (tried again since)" if run.superseded else str(run.exit_code),
        )
        for named, run in zip(names_of(runs), runs, strict=True)
    ]
    headings = ("run", "started", "time", "joined", "outputs", "failures", "exit code")
    classes = ["old" if run.superseded else _kind_of(run.exit_code) for run in runs]
    codes = sorted({run.exit_code for run in runs})
    meanings = "; ".join(f"{code}: {meaning_of(code)}" for code in codes)
    return table("runs", headings, rows, classes=classes) + paragraph(meanings)


def _list_stages(report: MergedReport) -> str:
    rows: list[Sequence[Cell]] = [
        (
            stage,
            Number.of(part.requests),
            Number(human_seconds(part.seconds)),
            Number(f"{1000 * part.seconds / part.requests:,.1f} ms" if part.requests else "–"),
        )
        for stage, part in report.stages.items()
    ]
    if not rows:
        return ""
    note = (
        "Requests overlap, so their seconds add up to more than the run's. The check is CPU time."
    )
    return table("stages", ("stage", "requests", "time", "for each request"), rows) + paragraph(
        note
    )


def _list_requests(report: MergedReport) -> str:
    rows = sorted(report.requests.items(), key=lambda item: (item[1], item[0]), reverse=True)
    cells = [(operation, Number.of(count)) for operation, count in rows]
    return table("requests", ("operation", "requests"), cells)
