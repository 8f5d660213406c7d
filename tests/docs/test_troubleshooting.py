"""Each message that docs/troubleshooting.md explains is one that the program can say."""

import ast
import re
from collections.abc import Iterator

import pytest

from support.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
LEAST = 8  # characters of a message that are always the same; fewer would fit anything


def texts_of(source: str) -> Iterator[str]:
    """Every text in a module as a pattern: what is filled in may be anything."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts: list[ast.expr] = [node]
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
        else:
            continue
        fixed = [str(part.value) if isinstance(part, ast.Constant) else "" for part in parts]
        pattern = "".join(pattern_of(text) if text else ".+" for text in fixed)
        if len(pattern.replace(".+", "").replace("\\", "")) >= LEAST:
            yield pattern


def pattern_of(text: str) -> str:
    """What a text with its own places to be filled in may become."""
    return re.sub(r"%[sd]|\\\{\w+\\\}", ".+", re.escape(text))


TEXTS = {
    text for module in (ROOT / "src").rglob("*.py") for text in texts_of(module.read_text("utf-8"))
}
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("| `")
]


def can_be_said(message: str) -> bool:
    return any(re.fullmatch(text, message) for text in TEXTS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`")[:50])
def test_an_explained_message_can_be_said(row: list[str]) -> None:
    messages = re.findall(r"`([^`]+)`", row[0])
    assert [message for message in messages if not can_be_said(message)] == []


def test_each_row_has_a_message_a_cause_and_what_to_do() -> None:
    assert len(ROWS) > 30
    assert [row for row in ROWS if len(row) != 3 or not all(row)] == []


def test_a_message_that_nobody_says_would_be_noticed() -> None:
    assert can_be_said("no keys under s3://lake/storage/eve/")
    assert not can_be_said("no key under s3://lake/storage/eve/")
    assert not can_be_said("anything at all")
