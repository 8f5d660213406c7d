"""The pages of the documentation, and what they tell a reader to type.

What stands indented on a page, or in a fence of `sh`, is typed as it stands. Everything else that
is set apart is fenced, with its language.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
EVIDENCE = sorted((ROOT / "docs" / "evidence").glob("*.md"))
"""What was measured, and how: a reader looks these commands up, and types few of them."""

_FENCE = re.compile(r" *```(\S*)")
_PROGRAM = frozenset({"coalesce", ".venv/bin/coalesce", "coalesce:local"})


def name_of(page: Path) -> str:
    """A page as it is named in messages."""
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """What is set apart on a page; `line` is that of its first line, counted from 1."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its command lines, each with the lines that continue it."""
        joined = self.text.replace("\\\n", " ")
        lines = (line.strip() for line in joined.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: Path) -> Iterator[Block]:
    """Everything that is set apart on a page, in order."""
    lines, at = page.read_text("utf-8").splitlines(), 0
    while at < len(lines):
        begin = at
        if fence := _FENCE.fullmatch(lines[at]):
            at = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            text = dedent("\n".join(lines[begin + 1 : at]))
            yield Block(name_of(page), begin + 2, fence[1], text)
        elif lines[at].startswith("    ") and (not at or not lines[at - 1].strip()):
            while at < len(lines) and (not lines[at].strip() or lines[at].startswith("    ")):
                at += 1
            yield Block(name_of(page), begin + 1, "sh", dedent("\n".join(lines[begin:at])).strip())
        at += 1


def all_blocks(language: str) -> list[Block]:
    """The blocks of all pages in this language."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def calls_in(line: str) -> list[list[str]]:
    """The words behind each `coalesce` of a command line; what it is wrapped in is left out."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    calls: list[list[str]] = []
    call: list[str] | None = None
    before = ""
    for word in words:
        if set(word) <= set("|&;<>()"):
            call = None
        elif call is not None:
            call.append(word)
        elif word in _PROGRAM and before != "-n":  # the namespace of kubectl
            call = []
            calls.append(call)
        before = word
    return calls


def named_calls(page: Path) -> list[str]:
    """What a page names in its text as something to type: `coalesce recover` and the like."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    spans = re.findall(r"`(coalesce -?[a-z][^`]*)`", " ".join(text.split()))
    return list(dict.fromkeys(span.replace("\\|", "|") for span in spans))
