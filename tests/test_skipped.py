"""`make bootstrap` says which checks this machine cannot make."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
MADE = runpy.run_path(str(ROOT / "ci" / "skipped.py"))
CHECKS, skipped = MADE["CHECKS"], MADE["skipped"]
ALWAYS = {"sh", "bash", "python3"}


def test_every_tool_that_a_test_looks_for_is_named() -> None:
    """A test that is skipped without it would be so without a word."""
    looked_for: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text("utf-8")
        looked_for |= set(re.findall(r"which\(\s*\"([\w-]+)\"", text))
        for names in re.findall(r"map\(shutil\.which, \(([^)]*)\)", text):
            looked_for |= set(re.findall(r"\"([\w-]+)\"", names))
    assert len(looked_for) > 10
    assert looked_for - {tool for tools in CHECKS for tool in tools} - ALWAYS == set()


def test_what_is_there_is_not_named_and_one_of_several_tools_is_enough() -> None:
    all_of_them = skipped(lambda _: None)
    assert len(all_of_them) == len(CHECKS)
    (tools, (what, where)) = next((t, said) for t, said in CHECKS.items() if len(t) > 1)
    without = skipped(lambda tool: tool == tools[-1])
    assert len(without) == len(all_of_them) - 1
    assert not any(what in line for line in without)
    assert any(what in line and where in line and tools[0] in line for line in all_of_them)
    assert skipped(lambda _: "/usr/bin/tool") == []
