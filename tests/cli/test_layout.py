"""`coalesce layout`: what names mean, before anything is run."""

import gzip
from pathlib import Path

import pytest

from coalesce.naming.layouts import LAYOUTS
from coalesce.storage.memory import MemoryBucket
from support import lakes
from support.invoke import Sight, invoke

ANSWER = ["--output", "json"]


def asked(folder: Path, *words: str, **buckets: MemoryBucket) -> Sight:
    return invoke(["layout", *words], buckets, folder=folder)


def test_every_layout_is_listed_and_shown_with_keys_that_it_understands(tmp_path: Path) -> None:
    listed = asked(tmp_path, "list", *ANSWER).events
    assert [found["name"] for found in listed] == [*LAYOUTS]
    for found in listed:
        assert asked(tmp_path, "show", found["name"], *ANSWER).last == found
        each = LAYOUTS[found["name"]]
        kinds = [parsed.kind for key in found["example"] if (parsed := each.parse(key))]
        assert kinds == ["source", "source"]
        became = each.parse(found["becomes"])
        assert became is not None
        assert became.kind == "output"
        assert found["name"] in asked(tmp_path, "list").stdout
        assert found["becomes"] in asked(tmp_path, "show", found["name"]).stdout


def test_keys_are_taken_for_sources_outputs_or_neither(tmp_path: Path) -> None:
    keys = ["a/t_0_0-4.jsonl.gz", "a/t_0_5-9.jsonl.gz", "a/u_1_0_9.jsonl.gz", "a/x.json"]
    done = asked(tmp_path, "test", "corporate", *keys, *ANSWER)
    assert done.code == 1, "one is neither"
    *tried, would_be = done.events
    assert [found["kind"] for found in tried] == ["source", "source", "output", None]
    assert (tried[1]["group"], tried[1]["first_offset"], tried[1]["last_offset"]) == ("a/t_0", 5, 9)
    assert (would_be["group"], would_be["output"]) == ("a/t_0", "a/t_0_0_9.jsonl.gz")
    done = asked(tmp_path, "test", "corporate", *keys[:3])
    assert (done.code, "a/t_0_0_9.jsonl.gz" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "x"], f"unknown layout 'x'. Known layouts: {', '.join(LAYOUTS)}."),
        (["show"], f"no layout is named. Known layouts: {', '.join(LAYOUTS)}."),
        (["test", "corporate"], "no key is given. Name keys as they stand in the bucket."),
        (["guess", "s3://b"], "an empty --prefix is the whole bucket"),
    ],
)
def test_what_is_missing_is_said(words: list[str], said: str, tmp_path: Path) -> None:
    done = asked(tmp_path, *words)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")


def test_a_guess_counts_what_fits_and_shows_what_does_not(tmp_path: Path) -> None:
    bucket = lakes.lake()
    asked_once = asked(tmp_path, "guess", "s3://b/data", *ANSWER, b=bucket)
    guess = asked_once.last
    under = [key for key in bucket.objects if key.startswith("data/")]
    assert (asked_once.code, guess["best"], guess["keys"]) == (0, "corporate", len(under))
    counts = {fit["layout"]: fit["sources"] for fit in guess["layouts"]}
    assert counts == dict.fromkeys(LAYOUTS, 0) | {"corporate": 11, "manifest": 2}
    assert guess["unparsed"] == len(under) - 13
    assert all(not bucket.objects[key].metadata for key in guess["examples"])
    assert "--layout corporate" in asked(tmp_path, "guess", "s3://b/data", b=bucket).stdout


