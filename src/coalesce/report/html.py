"""A report as one web page that needs nothing else: tables and bars, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from coalesce.report.merging import Merged

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --faint: #667085; --line: #d9dee7; --ground: #fff; --before: #b9c3d6; --after: #2f6fde; --bad: #c4320a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --faint: #98a2b3; --line: #333b4a; --ground: #12161f; --before: #4a556b; --after: #6ea2ff; --bad: #ff8a65; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; } p.under { color: var(--faint); margin-top: .2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; } caption { text-align: left; color: var(--faint); }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--faint); font-weight: 500; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; } .old { color: var(--faint); }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.2rem 0; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; } svg .v { fill: var(--faint); }
.before { fill: var(--before); } .after { fill: var(--after); } .key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
"""

_MEANING = {
    0: "done",
    1: "some groups failed, their sources were kept",
    3: "nothing to do",
    4: "content or integrity checks failed, sources were kept",
    10: "configuration, credentials, or a store that was refused",
    11: "everything was leased by other runs",
    12: "stopped by a limit",
    75: "transient trouble, or reports that are missing: run again",
    130: "interrupted",
    143: "interrupted",
}

_MOST = 200


def page(report: Merged) -> str:
    """The page, HTML 5."""
    verdict = _MEANING.get(report.exit_code, "failed")
    parts = [
        f"<h1>coalesce: {escape(verdict)}</h1>",
        f'<p class="under">{_bad(report.exit_code)} · {escape(report.started)}, {report.seconds:,.1f} s · {escape(report.scope.bucket)}'
        f" · version {escape(report.version)}</p>",
        _tiles(report),
        _section("Path list against the limit of a Java string", _path_list(report)),
        _section("Failures", _failures(report)),
        _section("Objects by topic", _objects(report)),
        _section("Bytes by topic", _bytes(report)),
        _section("What was left, and why", _left(report)),
        _section("Runs", _time(report) + _runs(report)),
        _section("Stages", _stages(report)),
        _section("Requests", _requests(report)),
    ]
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return f"{head}<title>coalesce: {escape(verdict)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _bad(code: int) -> str:
    return f'<span class="{"bad" if code else "good"}">exit code {code}</span>'


def _tiles(report: Merged) -> str:
    tiles = {
        "small objects joined": report.sources.joined,
        "outputs written": report.outputs.written,
        "small objects deleted": report.sources.deleted,
        "records in the outputs": report.outputs.records,
        "requests": sum(report.requests.values()),
    }
    shown = "".join(f"<div><b>{value:,}</b>{escape(name)}</div>" for name, value in tiles.items())
    return f'<div class="tiles">{shown}<div><b>${report.cost_usd:,.4f}</b>at list price</div></div>'


