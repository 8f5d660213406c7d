"""`coalesce layout`: what names mean, before anything is run."""

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
        (["show", "x"], "unknown layout 'x'. Known layouts: corporate, manifest."),
        (["show"], "no layout is named. Known layouts: corporate, manifest."),
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
    assert counts == {"corporate": 11, "manifest": 2}
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
