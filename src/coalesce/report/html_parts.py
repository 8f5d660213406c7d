"""The pieces of an HTML report: its style, names, tables and bars. All text is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2330; --faint: #5b6475; --line: #d9dee7; --ground: #fff; --card: #f4f6fa;
  --bar: #2f6fde; --track: #dfe5ef; --good: #1a7f37; --stopped: #8a5a00; --bad: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ef; --faint: #a3acbb; --line: #333b4a; --ground: #12161f; --card: #1b2130;
    --bar: #6ea2ff; --track: #2b3446; --good: #5bd17a; --stopped: #e6b450; --bad: #ff9b85;
  }
}
* { box-sizing: border-box; }
body {
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 75rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; overflow-wrap: break-word;
}
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .3rem 0; }
.faint, th { color: var(--faint); }
h1.good, .next.good, tr.good > :last-child { color: var(--good); }
h1.stopped, .next.stopped, tr.stopped > :last-child { color: var(--stopped); }
h1.bad, .next.bad, tr.bad > :last-child { color: var(--bad); }
tr.bad > :last-child, tr.stopped > :last-child { font-weight: 600; }
.next { background: var(--card); border-left: 4px solid; padding: .6rem 1rem; margin: 1rem 0; }
.next span { color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1rem;
  margin: 1.2rem 0; }
.tiles b { display: block; font-size: 1.25rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; }
tbody th { color: inherit; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr > :last-child { padding-right: 0; }
tr.old { color: var(--faint); }
.track { background: var(--track); height: .8rem; margin: .2rem 0 .6rem; border-radius: 2px; }
.fill { background: var(--bar); height: 100%; border-radius: 2px; }
.track, .fill { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
details { margin: .5rem 0; }
@media (max-width: 40rem) {
  table, tbody, tr, th, td { display: block; width: auto; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  th, td, .n { border: 0; padding: .1rem 0; text-align: left; }
  tbody th { font-weight: 600; }
  td { display: flex; gap: 1rem; justify-content: space-between; }
  td > * { min-width: 0; text-align: right; }
  td::before { content: attr(data-label); color: var(--faint); flex: none; }
  td.long { display: block; }
  td.long::before { display: block; }
  td.long > * { text-align: left; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --faint: #444; --line: #bbb; --ground: #fff;
    --card: #fff; --bar: #555; --track: #ddd; --good: #000; --stopped: #000; --bad: #000; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  tr, .tiles > div { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""

# A name may be folded behind one of these, and nowhere else if it fits a line. Numbers are whole.
_SEPARATORS = re.compile(r"([-_/]+|(?<!\d)[.,]+|[.,]+(?!\d))")


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a table, as it is shown."""

    text: str

    @classmethod
    def of(cls, count: int) -> Number:
        """A count."""
        return cls(f"{count:,}")


@dataclass(frozen=True, slots=True)
class Long:
    """A text of a table that takes a line of its own on a phone."""

    text: str


Cell = str | Number | Long


def name(text: str) -> str:
    """A name as markup, which may be folded behind its separators."""
    pieces = _SEPARATORS.split(text)
    joined = (piece + mark for piece, mark in zip(pieces[::2], [*pieces[1::2], ""], strict=True))
    return "<wbr>".join(escape(piece) for piece in joined if piece)


def section(title: str, body: str) -> str:
    """A section with a heading; nothing without a body."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{name(text)}</p>"


def table(
    label: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    classes: Sequence[str] = (),
) -> str:
    """A table, or nothing without rows. The first cell of each row is its name.

    `label` is what a screen reader says of it, `classes` has one CSS class for each row. On a phone
    each row is a card, so the roles are spelt out, which CSS would otherwise take away.
    """
    body, numeric = [], set[int]()
    for at, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            if isinstance(cell, Number):
                numeric.add(column)
            cells.append(_cell(cell, headings[column], first=column == 0))
        kind = f' class="{classes[at]}"' if classes and classes[at] else ""
        body.append(f'<tr role="row"{kind}>{"".join(cells)}</tr>')
    if not body:
        return ""
    head = "".join(
        f'<th scope="col" role="columnheader"{" class=n" if at in numeric else ""}>'
        f"{escape(heading)}</th>"
        for at, heading in enumerate(headings)
    )
    return (
        f'<table role="table" aria-label="{escape(label)}"><thead role="rowgroup">'
        f'<tr role="row">{head}</tr></thead><tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def _cell(cell: Cell, heading: str, *, first: bool) -> str:
    text = cell if isinstance(cell, str) else cell.text
    if first:
        return f'<th scope="row" role="rowheader">{name(text)}</th>'
    kind = ' class="n"' if isinstance(cell, Number) else ""
    if isinstance(cell, Long):
        kind = ' class="long"'
    return f'<td role="cell"{kind} data-label="{escape(heading)}"><span>{name(text)}</span></td>'


def bar(text: str, share: float) -> str:
    """A bar that is as long as the share of the whole, below what it stands for."""
    width = 100 * min(1.0, max(0.0, share))
    return (
        f'<p>{name(text)}</p><div class="track" aria-hidden="true">'
        f'<div class="fill" style="width:{width:.4f}%"></div></div>'
    )
