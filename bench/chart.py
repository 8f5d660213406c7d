"""The chart: bars of CPU per source and of wall time, as one SVG that reads on light and on dark
pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from xml.sax.saxutils import escape

from bench.results import Result

WIDTH, LABEL, BAR, STEP, TOP = 860, 250, 14, 22, 34
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 14px; }
.ours { fill: #0b7285; }
.other { fill: #adb5bd; }
@media (prefers-color-scheme: dark) { \
text { fill: #e6edf3; } .ours { fill: #3bc9db; } .other { fill: #5c636a; } }
"""

PANELS: tuple[tuple[str, str, Callable[[Result], Callable[[str], list[float]]], str], ...] = (
    ("100KB-TLS", "CPU per source of 100 KB over TLS, ms", lambda result: result.cpu, ".3f"),
    ("10KB-TLS", "CPU per source of 10 KB over TLS, ms", lambda result: result.cpu, ".3f"),
    ("1MB-TLS", "CPU per source of 1 MB over TLS, ms", lambda result: result.cpu, ".3f"),
    ("100KB", "CPU per source of 100 KB over HTTP, ms", lambda result: result.cpu, ".3f"),
    (
        "100KB-30ms",
        "wall time for 10,000 sources of 100 KB, 30 ms latency, s",
        lambda result: result.wall,
        ".1f",
    ),
)


def drawn(results: Mapping[str, Result]) -> str:
    """The SVG."""
    rows: list[str] = []
    y = 0
    for name, title, measure, form in PANELS:
        if name in results and results[name].runs:
            y = _panel(rows, y, title, results[name], measure(results[name]), form)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" role="img">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(rows) + "\n</svg>\n"
    )


def _panel(
    rows: list[str], y: int, title: str, result: Result, of: Callable[[str], list[float]], form: str
) -> int:
    figures = {name: median(of(name)) for name in result.runs}
    scale = (WIDTH - LABEL - 70) / max(figures.values())
    rows.append(f'<text class="title" x="0" y="{y + 20}">{escape(title)}</text>')
    y += TOP
    for name, figure in sorted(figures.items(), key=lambda entry: entry[1]):
        kind = "ours" if name.startswith("coalesce") else "other"
        rows.append(f'<text x="{LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
        rows.append(
            f'<rect class="{kind}" x="{LABEL}" y="{y}" '
            f'width="{max(1, figure * scale):.1f}" height="{BAR}" rx="2"/>'
        )
        rows.append(
            f'<text x="{LABEL + figure * scale + 6:.1f}" y="{y + 11}">{figure:{form}}</text>'
        )
        y += STEP
    return y + 8
