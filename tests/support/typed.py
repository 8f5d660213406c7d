"""The commands that a page of the docs tells its reader to type."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"


def commands(page: str, heading: str) -> list[str]:
    """Those of one section, in order: lines of its blocks, without the comments behind them."""
    text = (DOCS / page).read_text("utf-8")
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    joined = re.sub(r" \\\n +", " ", section)
    lines = re.findall(r"^ {4}(\S.*)$", joined, re.MULTILINE)
    return [re.sub(r"\s+# .*$", "", line) for line in lines]
