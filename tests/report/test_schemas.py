"""The JSON schemas in the docs: current, never with less than before, and true of what the commands
print.
"""

import json
import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from coalesce.cli.progress import Pace
from coalesce.model import Why
from coalesce.report.account import Phase
from coalesce.report.report import Report
from coalesce.storage.memory import MemoryBucket
from support import lakes
from support.invoke import invoke

ROOT = Path(__file__).parent.parent.parent
MADE = runpy.run_path(str(ROOT / "ci" / "schemas.py"))
WRITTEN, broken = MADE["WRITTEN"], MADE["broken"]
REPORT, EVENTS = (json.loads(path.read_text("utf-8")) for path in WRITTEN)
PAGE = (ROOT / "docs" / "report.md").read_text("utf-8")

Schema = dict[str, Any]


def validate(line: dict[str, Any], schema: Schema) -> None:
    Draft202012Validator(schema).validate(line)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_is_made_from_the_types_is_current(path: Path) -> None:
    """If not: `make docs`."""
    assert path.read_text("utf-8") == MADE["text_of"](WRITTEN[path]())


@pytest.mark.parametrize("schema", [REPORT, EVENTS], ids=["report", "events"])
def test_it_is_a_schema(schema: Schema) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_no_field_that_was_promised_is_gone(path: Path) -> None:
    assert broken(json.loads(path.read_text("utf-8")), WRITTEN[path]()) == []


