"""Many reports become one: nothing is counted twice, nothing missing goes unnoticed, and the page
shows what the numbers say.
"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coalesce.cli.app import app
from coalesce.exits import meaning_of
from coalesce.model import Why
from coalesce.report.html import render_page
from coalesce.report.merging import load, merge
from coalesce.report.reasons import reason_of
from coalesce.report.report import (
    Failure,
    Report,
    ScopePart,
    StagePart,
    TopicPart,
)
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryStore
from support.buckets import data_in, filled
from support.settings import settings


def report(
    shard: str = "0/1",
    *,
    code: int = 0,
    started: str = "2026-11-22T02:30:00+00:00",
    seconds: float = 60,
    prefix: str = "data/",
    **more: object,
) -> Report:
    scope = ScopePart(bucket="b", prefixes=[prefix], layout="corporate", partitions=[], shard=shard)
    return Report.model_validate(
        {
            "version": "1",
            "run_id": f"{shard}-{started}",
            "started": started,
            "seconds": seconds,
            "exit_code": code,
            "scope": scope,
            **more,
        }
    )


async def test_shards_reports_add_up_to_that_of_one_run() -> None:
    whole, parts = filled(12), filled(12)
    one = merge([await Run(MemoryStore(whole), settings()).coalesce()])
    three = merge(
        [await Run(MemoryStore(parts), settings(shard=f"{n}/3")).coalesce() for n in range(3)]
    )
    keys = set(data_in(whole.objects))
    assert keys == set(data_in(parts.objects))
    for part in ("groups", "sources", "outputs", "offsets", "path_list", "topics", "exit_code"):
        assert getattr(three, part) == getattr(one, part), part
    assert three.path_list.after == len(",".join(f"s3://b/{key}" for key in keys)) + 1


def test_a_report_that_is_given_twice_counts_once() -> None:
    once = report(sources={"seen": 5, "joined": 5, "deleted": 5})
    assert merge([once, once]).sources == merge([once]).sources
    assert len(merge([once, once]).runs) == 1


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([0, 12], 12),
        ([11, 75], 75),
        ([75, 1], 1),
        ([1, 4], 4),
        ([4, 10], 10),
        ([0, 3], 0),
        ([3, 3], 3),
        ([1, 143], 143),
        ([10, 99], 99),
    ],
)
def test_the_worst_exit_code_wins(codes: list[int], code: int) -> None:
    """Nothing to do is only told if there was nothing anywhere; an unknown code is a failure."""
    assert merge([report(f"{n}/2", code=one) for n, one in enumerate(codes)]).exit_code == code


def test_a_shard_without_a_report_is_noticed() -> None:
    merged = merge([report("0/3"), report("2/3"), report(prefix="other/")])
    assert merged.exit_code == 75
    assert [(failure.code, "shard 1/3" in failure.message) for failure in merged.failures] == [
        ("ReportMissing", True)
    ]


def test_a_retry_counts_instead_of_the_try_before_it_and_both_did_their_work() -> None:
    first = report(
        "0/1",
        code=143,
        sources={"seen": 10, "joined": 4},
        path_list={"before": 100, "after": 80},
        failures=[Failure(code="x")],
        groups={"seen": 5, "failed": 1},
    )
    second = report(
        started="2026-11-22T02:40:00+00:00",
        sources={"seen": 6, "joined": 6},
        path_list={"before": 80, "after": 20},
        groups={"seen": 3},
    )
    merged = merge([second, first])
    assert (merged.exit_code, merged.failures, merged.seconds) == (0, [], 660)
    assert (
        merged.sources.seen,
        merged.sources.joined,
        merged.groups.seen,
        merged.groups.failed,
    ) == (10, 10, 5, 0)
    assert (merged.path_list.before, merged.path_list.after) == (100, 20)
    assert [run.superseded for run in merged.runs] == [True, False]


def test_of_two_runs_of_one_shard_at_once_both_count() -> None:
    """The one that found the groups taken may be the last to end."""
    worker = report(path_list={"before": 100, "after": 30}, sources={"seen": 10, "joined": 8})
    watcher = report(
        started="2026-11-22T02:30:01+00:00",
        path_list={"before": 100, "after": 95},
        sources={"seen": 10, "joined": 2},
    )
    merged = merge([worker, watcher])
    assert (
        merged.path_list.before,
        merged.path_list.after,
        merged.sources.seen,
        merged.sources.joined,
    ) == (100, 25, 10, 10)


class Page(HTMLParser):
    """What a browser would show or fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "action") or name.startswith("on")
        ]
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data if "style" not in self.open else ""