def _table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, classes: Sequence[str] = ()
) -> str:
    """Cells that are numbers are set right."""
    body = []
    numbers: set[int] = set()
    for at, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            if isinstance(cell, int | float):
                numbers.add(column)
                cells.append(f'<td class="n">{cell:,}</td>')
            else:
                cells.append(f"<td>{escape(str(cell))}</td>")
        body.append(
            f'<tr class="{classes[at]}">{"".join(cells)}</tr>'
            if classes
            else f"<tr>{''.join(cells)}</tr>"
        )
    if not body:
        return ""
    head = "".join(
        f'<th class="n">{escape(name)}</th>' if column in numbers else f"<th>{escape(name)}</th>"
        for column, name in enumerate(headings)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _bars(rows: Sequence[tuple[str, float, float | None]], unit: str, label: str) -> str:
    """One row for each name: a bar, or one before and one after."""
    if not rows:
        return ""
    largest = max(max(before, after or 0) for _, before, after in rows) or 1
    pairs = any(after is not None for _, _, after in rows)
    step = 44 if pairs else 26
    drawn = []
    for at, (name, before, after) in enumerate(rows):
        y = at * step
        drawn.append(
            f'<text x="0" y="{y + 14}">{escape(name if len(name) <= 44 else f"{name[:43]}…")}</text>'
        )
        for row, (value, kind) in enumerate(
            ((before, "before" if pairs else "after"), (after, "after"))
        ):
            if value is not None:
                width = max(1.0, 480 * value / largest) if value else 0
                drawn.append(
                    f'<rect class="{kind}" x="300" y="{y + 3 + 17 * row}" width="{width:.1f}" height="14" rx="2"/>'
                )
                drawn.append(
                    f'<text class="v" x="{306 + width:.1f}" y="{y + 14 + 17 * row}">{value:,.0f} {escape(unit)}</text>'
                )
    key = (
        '<p class="key"><span style="background:var(--before)"></span>before<span style="background:var(--after)"></span>after</p>'
        if pairs
        else ""
    )
    return f'{key}<svg viewBox="0 0 940 {len(rows) * step}" role="img" aria-label="{escape(label)}">{"".join(drawn)}</svg>'


def _path_list(report: Merged) -> str:
    paths = report.path_list
    rows = [("all paths, joined by commas", float(paths.before), float(paths.after))]
    share = f"{paths.before / paths.limit:.2%} of the {paths.limit:,} characters that are possible before, {paths.after / paths.limit:.2%} after."
    return _bars(rows, "characters", "path list before and after") + f"<p>{share}</p>"


def _objects(report: Merged) -> str:
    topics = sorted(report.topics, key=lambda topic: -topic.sources)
    rows = [
        (topic.topic, float(topic.sources), float(topic.sources - topic.joined + topic.outputs))
        for topic in topics[:_MOST]
    ]
    return _bars(rows, "objects", "objects by topic before and after") + _rest(len(topics))


def _bytes(report: Merged) -> str:
    topics = sorted(report.topics, key=lambda topic: -topic.bytes)
    rows = [
        (topic.topic, topic.sources, topic.bytes, topic.joined, topic.outputs, topic.output_bytes)
        for topic in topics[:_MOST]
    ]
    return _table(
        ("topic", "small objects", "bytes", "joined", "outputs", "bytes of outputs"), rows
    )


def _rest(count: int) -> str:
    return f"<p>The {_MOST} largest of {count:,} topics.</p>" if count > _MOST else ""


def _left(report: Merged) -> str:
    return _bars(
        [
            (why.replace("_", " "), float(count), None)
            for why, count in report.sources.left.items()
            if count
        ],
        "",
        "what was left, by reason",
    )


def _time(report: Merged) -> str:
    rows = [
        (f"{run.scope.layout} {' '.join(run.scope.prefixes)} {run.scope.shard}", run.seconds, None)
        for run in report.runs
    ]
    return _bars(rows, "s", "seconds of each run")


def _runs(report: Merged) -> str:
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
            f"{run.exit_code} (tried again)" if run.superseded else str(run.exit_code),
        )
        for run in report.runs
    ]
    classes = ["old" if run.superseded else "bad" if run.exit_code else "" for run in report.runs]
    return _table(
        (
            "where",
            "layout",
            "shard",
            "started",
            "seconds",
            "joined",
            "outputs",
            "failures",
            "exit code",
        ),
        rows,
        classes=classes,
    )


def _failures(report: Merged) -> str:
    rows = [
        (f.code, f.group, f.key, f"{f.message}. {f.hint}", f.request_id)
        for f in report.failures[:_MOST]
    ]
    more = (
        f"<p>{len(report.failures) - _MOST:,} more are in the JSON.</p>"
        if len(report.failures) > _MOST
        else ""
    )
    return _table(("code", "group", "key", "what happened", "request id"), rows) + more


def _stages(report: Merged) -> str:
    rows = [
        (name, stage.requests, f"{stage.seconds:,.1f}") for name, stage in report.stages.items()
    ]
    return _table(("stage", "requests", "seconds, those under way at once added up"), rows)


def _requests(report: Merged) -> str:
    return _table(
        ("operation", "requests"),
        sorted(report.requests.items(), key=lambda item: (item[1], item[0]), reverse=True),
    )
