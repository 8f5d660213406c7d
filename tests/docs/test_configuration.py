"""The full file of docs/configuration.md has every name that there is, and none that there is not;
every file that a page shows is one.
"""

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from coalesce.cli.app import COMMANDS
from coalesce.cli.origins import file_spellings
from coalesce.cli.request import FILE_NAMES
from coalesce.storage.memory import MemoryBucket
from support.invoke import invoke
from support.pages import ROOT, Block, all_blocks

MADE: dict[str, Any] = runpy.run_path(str(ROOT / "ci" / "configuration.py"))
PAGE = (ROOT / "docs" / "configuration.md").read_text("utf-8")
FULL: list[str] = MADE["render"]().splitlines()
OF_OTHERS = next(n for n, line in enumerate(FULL) if line.startswith("# Of other commands"))
UNSET = [n for n, line in enumerate(FULL) if line.startswith("#") and not line.startswith("# ")]


def shown(lines: list[str], folder: Path) -> Any:
    """What `config show` says with such a file."""
    done = invoke(["config", "show", "--output", "json"], {}, lines=lines, folder=folder)
    assert done.code == 0, done.stderr
    return done.last["settings"]


def test_the_page_has_the_full_file_of_now() -> None:
    """If not: `make docs`."""
    assert MADE["written"](PAGE) == PAGE


def test_the_full_file_misses_no_name_and_invents_none() -> None:
    options = [option for command in COMMANDS.values() for option in command.options]
    known = [name.replace("_", "-") for name in file_spellings(options, FILE_NAMES)]
    assert sorted(MADE["names_in"](FULL)) == sorted(known)


def test_the_full_file_says_what_holds_without_it(tmp_path: Path) -> None:
    found, usual = shown(FULL, tmp_path), shown([], tmp_path)
    values = {name: setting["value"] for name, setting in found.items()}
    place = {"bucket": "my-bucket", "prefix": ["storage/events"]}
    assert values == {name: setting["value"] for name, setting in usual.items()} | place
    unset = {
        "max-groups",
        "max-bytes",
        "max-delete",
        "deadline",
        "grow",
        "layouts",
        "max-objects",
        "max-path-list",
    }
    assert {n for n, s in found.items() if s["origin"] != "file"} == unset | {"output"}


@pytest.mark.parametrize("command", ["plan", "run", "recover", "policy", "generate --objects 2"])
def test_commands_may_share_the_full_file(command: str, tmp_path: Path) -> None:
    done = invoke(command.split(), {"my-bucket": MemoryBucket()}, lines=FULL, folder=tmp_path)
    assert done.code == 0, done.stderr


@pytest.mark.parametrize("at", UNSET, ids=lambda at: FULL[at].partition(" ")[0].strip("#"))
def test_a_line_that_is_out_of_use_can_be_put_to_use(at: int, tmp_path: Path) -> None:
    used = FULL[at].removeprefix("#")
    others = FULL
    if used.startswith(("max-objects", "max-path-list")):  # they say how large outputs are
        others = ["" if line.startswith("max-size") else line for line in FULL]
    found = shown([*others[:at], used, *others[at + 1 :]], tmp_path)
    if at < OF_OTHERS:
        (name,) = tomllib.loads(used)
        assert (found[name]["origin"], bool(found[name]["value"])) == ("file", True)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_a_file_that_a_page_shows_is_understood(block: Block, tmp_path: Path) -> None:
    assert {s["origin"] for s in shown(block.text.splitlines(), tmp_path).values()} > {"file"}
