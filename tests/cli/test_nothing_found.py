"""Nothing that matches is never silent: what is wrong is said, and what to type."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import AccessDenied
from coalesce.listing.found import Found, closest, find_empty
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.invoke import Sight, invoke

PLANNING = ["run", "plan", "status"]
LISTING = [*PLANNING, "verify"]


def bucket_with(*keys: str) -> MemoryBucket:
    bucket = MemoryBucket()
    for key in keys:
        bucket.store(key, b"x")
    bucket.now += 1000
    return bucket


LAKE = ("storage/events/2026/11/24/t_0_0-0.jsonl.gz", "storage/events/2026/11/24/t_0_1-1.jsonl.gz")


def said(folder: Path, words: Sequence[str], *keys: str) -> Sight:
    age = ["--min-age", "0"] if words[0] in PLANNING else []
    return invoke([*words, "-b", "lake", *age], {"lake": bucket_with(*keys)}, folder=folder)


@pytest.mark.parametrize("command", [*LISTING, "recover"])
def test_a_prefix_without_keys_is_told_with_what_is_there(command: str, tmp_path: Path) -> None:
    sight = said(tmp_path, [command, "-p", "storage/eve"], *LAKE)
    assert sight.code == 0
    assert "no keys under s3://lake/storage/eve/" in sight.stderr
    assert "There is storage/events/." in sight.stderr


@pytest.mark.parametrize(
    ("words", "nearby"),
    [
        (["-p", "storage/events", "-d", "2026-11-25"], "storage/events/2026/11/24/"),
        (["-p", "no/such/thing/here"], "storage/"),
        (["-p", "storage/events/2026/11/24/deeper"], "storage/events/2026/11/24/"),
    ],
)
def test_the_nearest_prefix_is_named(words: list[str], nearby: str, tmp_path: Path) -> None:
    assert f"There is {nearby}." in said(tmp_path, ["run", *words], *LAKE).stderr


def test_several_near_prefixes_are_named(tmp_path: Path) -> None:
    keys = [f"{folder}/t_0_0-9.jsonl.gz" for folder in "abc"]
    stderr = said(tmp_path, ["run", "-p", "d"], *keys).stderr
    assert re.search(r"There are ./, ./ and ./\.", stderr)


def test_each_of_several_prefixes_is_looked_at(tmp_path: Path) -> None:
    sight = said(tmp_path, ["run", "-p", "storage/events", "-p", "strange"], *LAKE)
    assert "no keys under s3://lake/strange/" in sight.stderr
    assert "no keys under s3://lake/storage" not in sight.stderr


def test_an_empty_bucket_is_told(tmp_path: Path) -> None:
    assert "no keys under s3://lake/data/" in said(tmp_path, ["run", "-p", "data"]).stderr


@pytest.mark.parametrize("command", LISTING)
def test_names_of_another_kind_are_told_with_an_example(command: str, tmp_path: Path) -> None:
    sight = said(
        tmp_path, [command, "-p", "data"], "data/data-0001.json.gz", "data/data-0002.json.gz"
    )
    assert "2 keys, for instance 'data/data-0001.json.gz', fit no name of" in sight.stderr
    assert "<topic>_<partition>_<first>-<last>.jsonl.gz" in sight.stderr


def test_a_layout_that_fits_is_named(tmp_path: Path) -> None:
    sight = said(tmp_path, ["run", "-p", "m"], "m/t_0_0-t_0_1.txt", "m/t_0_2-t_0_3.txt")
    assert "fits --layout manifest" in sight.stderr


def test_keys_of_another_kind_beside_sources_are_only_counted(tmp_path: Path) -> None:
    sight = said(tmp_path, ["run", "-p", "storage"], "storage/events/_SUCCESS", *LAKE)
    assert "fit" not in sight.stderr


@pytest.mark.parametrize("command", LISTING)
@pytest.mark.parametrize("asked", [["--topic", "nosuch"], ["-n", "7"]])
def test_a_topic_or_partition_that_is_not_there_is_told(
    command: str, asked: list[str], tmp_path: Path
) -> None:
    sight = said(tmp_path, [command, "-p", "storage", *asked], *LAKE)
    assert "no topic-partition here matches --topic and --partition" in sight.stderr
    assert "There is storage/events/2026/11/24/t_0, for instance." in sight.stderr
    assert "matches" not in said(tmp_path, [command, "-p", "storage", "-n", "0"], *LAKE).stderr


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_program_finds_it_in_the_json_too(command: str, tmp_path: Path) -> None:
    sight = said(tmp_path, [command, "-p", "storage/eve", "--output", "json"], *LAKE)
    (warning,) = sight.last["warnings"]
    assert (warning["type"], warning["key"]) == ("empty", "storage/eve/")


def test_an_event_says_that_there_is_nothing_to_recover(tmp_path: Path) -> None:
    sight = said(tmp_path, ["recover", "-p", "storage/eve", "--output", "json"], *LAKE)
    assert [event["type"] for event in sight.events] == ["empty", "summary"]


def test_a_recovery_where_there_are_keys_warns_of_nothing(tmp_path: Path) -> None:
    """Of any date: recovery looks under all of them."""
    sight = said(tmp_path, ["recover", "-p", "storage/events", "-d", "2026-11-25"], *LAKE)
    assert (sight.code, "no keys" in sight.stderr) == (0, False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "there is no output here, only sources. `coalesce run` joins them."),
        (
            ["--exclude", "*_0_9.jsonl.gz"],
            "--include and --exclude leave out every output that is here. There is"
            " storage/events/t_0_0_9.jsonl.gz, for instance.",
        ),
    ],
)
def test_it_is_told_why_there_is_no_output_to_verify(
    words: list[str], told: str, tmp_path: Path
) -> None:
    keys = [*LAKE, *(["storage/events/t_0_0_9.jsonl.gz"] if words else [])]
    assert told in said(tmp_path, ["verify", "-p", "storage", *words], *keys).stderr


def test_a_shard_does_not_speak_for_others(tmp_path: Path) -> None:
    for shard, command in product(("0/2", "1/2"), ("run", "verify")):
        stderr = said(tmp_path, [command, "-p", "storage", "--shard", shard], *LAKE).stderr
        assert ("no keys" in stderr, "no output" in stderr) == (False, False)


def test_what_could_not_be_listed_is_not_called_empty() -> None:
    found = Found({"a/", "b/"}, lambda _: True)
    found.add_failed(["a/deeper/"])
    assert found.empty == {"b/"}


async def test_what_cannot_be_listed_is_not_known_to_be_empty() -> None:
    store = MemoryStore(bucket_with(*LAKE))

    async def refuse(request: Request) -> None:
        if request.key == "secret/":
            raise AccessDenied("no right", key=request.key)

    store.before = refuse
    assert await find_empty(store, ["secret/", "storage/", "strange/"]) == ["strange/"]


@pytest.mark.parametrize(
    ("words", "type_this"),
    [
        (["-p", "/storage/events"], "-p storage/events"),
        (["-p", "storage/*/x.gz"], "-p storage --include 'storage/*/x.gz'"),
        (["s3://lake/storage/*.gz"], "-p storage --include 'storage/*.gz'"),
        (["-p", "a/2026/11/25", "-d", "today"], "-p a, or leave out --date"),
    ],
)
def test_a_prefix_under_which_nothing_can_be_is_refused(
    words: list[str], type_this: str, tmp_path: Path
) -> None:
    sight = said(tmp_path, ["run", *words], *LAKE)
    assert sight.code == 2
    assert type_this in sight.stderr
    assert sight.requests == []


@given(st.text(), st.lists(st.text(min_size=1), max_size=20))
def test_names_that_are_proposed_are_some_of_those_that_there_are(
    wanted: str, names: list[str]
) -> None:
    found = closest(wanted, names)
    assert set(found) <= set(names)
    assert len(found) == min(3, len(names))
