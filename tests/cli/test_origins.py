"""The command line goes before the environment, the environment before the file, the file before
what a scheduler says; what none of them says has its default.
"""

from itertools import combinations
from pathlib import Path

import pytest

from coalesce.cli.app import COMMANDS
from coalesce.cli.options import Values
from coalesce.cli.origins import (
    check_variables,
    file_spellings,
    gather,
    read_environment,
    read_file,
    read_scheduler,
)
from coalesce.cli.request import FILE_NAMES, Request
from coalesce.errors import UsageError

RUN = list(COMMANDS["run"].options)
SPELLINGS = file_spellings(RUN, FILE_NAMES)
PLACE = {"bucket": "b", "prefix": ["p"]}
ORIGINS: dict[str, Values] = {
    "typed": {"max_files": "3", "shard": "3/9"},
    "environment": {"max_files": "4", "shard": "4/9"},
    "file": {"max_files": 5, "shard": "5/9"},
    "scheduler": {"shard": "6/9"},
}


def environment(**variables: str) -> Values:
    return read_environment(RUN, {f"COALESCE_{name}": text for name, text in variables.items()})


@pytest.mark.parametrize(
    "said", [said for n in range(5) for said in combinations(ORIGINS, n)], ids="+".join
)
def test_the_first_origin_that_says_something_counts(said: tuple[str, ...]) -> None:
    typed, variables, file, scheduler = (
        values if name in said else {} for name, values in ORIGINS.items()
    )
    chosen = Request.of(gather({**PLACE, **typed}, variables, file, scheduler)).settings
    shards = [values["shard"] for name, values in ORIGINS.items() if name in said]
    files = [v["max_files"] for name, v in ORIGINS.items() if name in said and "max_files" in v]
    assert str(chosen.shard) == (shards[0] if shards else "0/1")
    assert chosen.max_files == (int(files[0]) if files else 1_000_000)  # type: ignore[call-overload]


def test_nothing_that_is_given_is_changed() -> None:
    typed = {"targets": ["s3://b/x"], "prefix": ["p"], "manifests": True}
    before = {name: list(v) if isinstance(v, list) else v for name, v in typed.items()}
    gather(typed, {}, {}, {})
    assert typed == before


@pytest.mark.parametrize(
    ("said", "setting", "value"),
    [
        ({"manifests": True}, "layout", "manifest"),
        ({"multiprocessor": True}, "processes", 0),
        ({"no_delete": True}, "delete", False),
    ],
)
def test_options_that_stand_for_others_go_before_what_a_later_origin_says(
    said: Values, setting: str, value: object
) -> None:
    other: Values = {"layout": "corporate", "processes": 3, "delete": True}
    assert gather(said, other, {}, {})[setting] == value
    assert gather({}, said, other, {})[setting] == value
    assert gather(other, said, {}, {})[setting] == other[setting], "typed goes before"
    off = dict.fromkeys(said, False)
    assert setting not in gather(off, {}, {}, {}), "switched off it says nothing"


def test_targets_are_bucket_and_prefix() -> None:
    typed = {"targets": ["s3://b/x", "s3://b/y/z/"], "prefix": ["w"]}
    found = gather(typed, {"bucket": "other", "prefix": ["v"]}, {"prefix": ["u"]}, {})
    assert found == {"bucket": "b", "prefix": ["w", "x", "y/z/"]}


@pytest.mark.parametrize(
    ("target", "said", "hint"),
    [
        ("lake", "'lake' is not an s3:// URL", "Write s3://lake/PREFIX."),
        ("lake/data", "'lake/data' is not an s3:// URL", "Write s3://lake/data."),
        ("", "'' is not an s3:// URL", "Write s3://BUCKET/PREFIX."),
        ("s3://other/x", "'s3://other/x' is not in the bucket 'b'", "One command works in one"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        gather({"bucket": "b", "targets": [target]}, {}, {}, {})
    assert raised.value.message == said
    assert raised.value.hint.startswith(hint)


def test_variables_are_read_as_options_are_typed() -> None:
    assert environment(
        PREFIX="a b/c",
        DATE_TO_ADD="today",
        MAX_SIZE="5MB",
        QUIET="yes",
        NO_DELETE="0",
        TOPIC="",
        UNKNOWN="x",
    ) == {
        "prefix": ["a", "b/c"],
        "date": "today",
        "max_size": "5MB",
        "quiet": True,
        "no_delete": False,
    }


def test_a_variable_that_switches_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(UsageError, match="COALESCE_QUIET 'maybe': neither true nor false"):
        environment(QUIET="maybe")


def test_a_scheduler_needs_both_its_variables() -> None:
    assert read_scheduler({"AWS_BATCH_JOB_ARRAY_INDEX": "1"}) == {}
    assert read_scheduler({"JOB_COMPLETION_INDEX": "1", "COALESCE_SHARDS": "4"}) == {"shard": "1/4"}


def test_the_default_file_need_not_exist_but_a_named_one_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_file(None, SPELLINGS) == {}
    (tmp_path / "coalesce.toml").write_text('max-size = "5MB"\n')
    assert read_file(None, SPELLINGS) == {"max_size": "5MB"}
    with pytest.raises(UsageError, match=r"'none\.toml': No such file or directory"):
        read_file("none.toml", SPELLINGS)


def test_names_that_a_file_may_not_set_are_named(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('buckt = "b"\nconfig = "d.toml"\nquiet = true\n')
    with pytest.raises(UsageError, match="buckt, config"):
        read_file(str(config), SPELLINGS)


def test_every_long_name_of_an_option_is_a_variable_and_a_name_in_a_file(tmp_path: Path) -> None:
    assert environment(DATE="today", FILES="3", SIZE="1MB", THREADS="5") == {
        "date": "today",
        "max_files": "3",
        "max_size": "1MB",
        "concurrency": "5",
    }
    assert environment(NO_CHECK="1", NO_LEDGER="false") == {"check": False, "ledger": True}
    assert environment(FILES="3", MAX_FILES="4") == {"max_files": "4"}, "the first name counts"
    config = tmp_path / "c.toml"
    config.write_text(
        'date-to-add = "today"\nfiles = 3\nsize = "1MB"\nthreads = 5\nno-check = true\n'
        "no-delete = true\nmanifests = true\nmultiprocessor = true\n"
    )
    assert gather({}, {}, read_file(str(config), SPELLINGS), {}) == {
        "date": "today",
        "max_files": 3,
        "max_size": "1MB",
        "concurrency": 5,
        "check": False,
        "delete": False,
        "layout": "manifest",
        "processes": 0,
    }


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        (
            "COALESCE_MAX_FILE",
            "unknown variable COALESCE_MAX_FILE; did you mean COALESCE_MAX_FILES",
        ),
        ("COALESCE_X", "unknown variable COALESCE_X$"),
    ],
)
def test_a_variable_that_no_command_knows_is_refused(variable: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_variables(RUN, {variable: "1"})
    check_variables(RUN, {variable: "", "COALESCE_SHARDS": "4", "COALESCE_FILES": "3", "X": "y"})
