"""Renders a report as one self-contained web page: tables and bars, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from coalesce.exits import meaning_of
from coalesce.report.merging import MergedReport
from coalesce.report.reasons import reason_of

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2330; --faint: #667085; --line: #d9dee7; --ground: #fff;
  --before: #b9c3d6; --after: #2f6fde; --bad: #c4320a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ef; --faint: #98a2b3; --line: #333b4a; --ground: #12161f;
    --before: #4a556b; --after: #6ea2ff; --bad: #ff8a65;
  }
}
body {
  font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
}
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.under { color: var(--faint); margin-top: .2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td {
  text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere;
}
th { color: var(--faint); font-weight: 500; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; }
.old { color: var(--faint); }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.2rem 0; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .v { fill: var(--faint); }
.before { fill: var(--before); }
.after { fill: var(--after); }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
"""

_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)

_MAX_ROWS = 200

# A chart, in units of its own: names, then bars, then their numbers.
_CHART_WIDTH = 940
_BARS_LEFT = 300
_LONGEST_BAR = 480
_NAME_CHARACTERS = 44


def render_page(report: MergedReport) -> str:
    """Renders a merged report as an HTML 5 page.

    The page fetches nothing and runs no script; every text from the report is escaped. Long tables
    show the first rows and say how many there are.

    Returns:
        The page, to be stored as UTF-8.
    """
    verdict = f"coalesce: {escape(meaning_of(report.exit_code))}"
    parts = [
        f"<h1>{verdict}</h1>",
        f'<p class="under">{_render_exit_code(report.exit_code)} · {escape(report.started)}, '
        f"{report.seconds:,.1f} s · {escape(report.scope.bucket)}"
        f" · version {escape(report.version)}</p>",
        _render_totals(report),
        _render_section(
            "Path list, against the longest that Hadoop can take", _chart_path_list(report)
        ),
        _render_section("Failures", _list_failures(report)),
        _render_section("Objects by topic", _chart_objects(report)),
        _render_section("Bytes by topic", _list_topics(report)),
        _render_section("Small objects left in place, and why", _chart_left(report)),
        _render_section("Attributes", _list_attributes(report)),
        _render_section("Runs", _chart_seconds(report) + _list_runs(report)),
        _render_section("Stages", _list_stages(report)),
        _render_section("Requests", _list_requests(report)),
    ]
    return (
        f"{_HEAD}<title>{verdict}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _render_section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _render_exit_code(code: int) -> str:
    return f'<span class="{"bad" if code else "good"}">exit code {code}</span>'


def _render_totals(report: MergedReport) -> str:
    totals = {
        "small objects joined": report.sources.joined,
        "outputs written": report.outputs.written,
        "small objects deleted": report.sources.deleted,
        "records in the outputs": report.outputs.records,
        "requests": sum(report.requests.values()),
    }
    tiles = [f"<div><b>{value:,}</b>{escape(name)}</div>" for name, value in totals.items()]
    tiles.append(f"<div><b>${report.cost_usd:,.4f}</b>for requests, at list price</div>")
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _render_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, classes: Sequence[str] = ()
) -> str:
    """A table with one CSS class for each row, if given; numbers are aligned right."""
    body = []
    numeric: set[int] = set()
    for at, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            if isinstance(cell, int | float):
                numeric.add(column)
                cells.append(f'<td class="n">{cell:,}</td>')
            else:
                cells.append(f"<td>{escape(str(cell))}</td>")
        kind = f' class="{classes[at]}"' if classes else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    if not body:
        return ""
    head = "".join(
        f'<th class="n">{escape(name)}</th>' if column in numeric else f"<th>{escape(name)}</th>"
        for column, name in enumerate(headings)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _render_bars(rows: Sequence[tuple[str, float, float | None]], unit: str, label: str) -> str:
    """A chart of (name, before, after): two bars for each name, or one where no `after` is given.

    `label` is what a screen reader says of it.
    """
    if not rows:
        return ""
    longest = max(max(before, after or 0) for _, before, after in rows) or 1
    pairs = any(after is not None for _, _, after in rows)
    step = 44 if pairs else 26
    drawn = []
    for at, (name, before, after) in enumerate(rows):
        y = at * step
        drawn.append(f'<text x="0" y="{y + 14}">{escape(_shorten(name))}</text>')
        drawn.append(_draw_bar("before" if pairs else "after", y + 3, before, longest, unit))
        if after is not None:
            drawn.append(_draw_bar("after", y + 20, after, longest, unit))
    key = (
        '<p class="key"><span style="background:var(--before)"></span>before'
        '<span style="background:var(--after)"></span>after</p>'
    )
    return (
        f'{key if pairs else ""}<svg viewBox="0 0 {_CHART_WIDTH} {len(rows) * step}" role="img" '
        f'aria-label="{escape(label)}">{"".join(drawn)}</svg>'
    )


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"


def _draw_bar(kind: str, y: int, value: float, longest: float, unit: str) -> str:
    """A bar and its number; whatever is not zero shows."""
    width = max(1.0, _LONGEST_BAR * value / longest) if value else 0
    return (
        f'<rect class="{kind}" x="{_BARS_LEFT}" y="{y}" width="{width:.1f}" height="14" rx="2"/>'
        f'<text class="v" x="{_BARS_LEFT + 6 + width:.1f}" y="{y + 11}">'
        f"{value:,.0f} {escape(unit)}</text>"
    )


def _chart_path_list(report: MergedReport) -> str:
    paths = report.path_list
    rows = [("all paths, joined by commas", float(paths.before), float(paths.after))]
    share = (
        f"{paths.before / paths.limit:.2%} of the longest that Hadoop can take "
        f"({paths.limit:,} characters) before, {paths.after / paths.limit:.2%} after."
    )
    return _render_bars(rows, "characters", "path list before and after") + f"<p>{share}</p>"


def _chart_objects(report: MergedReport) -> str:
    topics = sorted(report.topics, key=lambda topic: -topic.sources)
    rows = [
        (topic.topic, float(topic.sources), float(topic.sources - topic.joined + topic.outputs))
        for topic in topics[:_MAX_ROWS]
    ]
    rest = f"<p>The {_MAX_ROWS} largest of {len(topics):,} topics.</p>"
    return _render_bars(rows, "objects", "objects by topic before and after") + (
        rest if len(topics) > _MAX_ROWS else ""
    )


def _list_topics(report: MergedReport) -> str:
    topics = sorted(report.topics, key=lambda topic: -topic.bytes)
    return _render_table(
        ("topic", "small objects", "bytes", "joined", "outputs", "bytes of outputs"),
        [
            (
                topic.topic,
                topic.sources,
                topic.bytes,
                topic.joined,
                topic.outputs,
                topic.output_bytes,
            )
            for topic in topics[:_MAX_ROWS]
        ],
    )


def _chart_left(report: MergedReport) -> str:
    rows = [
        (reason_of(why), float(count), None) for why, count in report.sources.left.items() if count
    ]
    return _render_bars(rows, "", "small objects left in place, by reason")


def _list_attributes(report: MergedReport) -> str:
    said = report.attributes
    rows = [
        ("small objects that say something else than their output", said.differing),
        ("outputs whose store did not keep what they were to say", said.not_kept),
    ]
    table = _render_table(("what", "number"), [row for row in rows if row[1]])
    return table + (f"<p>{escape(said.example)}</p>" if said.example else "")


def _chart_seconds(report: MergedReport) -> str:
    rows = [
        (f"{run.scope.layout} {' '.join(run.scope.prefixes)} {run.scope.shard}", run.seconds, None)
        for run in report.runs
    ]
    return _render_bars(rows, "s", "seconds of each run")


def _list_runs(report: MergedReport) -> str:
    rows = [
        (
            f"{run.scope.bucket}: {' '.join(run.scope.prefixes)}",
            run.scope.layout,
            run.scope.shard,
            run.started,
            run.seconds,
            run.joined,
            run.written,
            run.failures,
            f"{run.exit_code} (tried again since)" if run.superseded else str(run.exit_code),
        )
        for run in report.runs
    ]
    headings = (
        "bucket and prefixes",
        "layout",
        "shard",
        "started",
        "seconds",
        "joined",
        "outputs",
        "failures",
        "exit code",
    )
    classes = ["old" if run.superseded else "bad" if run.exit_code else "" for run in report.runs]
    return _render_table(headings, rows, classes=classes)


def _list_failures(report: MergedReport) -> str:
    rows = [
        (
            failure.code,
            failure.group,
            failure.key,
            f"{failure.message.rstrip('.')}. {failure.hint}",
            failure.request_id,
        )
        for failure in report.failures[:_MAX_ROWS]
    ]
    notes = {
        "more are in the JSON report": len(report.failures) - len(rows),
        "more are only counted": report.failures_omitted,
    }
    rest = [f"<p>{count:,} {what}.</p>" for what, count in notes.items() if count]
    table = _render_table(("code", "group", "key", "what happened", "request id"), rows)
    return f"{table}{''.join(rest)}"


def _list_stages(report: MergedReport) -> str:
    rows = [
        (
            name,
            stage.requests,
            round(stage.seconds, 1),
            round(1000 * stage.seconds / stage.requests, 1) if stage.requests else "",
        )
        for name, stage in report.stages.items()
    ]
    if not rows:
        return ""
    note = (
        "Requests overlap, so their seconds add up to more than the run's. The check is CPU time."
    )
    return (
        _render_table(("stage", "requests", "seconds", "ms per request"), rows) + f"<p>{note}</p>"
    )


def _list_requests(report: MergedReport) -> str:
    rows = sorted(report.requests.items(), key=lambda item: (item[1], item[0]), reverse=True)
    return _render_table(("operation", "requests"), rows)