def test_the_page_shows_everything_and_runs_nothing_that_a_name_could_hold() -> None:
    evil = '<script>alert("x")</script>&\'"'
    merged = merge(
        [
            report(
                code=4,
                prefix=f"{evil}/",
                failures=[
                    Failure(group=evil, key=evil, code="CorruptGzip", message=evil, hint="Look.")
                ],
                topics=[
                    TopicPart(
                        topic=evil,
                        sources=1234567,
                        bytes=99,
                        joined=1234500,
                        outputs=5,
                        output_bytes=98,
                    )
                ],
                sources={"seen": 1234567, "joined": 1234500, "left": {"young": 67}},
                path_list={"before": 2**30, "after": 2**20},
                requests={"GetObject": 1234567},
                stages={"upload": {"requests": 7, "seconds": 4321.25}},
            )
        ]
    )
    text = render_page(merged)
    shown = Page(text)
    assert shown.open == []
    assert not {"script", "img", "link", "iframe", "object"} & set(shown.tags)
    assert shown.links == []
    assert not re.search(r"https?:|url\(|@import", text)
    for word in (
        evil,
        "1,234,567",
        "1,234,500",
        "younger than --min-age",
        "67",
        "CorruptGzip",
        "50%",
        "exit code 4",
        meaning_of(4),
        "GetObject",
        "upload",
        "1 h 12 min",
        "617,321.4 ms",  # for each of the 7 requests
    ):
        assert word in shown.said, word
    assert "prefers-color-scheme: dark" in text


async def test_every_request_of_a_run_belongs_to_one_stage() -> None:
    """And the stages of shards add up."""
    bucket = filled(12)
    shards = [await Run(MemoryStore(bucket), settings(shard=f"{n}/2")).coalesce() for n in range(2)]
    for one in (*shards, merge(shards)):
        assert (
            sum(stage.requests for stage in one.stages.values()) == sum(one.requests.values()) > 0
        )
    taken = [report(f"{n}/2", stages={"get": {"requests": 2, "seconds": 1.25}}) for n in range(2)]
    assert merge(taken).stages == {"get": StagePart(requests=4, seconds=2.5)}


def bars(text: str, heading: str) -> list[float]:
    """How long the bars below a heading are, in percent of their tracks."""
    (body,) = re.findall(rf"<h2>{heading}.*?</h2>(.*?)</section>", text)
    return [float(width) for width in re.findall(r"width:([\d.]+)%", body)]


def test_bars_are_as_long_as_their_share() -> None:
    """The path list's of its limit: what is next to nothing looks like nothing."""
    paths = {"before": 2**30, "after": 1_000_000}
    left = {"young": 25, "corrupt": 50}
    text = render_page(merge([report(path_list=paths, sources={"seen": 100, "left": left})]))
    assert bars(text, "Path list") == [50.0, 0.0466]
    assert bars(text, "Sources that were kept") == [50.0, 25.0]
    over = render_page(merge([report(path_list=paths | {"before": 2**32})]))
    assert bars(over, "Path list")[0] == 100.0


def test_the_page_says_what_the_store_said_and_what_to_do_about_it() -> None:
    failure = Failure(code="AccessDenied", message="403 Access Denied.", hint="Check the role.")
    said = Page(render_page(merge([report(failures=[failure])]))).said
    assert "403 Access Denied.Check the role." in said  # two cells


def test_failures_that_a_report_has_no_room_for_are_counted_all_the_same() -> None:
    failures = [Failure(code="x", key=f"k{n}") for n in range(1000)]
    merged = merge([report(failures=failures, failures_omitted=50)])
    assert [run.failures for run in merged.runs] == [1050]
    page = render_page(merged)
    assert "800 more are in the JSON report." in page
    assert "50 more are only counted." in page


