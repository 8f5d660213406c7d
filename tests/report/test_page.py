"""The HTML report as a browser lays it out: on a phone and on a desktop nothing runs over the edge,
no word is broken, and no text is too small to read. It needs a Chromium on the PATH.
"""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from coalesce.report.html import names_of, render_page
from coalesce.report.html_parts import STYLE
from coalesce.report.merging import MergedReport, merge
from coalesce.report.report import LocationPart, Report, ScopePart, TopicPart

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH")

# Every span of text without a space or a place to fold it stands on one line, inside the window.
MEASURE = """
const page = document.querySelector('iframe').contentDocument;
const view = page.defaultView;
const found = {width: view.innerWidth, height: page.documentElement.scrollHeight,
  scroll: page.documentElement.scrollWidth, over: [], broken: [], small: []};
const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  const style = view.getComputedStyle(node.parentElement);
  const head = node.parentElement.closest('thead');
  if (head && view.getComputedStyle(head).position === 'absolute') continue;  // for readers' ears
  for (const word of node.data.matchAll(/[^\\s\\-/]+/g)) {
    const range = page.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    const boxes = [...range.getClientRects()].filter(box => box.width > 1);
    if (!boxes.length) continue;
    if (new Set(boxes.map(box => Math.round(box.top))).size > 1) found.broken.push(word[0]);
    if (boxes.some(box => box.right > view.innerWidth + 1)) found.over.push(word[0]);
    if (parseFloat(style.fontSize) < 14) found.small.push(word[0]);
  }
}
document.body.setAttribute('data-found', JSON.stringify(found));
"""


def night(shard: str = "0/2", *, code: int = 0, **more: Any) -> Report:
    key = (
        "storage/events/2026/11/22/db.crm.subscription-preferences_changes-v2_0_{n}0-{n}9.jsonl.gz"
    )
    failures = [
        {
            "group": "storage/events/2026/11/22/db.crm.subscription-preferences_changes-v2_0",
            "key": key.format(n=n),
            "code": "AccessDenied",
            "operation": "PutObject",
            "request_id": f"4442587FB7D0A2F{n}",
            "message": f"PutObject {key.format(n=n)!r}: 403 AccessDenied Access Denied",
            "hint": "Check the IAM policy; `coalesce policy` prints what a run needs.",
        }
        for n in range(9)
    ]
    scope = ScopePart(
        bucket="lake",
        prefixes=["storage/events/2026/11/22/"],
        layout="corporate",
        partitions=[],
        shard=shard,
    )
    topics = ["db.crm.subscription-preferences_changes-v2", "db.core.claimant", "a"]
    numbers = {
        "sources": 1_234_567_890,
        "bytes": 123_456_789_012_345,
        "joined": 1_234_000_000,
        "outputs": 965_432,
        "output_bytes": 123_456_789_012_345,
    }
    said = {
        "version": "0.2.0",
        "run_id": f"20261122T023000Z-0a1b2c3{shard[0]}",
        "started": "2026-11-22T02:30:00+00:00",
        "seconds": 7542.25,
        "exit_code": code,
        "scope": scope,
        "sources": {
            "seen": 1_300_000_000,
            "joined": 1_234_000_000,
            "deleted": 1_234_000_000,
            "left": {"young": 65_000_000, "corrupt": 1, "not_known_yet_to_this_version": 3},
        },
        "outputs": {"written": 965_432, "bytes": 123_456_789_012_345, "records": 45_000_000_000},
        "path_list": {"before": 1_300_000, "after": 70_000},
        "topics": [TopicPart(topic=topic, **numbers) for topic in topics],
        "locations": [
            LocationPart(location="storage/events/", date=f"2026/11/{day}", **numbers)
            for day in (21, 22)
        ],
        "requests": {"GetObject": 1_234_567_890, "ListMultipartUploads": 12},
        "stages": {"get": {"requests": 1_234_567_890, "seconds": 4e6}},
        "attributes": {"differing": 2, "example": f"{key}: content-type is application/x-gzip"},
        "failures": failures if code == 4 else [],
    }
    return Report.model_validate(said | more)


def whole() -> MergedReport:
    return merge([night(code=4), night("1/2", code=12, stopped_by="--deadline")])


