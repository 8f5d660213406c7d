"""Writes docs/ledger.schema.json from the models of the ledger: `make docs`. A test holds it
current.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coalesce.protocol.entry_reader import SOURCE_LINE, SourceLine
from coalesce.protocol.ledger import EntryHeader

PAGE = Path(__file__).parent.parent / "docs" / "ledger.schema.json"

# What differs from the first source is left out of a line where nothing does.
_OPTIONAL = 1


def schema() -> dict[str, Any]:
    """The schema of one line of an entry: its first is a header, each other one a source."""
    header = EntryHeader.model_json_schema(ref_template="#/$defs/{model}")
    line = SOURCE_LINE.json_schema(ref_template="#/$defs/{model}")
    shared = header.pop("$defs", {}) | line.pop("$defs", {})
    names = SourceLine._fields
    items = [{"title": name} | item for name, item in zip(names, line["prefixItems"], strict=True)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of an entry in coalesce's ledger",
        "oneOf": [{"$ref": "#/$defs/header"}, {"$ref": "#/$defs/source"}],
        "$defs": {
            "header": header,
            "source": {
                "description": "See docs/ledger.md. Later versions may add values at the end.",
                "type": "array",
                "prefixItems": items,
                "minItems": len(items) - _OPTIONAL,
            },
            **shared,
        },
    }


def render() -> str:
    """The file's text."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