def test_a_guess_reads_a_sample_and_writes_nothing(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    for n in range(1100):
        bucket.store(f"data/{n}.parquet", b"x")
    before = {*bucket.objects}
    done = asked(tmp_path, "guess", "-b", "b", "-p", "data", *ANSWER, b=bucket)
    assert (done.code, done.last["best"], done.last["keys"]) == (1, "", 1000)
    assert len(done.last["examples"]) == 5
    assert {*done.bucket.objects} == before
    assert {operation for operation, _ in done.requests} == {"ListObjectsV2"}


def test_a_guess_where_there_is_nothing_says_so(tmp_path: Path) -> None:
    done = asked(tmp_path, "guess", "s3://b/dta", b=lakes.lake())
    assert (done.code, "there are no keys" in done.stdout) == (1, True)


def test_a_guess_leaves_out_the_state_of_runs(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    bucket.store("_coalesce/ledger/x", b"x")
    bucket.store("t_0_1-2.jsonl.gz", b"x")
    done = asked(tmp_path, "guess", "-b", "b", "--whole-bucket", *ANSWER, b=bucket)
    assert (done.last["keys"], done.last["unparsed"]) == (1, 0)


OWN = [
    "[layout.clicks]",
    r"source = '(?P<dir>.*/)clicks-(?P<host>[a-z0-9]+)-(?P<time>\d{8}T\d{6})\.log\.gz'",
    'group = ["dir", "host"]',
    'order = ["time"]',
    'output = "{dir}clicks-{host}-{first.time}--{last.time}.log.gz"',
]
KEYS = [f"a/clicks-w1-20261126T21550{n}.log.gz" for n in (1, 2)]


def test_ones_own_layout_is_listed_shown_and_tried(tmp_path: Path) -> None:
    def own(*words: str) -> Sight:
        return invoke(["layout", *words], {}, folder=tmp_path, lines=OWN)

    assert [found["name"] for found in own("list", *ANSWER).events] == [*LAYOUTS, "clicks"]
    assert "--{last.time}" in own("show", "clicks").stdout
    *tried, would_be = own("test", "clicks", *KEYS, *ANSWER).events
    assert [(found["kind"], found["group"]) for found in tried] == [
        ("source", "a/clicks-w1-*.log.gz")
    ] * 2
    assert {found["first_offset"] for found in tried} == {None}
    assert would_be["output"] == "a/clicks-w1-20261126T215501--20261126T215502.log.gz"


@pytest.mark.parametrize("command", ["run", "plan", "status", "verify"])
def test_a_command_works_with_the_layout_that_its_file_has(command: str, tmp_path: Path) -> None:
    bucket = MemoryBucket()
    for n, key in enumerate(KEYS):
        bucket.store(key, gzip.compress(b"%d\n" % n))
    bucket.now += 3600
    words = [command, "s3://b/a", "--layout", "clicks", *ANSWER]
    done = invoke(words, {"b": bucket}, folder=tmp_path, lines=OWN)
    assert done.code == 0, done.stderr
    if command == "run":
        assert done.outputs == ["a/clicks-w1-20261126T215501--20261126T215502.log.gz"]
    assert invoke([command, "s3://b/a"], {"b": bucket}, folder=tmp_path, lines=OWN).code == 0


def test_a_file_that_has_layouts_chooses_one_by_layout_use(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    for n, key in enumerate(KEYS):
        bucket.store(key, gzip.compress(b"%d\n" % n))
    bucket.now += 3600
    lines = ['layout.use = "clicks"', *OWN]
    done = invoke(["run", "s3://b/a", *ANSWER], {"b": bucket}, folder=tmp_path, lines=lines)
    assert (done.code, done.last["scope"]["layout"]) == (0, "clicks")
    shown = invoke(["config", "show", *ANSWER], {}, folder=tmp_path, lines=lines).last["settings"]
    assert shown["layout"]["value"] == "clicks"
    assert set(shown["layouts"]["value"]) == {"clicks"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([*OWN[:2], *OWN[3:]], "[layout.clicks] group"),
        ([*OWN, "colour = 1"], "[layout.clicks] colour"),
        ([*OWN[:-1], 'output = "{dir}{host}.gz"'], "[layout.clicks] output: {first.time} and"),
        (['layout.x = "clicks"', *OWN], "layout.x in the configuration file 'coalesce.toml' is no"),
        (['layout.use = "x"', *OWN], "--layout x: choose corporate, manifest, "),
        ([OWN[0].replace("clicks", "vector"), *OWN[1:]], "[layout.vector] a layout of this name"),
    ],
)
def test_a_layout_that_cannot_be_used_is_refused_before_anything_is_done(
    lines: list[str], said: str, tmp_path: Path
) -> None:
    done = invoke(["run", "s3://b/a"], {"b": MemoryBucket()}, folder=tmp_path, lines=lines)
    assert done.code == 2
    assert done.stderr.startswith(f"error: {said}")
    assert done.requests == []


def test_of_what_cannot_be_joined_the_reason_is_said(tmp_path: Path) -> None:
    done = asked(tmp_path, "test", "kafka-connect", "a/t+0+0000000000.avro")
    assert done.code == 1
    said = " ".join(done.stdout.split())
    assert "left alone. It looks like Avro:" in said
    assert "avro-tools" in said
    bucket = MemoryBucket()
    bucket.store("data/x.snappy.parquet", b"PAR1")
    guess = asked(tmp_path, "guess", "s3://b/data", *ANSWER, b=bucket).last
    assert guess["foreign"] == {"Parquet": 1}
    assert guess["proposal"] is None
    assert "Iceberg" in asked(tmp_path, "guess", "s3://b/data", b=bucket).stdout
    done = invoke(["run", "s3://b/data", *ANSWER], {"b": bucket}, folder=tmp_path)
    (warning,) = [event for event in done.events if event["type"] == "unparsed"]
    assert warning["hint"].startswith("It looks like Parquet: ")


def test_a_guess_proposes_a_layout_that_can_be_put_into_the_file(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    keys = [f"data/app-web{n % 2}-2026-11-26T21:5{n}:00Z.log.gz" for n in range(6)]
    for n, key in enumerate(keys):
        bucket.store(key, gzip.compress(b"%d\n" % n))
    bucket.now += 3600
    done = asked(tmp_path, "guess", "s3://b/data", *ANSWER, b=bucket)
    assert (done.code, done.last["best"]) == (1, "")
    assert set(done.last["proposal"]) == {"source", "group", "order", "output"}
    shown = asked(tmp_path, "guess", "s3://b/data", b=bucket)
    lines = [line.strip() for line in shown.stdout.splitlines()]
    lines = lines[lines.index("[layout.mine]") :]
    joined = invoke(
        ["run", "s3://b/data", "--layout", "mine"], {"b": bucket}, folder=tmp_path, lines=lines
    )
    assert joined.code == 0, joined.stderr
    assert joined.outputs == [
        "data/app-web0-2026-11-26T21:50:00Z--2026-11-26T21:54:00Z.log.gz",
        "data/app-web1-2026-11-26T21:51:00Z--2026-11-26T21:55:00Z.log.gz",
    ]