def lay_out(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What a browser measures of a page in a frame of this width; a picture stays in the folder."""
    frame = folder / f"{width}.html"
    frame.write_text(
        f'<body style="margin:0"><iframe srcdoc="{escape(page)}" style="border:0;width:{width}px;'
        f'height:3000px"></iframe><script>onload = () => {{{MEASURE}}}</script>',
        encoding="utf-8",
    )
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 500)},3000",
    ]
    shot = [f"--screenshot={folder / f'{width}.png'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run([*command, *shot], capture_output=True, text=True, check=True)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr
    return json.loads(unescape(found[1]))  # type: ignore[no-any-return]


@needs_browser
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("width", "highest"), [(390, 7000), (1280, 3000)])
def test_nothing_is_cut_broken_or_too_small(width: int, highest: int, tmp_path: Path) -> None:
    page = render_page(whole()).replace("<details>", "<details open>")
    found = lay_out(page, width, tmp_path)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert (found["over"], found["broken"], found["small"]) == ([], [], [])
    assert found["height"] <= highest


@needs_browser
@pytest.mark.timeout(180)
def test_a_name_without_a_separator_is_folded_rather_than_cut(tmp_path: Path) -> None:
    topic = "x" * 300
    page = render_page(merge([night("0/1", topics=[TopicPart(topic=topic, sources=1)])]))
    found = lay_out(page, 390, tmp_path)
    assert (found["over"], found["broken"]) == ([], [topic])
    assert found["scroll"] <= 390


def sections(page: str) -> list[str]:
    return re.findall(r"<h[12][^>]*>(.*?)</h[12]>", page)


def test_the_verdict_comes_first_then_what_to_do_then_why() -> None:
    page = render_page(whole())
    assert sections(page) == [
        "a content or integrity check failed; the sources were kept",
        "Failures",
        "Path list, against the longest that Hadoop can take",
        "Sources that were kept, and why",
        "By location",
        "By date",
        "By topic",
        "Attributes",
        "Runs",
        "Stages",
        "Requests",
    ]
    assert page.index("<b>Next:</b>") < page.index("1,278 times") < page.index("Failures")
    assert "<b>32.7 GB/s</b>written in a second" in page


def test_equal_failures_are_one_row_with_their_keys_below() -> None:
    page = render_page(whole())
    (table,) = re.findall(r'aria-label="failures by kind">(.*?)</table>', page)
    assert table.count('<tr role="row">') == 2  # the headings, and one kind
    assert "<span>9</span>" in table
    (below,) = re.findall(r"<details>(.*?)</details>", page)
    assert below.count("4442587FB7D0A2F") == 9


def test_a_run_that_was_stopped_does_not_look_like_a_failure() -> None:
    page = render_page(merge([night("0/2", code=12, stopped_by="--deadline"), night("1/2")]))
    assert '<h1 class="stopped">stopped at a limit that you set (--deadline)</h1>' in page
    assert 'class="bad"' not in page


def test_runs_are_named_by_what_differs() -> None:
    assert names_of(whole().runs) == ["shard 0/2", "shard 1/2"]
    one = merge([night("0/1")]).runs
    assert names_of(one) == ["storage/events/2026/11/22/"]
    other = night("1/2")
    scope = other.scope.model_copy(update={"bucket": "pond", "shard": "0/2", "partitions": [3]})
    two = merge([night(), other.model_copy(update={"scope": scope})]).runs
    assert sorted(set(names_of(two))) == ["lake", "pond partition 3"]


def test_places_and_days_add_up_over_shards() -> None:
    def place(location: str, date: str, sources: int) -> LocationPart:
        return LocationPart(location=location, date=date, sources=sources, joined=1, outputs=1)

    reports = [
        night("0/2", locations=[place("a/", "2026/11/21", 5), place("a/", "2026/11/22", 6)]),
        night("1/2", locations=[place("a/", "2026/11/22", 7), place("b/", "", 8)]),
    ]
    merged = merge(reports)
    assert [(one.location, one.date, one.sources) for one in merged.locations] == [
        ("a/", "2026/11/21", 5),
        ("a/", "2026/11/22", 13),
        ("b/", "", 8),
    ]
    page = render_page(merged)
    (dates,) = re.findall(r'aria-label="sources by date">(.*?)</table>', page)
    assert re.findall(r'"rowheader">(.*?)</th><td[^>]*><span>(.*?)</span>', dates) == [
        ("2026/<wbr>11/<wbr>21", "5"),
        ("2026/<wbr>11/<wbr>22", "13"),
        ("without a date", "8"),
    ]


def luminance(colour: str) -> float:
    digits = "".join(digit * 2 for digit in colour) if len(colour) == 3 else colour
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("ground", ["ground", "card"])
@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_stands_out_from_its_ground(theme: int, ground: str) -> None:
    """WCAG 2.2, level AA: a contrast of 4.5 at least."""
    colours = dict(re.findall(r"--(\w+): #(\w+);", STYLE.split(":root {")[theme + 1]))
    for name in ("ink", "faint", "good", "stopped", "bad"):
        pair = sorted((luminance(colours[name]), luminance(colours[ground])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, name
