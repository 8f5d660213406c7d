"""`--files-from`: where the list comes from, what may stand in it, and what is told of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.cli.work_list import keys_in
from coalesce.storage.memory import MemoryBucket
from support import lakes
from support.buckets import contents, records_in
from support.invoke import Sight, invoke

RUN = ["run", "--min-age", "0", "--output", "json", "--log-format", "text"]
TWO = ["data/t_0_1-1.jsonl.gz", "data/t_0_2-2.jsonl.gz"]


def run(folder: Path, lines: list[str], *words: str, place: str = "list.txt") -> Sight:
    """A run by a list of these lines, in a file or in the bucket `lists`."""
    text = "\n".join(lines)
    (folder / "list.txt").write_text(text)
    lists = MemoryBucket()
    lists.store("today/list.txt", text.encode())
    buckets = {"b": lakes.lake(), "lists": lists}
    return invoke([*RUN, "--files-from", place, *words], buckets, folder=folder)


@pytest.mark.parametrize("place", ["list.txt", "s3://lists/today/list.txt"])
@pytest.mark.parametrize("begin", ["", "s3://b/"])
@pytest.mark.parametrize("end", ["", "\r"])
def test_only_the_keys_of_the_list_are_joined(
    place: str, begin: str, end: str, tmp_path: Path
) -> None:
    before = lakes.lake().objects.keys()
    lines = [f"{begin}{key}{end}" for key in (*TWO, TWO[0])]
    done = run(tmp_path, ["", *lines, ""], "-b", "b", place=place)
    assert (done.code, done.outputs) == (0, ["data/t_0_1_2.jsonl.gz"]), done.stderr
    assert before - done.bucket.objects.keys() == set(TWO)
    assert records_in(contents(done.bucket)) == records_in(contents(lakes.lake()))
    assert done.last["sources"]["left"]["excluded"] == 2
    assert done.last["scope"]["prefixes"] == ["data/"]


@pytest.mark.parametrize("words", [["-p", "data"], ["--whole-bucket"], []])
def test_the_list_may_come_from_stdin_and_under_prefixes(words: list[str], tmp_path: Path) -> None:
    command = [*RUN, "--files-from", "-", "-b", "b", *words]
    done = invoke(command, {"b": lakes.lake()}, folder=tmp_path, stdin="\n".join(TWO))
    assert (done.code, done.outputs) == (0, ["data/t_0_1_2.jsonl.gz"]), done.stderr


@pytest.mark.parametrize(
    ("lines", "words", "said"),
    [
        (TWO, ["-b", "b", "-p", "more"], "not under --prefix"),
        (["s3://other/data/t_0_1-1.jsonl.gz"], ["-b", "b"], "not in the bucket 'b'"),
        (TWO, [], "--bucket is required"),
        (TWO, ["-b", "b", "-d", "today"], "--date needs --prefix"),
        (TWO, ["-b", "b", "--plan", "list.txt"], "contradict"),
        ([], ["-b", "b"], "the work list is empty"),
        (["t_0_1-1.jsonl.gz"], ["-b", "b"], "in no directory"),
        (TWO, ["-b", "b", "--files-from", "none.txt"], "cannot read the work list"),
    ],
)
def test_a_list_that_contradicts_the_scope_is_refused_before_anything_is_asked(
    lines: list[str], words: list[str], said: str, tmp_path: Path
) -> None:
    done = run(tmp_path, lines, *words)
    assert (done.code, done.requests, done.outputs) == (2, [], [])
    assert said in done.stderr


def test_keys_that_are_gone_young_or_no_sources_are_told(tmp_path: Path) -> None:
    lines = [*TWO, "data/t_0_7-7.jsonl.gz", "data/readme.txt"]
    done = run(tmp_path, lines, "-b", "b", "--min-age", "2h")
    assert done.code == 0
    told = [event["type"] for event in done.events if "message" in event]
    assert told == ["missing", "unparsed", "young"]
    assert "1 of the 4 keys of the work list are not there" in done.stderr
    assert "2 of the 4 keys of the work list are younger than --min-age" in done.stderr
    assert done.outputs == []


def test_a_plan_of_a_list_is_executed_without_it(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(TWO))
    words = ["-b", "b", "--min-age", "0", "--files-from", "list.txt", "--save-plan", "p.jsonl"]
    planned = invoke(["plan", *words], {"b": lakes.lake()}, folder=tmp_path)
    assert planned.code == 0, planned.stderr
    done = invoke(["run", "--plan", "p.jsonl"], {"b": lakes.lake()}, folder=tmp_path)
    assert (done.code, done.outputs) == (0, ["data/t_0_1_2.jsonl.gz"]), done.stderr


def test_what_a_killed_run_left_is_settled_though_the_list_does_not_name_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "list.txt").write_text("data/none_0_0-0.jsonl.gz\ndata/none_0_1-1.jsonl.gz")
    words = [*RUN, "-b", "b", "-p", "data", "-p", "more", "--files-from", "list.txt"]
    done = invoke(words, {"b": lakes.unfinished()}, folder=tmp_path)
    assert (done.code, done.last["recovered"]["groups"]) == (0, 2), done.stderr


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
def test_every_line_is_a_key(names: list[str]) -> None:
    expected = [name for name in names if name and not name.startswith("s3://")]
    assert list(keys_in("\r\n".join(expected), "b")) == expected
    assert list(keys_in("\n".join(f"s3://b/{name}" for name in expected), "b")) == expected