def test_the_page_says_which_tries_count_no_more() -> None:
    tries = [report(code=143), report(started="2026-11-22T02:40:00+00:00")]
    page = render_page(merge(tries))
    assert "143 (tried again since)" in page
    assert '<tr role="row" class="old">' in page
    assert '<tr role="row" class="good">' in page


def test_the_page_says_of_how_many_topics_it_shows_the_largest() -> None:
    topics = [TopicPart(topic=f"t{n}", sources=n) for n in range(201)]
    assert "The 200 largest of 201 topics." in render_page(merge([report(topics=topics)]))
    assert "largest of" not in render_page(merge([report(topics=topics[1:])]))


def test_a_bucket_of_a_report_is_a_name_and_no_markup() -> None:
    """A report is a file that anybody may have written."""
    one = report()
    named = one.model_copy(update={"scope": one.scope.model_copy(update={"bucket": "<img>"})})
    assert "img" not in Page(render_page(merge([named]))).tags


def test_the_page_shows_no_reason_for_which_nothing_was_left() -> None:
    shown = Page(render_page(merge([report(sources={"left": {"young": 0, "corrupt": 3}})]))).said
    assert reason_of("corrupt") in shown
    assert reason_of("young") not in shown


def test_every_reason_for_leaving_a_source_is_said_in_words_that_fit_their_column() -> None:
    """One from a later version, too."""
    left = {why.value: 1 for why in Why} | {"not_known_yet": 1}
    shown = Page(render_page(merge([report(sources={"left": left})]))).said
    for why in Why:
        assert reason_of(why) in shown
        assert reason_of(why) != why.value or why is Why.EMPTY
    assert "not known yet" in shown


def invoke(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["report", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_merges_files_and_what_output_json_printed(tmp_path: Path) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.jsonl"
    one.write_text(json.dumps(report("0/2", sources={"joined": 3}).as_json(), indent=1))
    two.write_text(
        '{"type": "output"}\n'
        + json.dumps(report("1/2", code=1, sources={"joined": 4}).as_json() | {"added later": 1})
        + "\n"
    )
    code, out, _ = invoke(
        str(one),
        str(two),
        "--html",
        str(tmp_path / "p.html"),
        "--json",
        str(tmp_path / "m.json"),
        "--output",
        "json",
    )
    merged = json.loads((tmp_path / "m.json").read_text())
    assert (code, merged["exit_code"], merged["sources"]["joined"], len(merged["runs"])) == (
        1,
        1,
        7,
        2,
    )
    assert json.loads(out) == merged
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    assert load((tmp_path / "m.json").read_text(), "m").sources.joined == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"type": "output"}',
        '{"type": "summary", "schema": 2}',
        '{"type": "summary", "schema": 1}',
    ],
)
def test_what_is_no_report_gets_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    code, out, err = invoke(str(tmp_path / "x.json"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "x.json" in err


def test_a_file_that_is_not_there_gets_one_line(tmp_path: Path) -> None:
    code, out, err = invoke(str(tmp_path / "none.json"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_what_differs_in_the_attributes_of_outputs_adds_up_and_is_shown() -> None:
    """Each run has written its own outputs, whichever try it was."""
    merged = merge(
        [
            report("0/2"),
            report("1/2", attributes={"differing": 2, "example": "K: content-type is <a>"}),
            report(
                "1/2",
                started="2026-11-22T04:30:00+00:00",
                attributes={"differing": 3, "not_kept": 1, "example": "L: other"},
            ),
        ]
    )
    assert (merged.attributes.differing, merged.attributes.not_kept) == (5, 1)
    assert merged.attributes.example == "K: content-type is <a>"
    page = render_page(merged)
    assert "<h2>Attributes</h2>" in page
    assert "K: content-type is <a>" in Page(page).said
    assert "<h2>Attributes</h2>" not in render_page(merge([report()]))


def test_a_merged_report_names_the_most_processes_that_any_run_took() -> None:
    assert merge([report("0/2", processes=2), report("1/2", processes=4)]).processes == 4
