"""`coalesce config show`: what a run would be told, and by whom."""

from pathlib import Path
from typing import Any

import pytest

from coalesce.cli.request import OutputOptions, StoreOptions
from coalesce.settings import Settings
from support import lakes
from support.invoke import invoke


def shown(folder: Path, *words: str, lines: list[str] | None = None, **said: str) -> Any:
    variables = {f"COALESCE_{name}": text for name, text in said.items()}
    done = invoke(
        ["config", "show", "--output", "json", *words],
        {},
        variables=variables,
        lines=lines or [],
        folder=folder,
    )
    assert done.code == 0, done.stderr
    return {name: tuple(said.values()) for name, said in done.last["settings"].items()}


def test_every_setting_is_shown_though_nothing_is_said(tmp_path: Path) -> None:
    found = shown(tmp_path)
    for model in (Settings, StoreOptions, OutputOptions):
        assert {name.replace("_", "-") for name in model.model_fields} <= found.keys()
    assert found["bucket"] == (None, "default", ""), "a run would ask for it"
    assert found["max-files"] == (1_000_000, "default", "")
    assert {origin for _, origin, _ in found.values()} == {"default", "option"}


def test_each_value_has_its_origin(tmp_path: Path) -> None:
    found = shown(
        tmp_path,
        "s3://b/x",
        "-f",
        "3",
        "-a",
        lines=["min-files = 3", "dry-run = true", "files = 9", "multiprocessor = true"],
        SIZE="5MB",
        NO_CHECK="1",
        FILES="8",
        SHARDS="4",
    )
    assert found["bucket"] == ("b", "option", "s3://BUCKET/PREFIX")
    assert found["prefix"] == (["x"], "option", "s3://BUCKET/PREFIX")
    assert found["max-files"] == (3, "option", "--max-files")
    assert found["layout"] == ("manifest", "option", "--manifests")
    assert found["max-size"] == (5_000_000, "variable", "COALESCE_SIZE")
    assert found["check"] == (False, "variable", "COALESCE_NO_CHECK")
    assert found["min-files"] == (3, "file", "coalesce.toml")
    assert found["dry-run"] == (True, "file", "coalesce.toml")
    assert found["processes"] == (0, "file", "coalesce.toml")


def test_a_shard_may_be_the_schedulers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    found = shown(tmp_path, SHARDS="4")
    assert found["shard"] == ("2/4", "scheduler", "JOB_COMPLETION_INDEX")


def test_the_text_names_value_and_origin(tmp_path: Path) -> None:
    words = ["config", "show", "-b", "b", "-p", "x", "-p", "y"]
    done = invoke(words, {}, variables={"COALESCE_MEMORY": "64MiB"}, folder=tmp_path)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    table = {words[0]: words[1].strip() for words in lines if len(words) > 1}
    assert table["prefix"].split("  ")[0] == "x, y"
    assert table["memory"].split() == ["64MiB", "variable", "COALESCE_MEMORY"]
    assert table["check"].split() == ["true", "default"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_not_shown(form: str, tmp_path: Path) -> None:
    words = ["config", "show", "--output", form, "--ping-url", "https://hc.example/uuid-secret"]
    words += ["--endpoint-url", "http://user:secret@h:1"]
    done = invoke(words, {}, folder=tmp_path)
    assert (done.code, "secret" in done.stdout + done.stderr) == (0, False), done.stderr
    assert "http://h:1" in done.stdout
    assert "hc.example" in done.stdout


def test_what_a_run_would_refuse_is_refused(tmp_path: Path) -> None:
    done = invoke(["config", "show", "-f", "1"], {}, folder=tmp_path)
    assert (done.code, done.stdout) == (2, "")
    assert "--max-files must be at least 2" in done.stderr


def test_a_file_may_say_what_only_other_commands_take(tmp_path: Path) -> None:
    """Commands may share a file; `plan` is for `run` alone, and `json` is a file of `report`."""
    shared = ['json = "m.json"', 'html = "r.html"', 'plan = "p.jsonl"', "objects = 7"]
    words = ["recover", "-b", "b", "-p", "data"]
    done = invoke(words, {"b": lakes.lake()}, lines=shared, folder=tmp_path)
    assert (done.code, done.events) == (0, []), done.stderr
    done = invoke(["report"], {}, lines=shared, folder=tmp_path)
    assert "no report is named" in done.stderr
