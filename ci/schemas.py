"""Writes docs/report.schema.json and docs/events.schema.json from the types of the program: `make
docs`. A test holds them current.

Other programs rely on them. A field that a written schema promises and the program no longer gives
is refused: it takes another number of the schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from coalesce.inspect.status import Status
from coalesce.inspect.verify import Verification
from coalesce.report.events import Event, VerifiedEvent
from coalesce.report.merging import MergedReport
from coalesce.report.report import Report

DOCS = Path(__file__).parent.parent / "docs"
REPORT = DOCS / "report.schema.json"
EVENTS = DOCS / "events.schema.json"

Schema = dict[str, Any]


class _Always(GenerateJsonSchema):
    """All fields are there always, so that no default is needed, and each is called by its name."""

    def default_schema(self, schema: Any) -> Schema:
        return self.generate_inner(schema["schema"])

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema_of(name: str, says: str, kind: Any) -> Schema:
    made = TypeAdapter(kind).json_schema(mode="serialization", schema_generator=_Always)
    for part in made["$defs"].values():
        if part.get("additionalProperties") is False:
            del part["additionalProperties"]
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:coalesce:{name}:1",
        "description": f"{says} Later versions may add fields, and values of texts.",
        **made,
    }


def report() -> Schema:
    """What `--report` writes, and `coalesce report --json`."""
    return _schema_of(
        "report", "The report of a run, or of many that were merged.", MergedReport | Report
    )


def events() -> Schema:
    """What `--output json` prints, line by line."""
    kinds = Event | VerifiedEvent | Report | Verification | Status
    return _schema_of(
        "events",
        "A line that run, plan, recover, verify or status prints with --output json.",
        Annotated[kinds, Field(discriminator="type")],
    )


def fields_of(schema: Schema) -> dict[str, str]:
    """Every field that a schema promises, by its path, with the kinds of its values."""
    found: dict[str, str] = {}

    def resolved(node: Schema) -> Schema:
        return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    def visit(node: Schema, path: str) -> None:
        node = resolved(node)
        choices = [resolved(choice) for choice in node.get("oneOf", node.get("anyOf", ()))]
        for choice in choices:
            for name in _names_of(choice) if "properties" in choice else ():
                visit(choice, f"{path}{name}")
        kinds = {str(choice.get("type", "any")) for choice in choices or [node]}
        found[path] = " or ".join(sorted(kinds))
        for name, inner in node.get("properties", {}).items():
            visit(inner, f"{path}.{name}")
        if "items" in node:
            visit(node["items"], f"{path}[]")
        if isinstance(node.get("additionalProperties"), dict):
            visit(node["additionalProperties"], f"{path}.*")

    visit(schema, "")
    return found


def _names_of(choice: Schema) -> list[str]:
    """What an object is told from others by: its constants, such as `output`, in one text for each
    way to choose them.
    """
    constants = [
        kind.get("enum", [kind.get("const")])
        for kind in choice["properties"].values()
        if "enum" in kind or "const" in kind
    ]
    return [" ".join(map(str, values)) for values in product(*constants)]


def broken(before: Schema, now: Schema) -> list[str]:
    """What the schema from before promises and this one does not, if they have one number."""
    if before["$id"] != now["$id"]:
        return []
    kept = fields_of(now)
    return [path for path, kind in fields_of(before).items() if kept.get(path) != kind]


WRITTEN: dict[Path, Callable[[], Schema]] = {REPORT: report, EVENTS: events}


def text_of(schema: Schema) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=1) + "\n"


def main() -> None:
    """Writes both; exits with 1 if one of them would break a promise."""
    for path, make in WRITTEN.items():
        schema = make()
        if path.exists() and (gone := broken(json.loads(path.read_text("utf-8")), schema)):
            sys.exit(
                f"{path.name} promises what the program no longer gives: {', '.join(gone)}. Keep"
                " it, or give the schema another number here and in the program."
            )
        path.write_text(text_of(schema), encoding="utf-8")


if __name__ == "__main__":
    main()
