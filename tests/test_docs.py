"""What the pages refer to is there: other pages and their headings, make targets, modules."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from support.pages import Block, all_blocks

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not target.startswith("http") and (
            not there.exists() or (anchor and anchor not in anchors(there))
        ):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^ {4})make ([a-z][a-z-]*)", page.read_text("utf-8"), re.MULTILINE)
    assert set(named) <= targets


def test_the_list_of_make_targets_names_each_in_one_piece_with_what_it_does() -> None:
    done = subprocess.run(
        ["make", "--silent", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True
    )
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = dict(re.findall(r"^([a-z-]+):.*? ## (.*)$", makefile, re.MULTILINE))
    shown = dict(re.findall(r"^  ([a-z-]+)\s+(\S.*)$", done.stdout, re.MULTILINE))
    assert shown == targets
    lines = done.stdout.splitlines()
    assert (
        len({line.index(text) for text in targets.values() for line in lines if text in line}) == 1
    )


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_what_a_page_shows_as_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs/index.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text("utf-8"))
    }
    assert set(PAGES) - linked == {index}


def test_one_page_alone_speaks_of_what_came_before() -> None:
    """The others are for everybody; evidence may compare with it."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    speak = {page.name for page in pages if "the original" in page.read_text("utf-8").lower()}
    assert speak == {"migrating.md"}


def test_the_map_of_packages_names_their_modules() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    (block,) = re.findall(r"```\n(src/coalesce/.*?)```", text, re.DOTALL)
    package = ""
    named: dict[str, set[str]] = {}
    for line in block.splitlines()[1:]:
        if start := re.match(r"  (\w+)/ ", line):
            package = start[1]
        elif not line.startswith("    "):
            package = ""
        if package:
            rest = line.removeprefix(f"  {package}/")
            named.setdefault(package, set()).update(re.findall(r"\w+", rest))
    del named["cli"]  # "the command line"
    for package, names in named.items():
        modules = (ROOT / "src/coalesce" / package).glob("*")
        found = {m.stem for m in modules if m.suffix == ".py" or m.is_dir()}
        assert names == found - {"__init__", "__pycache__"}, package