def parts_of(node: Any) -> list[Schema]:
    """Every part of a schema that names fields."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    found = [part for each in inner for part in parts_of(each)]
    return [node, *found] if isinstance(node, dict) and "properties" in node else found


@pytest.mark.parametrize("schema", [REPORT, EVENTS], ids=["report", "events"])
def test_a_field_that_is_taken_away_or_holds_something_else_is_noticed(schema: Schema) -> None:
    """Any of them. A schema of another number may promise what it likes."""
    places = [(n, name) for n, part in enumerate(parts_of(schema)) for name in part["properties"]]
    assert len(places) > 100
    for instead in ({}, {"type": "null"}):
        for number, name in places:
            changed = json.loads(json.dumps(schema))
            fields = parts_of(changed)[number]["properties"]
            del fields[name]
            fields |= {name: instead} if instead else {}
            assert any(path.endswith(f".{name}") for path in broken(schema, changed)), name
            assert broken(schema, changed | {"$id": "urn:coalesce:report:2"}) == []


def test_a_field_may_be_added() -> None:
    changed = json.loads(json.dumps(REPORT))
    for part in parts_of(changed):
        part["properties"]["new"] = {"type": "integer"}
    assert broken(REPORT, changed) == []


LINES: list[tuple[Sequence[str], Callable[[], MemoryBucket], set[str]]] = [
    (["run", "-v", "--min-age", "2h"], lakes.lake, {"left", "summary"}),
    (["run", "-v", "--min-age", "0"], lakes.spoilt, {"output", "left", "failure", "summary"}),
    (["run", "--min-age", "0", "--no-check"], lakes.lake, {"output", "summary"}),
    (["run", "--min-age", "0"], lakes.unfinished, {"output", "summary"}),
    (["run", "--min-age", "0"], lakes.empty, {"empty", "summary"}),
    (["run", "--min-age", "0", "--layout", "manifest"], lakes.spoilt, {"unparsed", "summary"}),
    (["run", "--min-age", "0", "-n", "77"], lakes.lake, {"unmatched", "summary"}),
    (["run", "--min-age", "0", "--max-groups", "1"], lakes.lake, {"output", "summary"}),
    (["plan", "--min-age", "0"], lakes.lake, {"planned", "summary"}),
    (["recover"], lakes.unfinished, {"output", "summary"}),
    (["verify", "--deep"], lakes.joined, {"verified", "verify"}),
    (["verify"], lakes.joined, {"verified", "verify"}),
    (["verify", "--deep"], lakes.damaged, {"verified", "failure", "verify"}),
    (["verify"], lakes.empty, {"verify"}),
    (["status", "--min-age", "0"], lakes.lake, {"status"}),
    (["status", "--min-age", "0"], lakes.unfinished, {"status"}),
    (["status", "--min-age", "0"], lakes.empty, {"status"}),
]


@pytest.mark.parametrize(("words", "fill", "types"), LINES)
def test_every_line_is_as_the_schema_says(
    words: Sequence[str],
    fill: Callable[[], MemoryBucket],
    types: set[str],
    tmp_path: Path,
) -> None:
    command = [*words, "-b", "b", "-p", "data", "--output", "json"]
    sight = invoke(command, {"b": fill()}, folder=tmp_path)
    assert {line["type"] for line in sight.events} >= types
    for line in sight.events:
        validate(line, EVENTS)
        if line["type"] == "summary":
            validate(line, REPORT)


def test_a_report_in_a_file_and_many_that_are_merged_are_as_the_schema_says(tmp_path: Path) -> None:
    for name, bucket in (("a", lakes.lake()), ("b", lakes.spoilt())):
        words = ["run", "-b", "b", "-p", "data", "--min-age", "0", "--report", f"{name}.json"]
        invoke(words, {"b": bucket}, folder=tmp_path)
        validate(json.loads((tmp_path / f"{name}.json").read_text()), REPORT)
    invoke(["report", "a.json", "b.json", "--json", "m.json"], {}, folder=tmp_path)
    merged = json.loads((tmp_path / "m.json").read_text())
    validate(merged, REPORT)
    merged["runs"][0].pop("run_id")
    with pytest.raises(ValidationError):
        validate(merged, {**REPORT, "anyOf": [{"$ref": "#/$defs/MergedReport"}]})


class Night:
    """A run that is watched."""

    def __init__(self, report: Report, phase: Phase) -> None:
        self.report, self.phase, self.all_listed = report, phase, True


@pytest.mark.parametrize("phase", Phase)
def test_progress_is_as_the_schema_says(phase: Phase, tmp_path: Path) -> None:
    words = ["plan", "-b", "b", "-p", "data", "--min-age", "0", "--output", "json"]
    report = Report.model_validate(invoke(words, {"b": lakes.lake()}, folder=tmp_path).last)
    line = json.loads(json.dumps(Pace().look(Night(report, phase), 1.0).as_event()))
    validate(line, EVENTS)
    assert f"`{phase.value}`" in PAGE


@pytest.mark.parametrize("type_", ["output", "summary", "verified"])
def test_a_line_that_lacks_a_field_is_refused_and_one_with_more_is_not(
    type_: str, tmp_path: Path
) -> None:
    command = ["verify"] if type_ == "verified" else ["run", "--min-age", "0"]
    bucket = lakes.joined() if type_ == "verified" else lakes.lake()
    words = [*command, "-b", "b", "-p", "data", "--output", "json"]
    lines = invoke(words, {"b": bucket}, folder=tmp_path).events
    line = next(line for line in lines if line["type"] == type_)
    validate(line | {"a field of a later version": 1}, EVENTS)
    for name in line:
        with pytest.raises(ValidationError):
            validate({key: value for key, value in line.items() if key != name}, EVENTS)


def test_the_page_names_every_field_type_and_reason() -> None:
    named = set(re.findall(r"`([\w.]+)`", PAGE)) | set(re.findall(r"`\w+\.(\w+)`", PAGE))
    events = {name for part in parts_of(EVENTS) for name in _types_of(part)}
    fields = {name for part in parts_of(REPORT) for name in part["properties"]}
    of_events = {
        name
        for title, part in EVENTS["$defs"].items()
        if title.endswith("Event")
        for name in part["properties"]
    }
    assert (events | fields | of_events | set(Why)) - named == set()


def _types_of(part: Schema) -> list[str]:
    kind = part["properties"].get("type", {})
    return kind.get("enum", [kind["const"]] if "const" in kind else [])
