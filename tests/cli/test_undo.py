"""`coalesce undo` as a user types it: what is given back, what is printed, and what is refused."""

import json
from pathlib import Path

import pytest

from support import lakes
from support.invoke import Sight, invoke

T0 = "data/t_0_0_3.jsonl.gz"


def undo(tmp_path: Path, *words: str) -> Sight:
    return invoke(["undo", *words], {"b": lakes.joined()}, folder=tmp_path)


def sources_in(sight: Sight, prefix: str) -> list[str]:
    return sorted(k for k in sight.bucket.objects if k.startswith(prefix) and "-" in k)


def test_an_output_is_given_back_by_its_name(tmp_path: Path) -> None:
    sight = undo(tmp_path, f"s3://b/{T0}")
    assert sight.code == 0, sight.stderr
    assert sources_in(sight, "data/t_0_") == sources_of(lakes.lake(), "data/t_0_")
    assert T0 not in sight.bucket.objects
    assert sorted(sight.outputs) == sorted(set(undo(tmp_path, "s3://b/none/").outputs) - {T0})
    for words in ("1 output of 4 sources", "given back and deleted", "exit code  0: done"):
        assert words in sight.stdout


def sources_of(bucket: object, prefix: str) -> list[str]:
    return sorted(k for k in bucket.objects if k.startswith(prefix))  # type: ignore[attr-defined]


def test_several_outputs_of_several_directories_are_given_back(tmp_path: Path) -> None:
    sight = undo(tmp_path, f"s3://b/{T0}", "s3://b/more/t_0_0_1.jsonl.gz", "--output", "json")
    assert (sight.code, sight.last["undone"]["outputs"]) == (0, 2)
    assert sight.last["scope"]["prefixes"] == ["data/", "more/"]
    assert [event["type"] for event in sight.events] == ["undone", "undone", "summary"]


def test_a_dry_run_writes_nothing_and_says_what_it_would_cost(tmp_path: Path) -> None:
    sight = undo(tmp_path, "-b", "b", "-p", "data", "--dry-run")
    assert sight.code == 0, sight.stderr
    assert sight.bucket.objects == lakes.joined().objects
    for words in ("5 outputs of 13 sources", "would be given back; nothing was written", "($0.0"):
        assert words in sight.stdout
    assert "`coalesce undo` with the same options does it" in sight.stdout


def test_what_one_run_wrote_is_given_back(tmp_path: Path) -> None:
    planned = undo(tmp_path, "-b", "b", "-p", "data", "--output", "json", "--dry-run")
    assert len(planned.events) == 6
    import gzip

    entries = {
        json.loads(gzip.decompress(held.data).splitlines()[0])["run_id"]
        for key, held in lakes.joined().objects.items()
        if key.startswith("_coalesce/ledger/data/m_")
    }
    (run_id,) = entries
    sight = undo(tmp_path, "-b", "b", "-p", "data", "--output", "json", "--run", run_id)
    assert [event["key"] for event in sight.events[:-1]] == ["data/m_0_0_m_0_1.txt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"s3://b/{T0}", "s3://b/more/"], "Name outputs or prefixes"),
        ([f"s3://b/{T0}", "-d", "today"], "--date goes with prefixes"),
        ([], "--bucket is required"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    sight = undo(tmp_path, *words)
    assert sight.code == 2
    assert said in sight.stderr


def test_an_output_that_is_not_there_is_told(tmp_path: Path) -> None:
    sight = undo(tmp_path, "s3://b/data/t_0_0_4.jsonl.gz", "--output", "json")
    assert sight.code == 1
    assert sight.last["failures"][0]["key"] == "data/t_0_0_4.jsonl.gz"


def test_a_report_is_written(tmp_path: Path) -> None:
    sight = undo(tmp_path, f"s3://b/{T0}", "--report", "r.json")
    assert sight.code == 0
    assert json.loads((tmp_path / "r.json").read_text())["undone"]["sources"] == 4


def test_an_unfinished_undo_shows_in_a_plan_and_in_the_status(tmp_path: Path) -> None:
    """And a run leaves the group alone."""
    bucket = lakes.copy_of(lakes.joined())
    from coalesce.protocol.undo_record import UndoRecord, encode

    record = UndoRecord(
        run_id="dead",
        layout="corporate",
        directory="data/",
        topic="t",
        partition=0,
        output=T0,
        upload_id="u",
        etag='"e"',
        size=1,
        began=0.0,
    )
    bucket.store("_coalesce/groups/data/t_0", encode(record))
    for command in ("plan", "status", "run"):
        sight = invoke([command, "-b", "b", "-p", "data"], {"b": bucket}, folder=tmp_path)
        assert sight.code == 1, command
        assert "its undo was begun and not finished" in sight.stderr, command
