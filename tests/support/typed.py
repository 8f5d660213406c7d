"""What a page of the docs tells its reader to type."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


def blocks(page: str, heading: str) -> list[str]:
    """The indented blocks of one section, in order, without their indentation."""
    text = (DOCS / page).read_text("utf-8")
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^ {4}.*\n)+", section, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]


def commands(page: str, heading: str) -> list[str]:
    """The lines of a section's first block, without the comments behind them; one that goes on in
    the next line is one.
    """
    joined = re.sub(r" \\\n +", " ", blocks(page, heading)[0])
    return [re.sub(r"\s+# .*$", "", line) for line in joined.splitlines()]
