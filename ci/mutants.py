"""Removes one guard of the program at a time, and demands that a test notices: `make mutants`.

The guards are listed in `mutants.toml` and in `mutants/*.toml`: each with its text, what stands
there without it, and the tests that must fail then. The tree is copied, so nothing here is touched.
The lists cannot rot: a text that does not occur exactly once is an error, and so is a test that
fails with all guards in place. A list may also name `equivalent` changes, which nobody can notice,
and why: these are only counted.

Tests run in forks of this process, which has imported what they need besides the program: that
takes longer than most of them.
"""

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTS = Path(__file__).parent
FOLDERS = ("src", "tests", "ci", "docs", "deploy")
FILES = ("pyproject.toml", "README.md", "Makefile")

# What takes long to import. Nothing of the program: each fork imports its own.
IMPORTED = (
    "aiobotocore.session",
    "aiohttp.web",
    "awscrt.checksums",
    "hypothesis.stateful",
    "isal.isal_zlib",
    "pydantic",
    "typer.testing",
)

# Tests that never end without a guard have noticed it: with all guards in place they end.
_MUTANT_SECONDS = 120
_TEST_SECONDS = 60
_BASELINE_SECONDS = 3600
_POLL_SECONDS = 0.02

_TOO_LONG = -1


@dataclass(frozen=True)
class Mutant:
    """The program without one guard.

    `tests` are pytest's names of files or tests, without the folder.
    """

    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Mutant":
        """Takes an entry of a list; what else it says is for its readers."""
        guard, file = entry["guard"], entry["file"]
        return cls(guard, file, entry["old"], entry["new"], tuple(entry["tests"]))

    def find_fault(self) -> str:
        """Says why this mutant cannot be made; nothing if it can."""
        if not self.tests:
            return f"{self.guard}: it names no test"
        times = (ROOT / "src/coalesce" / self.file).read_text().count(self.old)
        return "" if times == 1 else f"{self.guard}: its text occurs {times} times in {self.file}"


@dataclass
class Run:
    """Some tests in one tree; `mutant` is None for the program as it is."""

    tests: Sequence[str]
    seconds: float
    mutant: Mutant | None = None
    code: int = 0
    output: str = ""
    took: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> list[str]:
        """The tests that failed, as pytest names them."""
        return re.findall(r"^(?:FAILED|ERROR) tests/(.*?)(?: - .*)?$", self.output, re.MULTILINE)


def load_lists(words: Sequence[str]) -> tuple[list[Mutant], list[dict[str, Any]]]:
    """Reads all lists. Returns the mutants whose guards have all these words, and the changes that
    nobody can notice.
    """
    mutants: list[Mutant] = []
    equivalents: list[dict[str, Any]] = []
    for path in (LISTS / "mutants.toml", *sorted((LISTS / "mutants").glob("*.toml"))):
        found = tomllib.loads(path.read_text())
        mutants += map(Mutant.of, found.get("mutant", ()))
        equivalents += found.get("equivalent", ())
    return [m for m in mutants if all(word in m.guard for word in words)], equivalents


def copy_tree(to: Path) -> Path:
    """Copies what the tests need."""
    for name in FOLDERS:
        if (ROOT / name).exists():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, to)
    return to


def run_here(tree: Path, run: Run, output: int) -> int:
    """Runs tests in this process, which nothing else is done in. Returns pytest's exit code."""
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree / "src")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(tree / ".hypothesis")
    if run.mutant is not None:
        # Bytecode is told apart by the second: that of one mutant would be taken for the next's.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree / "src"))
    options = ["-q", "-p", "no:cacheprovider", "--timeout", str(_TEST_SECONDS)]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += ["-x"] if run.mutant is not None else []
    tests = [test if test.startswith("-") else f"tests/{test}" for test in run.tests]
    return int(pytest.main([*options, *tests]))


def start(tree: Path, run: Run) -> int:
    """Starts a run in a fork. Returns the fork's process id."""
    run.begun = time.monotonic()
    if run.mutant is not None:
        path = tree / "src/coalesce" / run.mutant.file
        shutil.copy2(path, tree / "unchanged")
        path.write_text(path.read_text().replace(run.mutant.old, run.mutant.new))
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = _TOO_LONG
    try:
        with (tree / "output").open("wb") as output:
            code = run_here(tree, run, output.fileno())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def end_if_over(tree: Path, run: Run, pid: int) -> bool:
    """Returns whether a fork has ended, or has been ended since it took too long."""
    found, status = os.waitpid(pid, os.WNOHANG)
    run.took = time.monotonic() - run.begun
    if not found and run.took <= run.seconds:
        return False
    with suppress(ProcessLookupError):  # what the tests have left running goes too
        os.killpg(pid, signal.SIGKILL)
    if not found:
        os.waitpid(pid, 0)
    run.code = os.waitstatus_to_exitcode(status) if found else _TOO_LONG
    run.output = (tree / "output").read_text(errors="replace")
    if run.mutant is not None:
        # With its old time: the bytecode of the unchanged file is right again.
        shutil.copy2(tree / "unchanged", tree / "src/coalesce" / run.mutant.file)
    return True


def run_all(runs: Iterable[Run], trees: Sequence[Path], on_end: Callable[[Run], None]) -> None:
    """Runs all of them, one at a time in each tree."""
    todo, free = deque(runs), list(trees)
    busy: dict[int, tuple[Path, Run]] = {}
    while todo or busy:
        while todo and free:
            tree, run = free.pop(), todo.popleft()
            busy[start(tree, run)] = tree, run
        for pid, (tree, run) in list(busy.items()):
            if end_if_over(tree, run, pid):
                del busy[pid]
                free.append(tree)
                on_end(run)
        time.sleep(_POLL_SECONDS)


def plan_baseline(mutants: Sequence[Mutant], jobs: int) -> list[Run]:
    """Plans each test that is named once: only a test that passes with all guards in place tells
    anything by its failing.
    """
    plain = {test for m in mutants if not _has_options(m) for test in m.tests}
    whole = {test for test in plain if "::" not in test}
    single = sorted(test for test in plain - whole if test.partition("::")[0] not in whole)
    named = [*sorted(whole), *single]
    shares = [named[n::jobs] for n in range(jobs)]
    odd = sorted({m.tests for m in mutants if _has_options(m)})
    return [Run(tests, _BASELINE_SECONDS) for tests in (*shares, *odd) if tests]


def _has_options(mutant: Mutant) -> bool:
    return any(test.startswith("-") for test in mutant.tests)


def main() -> int:
    """Returns the exit code: 0 if every mutant was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guards", nargs="*", help="words of the guards to try; all without them")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--trust", action="store_true", help="do not run the tests unchanged first")
    arguments = parser.parse_args()
    mutants, equivalents = load_lists(arguments.guards)
    faults = [fault for mutant in mutants if (fault := mutant.find_fault())]
    if faults:
        print(*faults, sep="\n")
        return 1
    for name in IMPORTED:
        importlib.import_module(name)
    survivors: list[Mutant] = []

    def report(run: Run) -> None:
        assert run.mutant is not None
        word = {0: "SURVIVED", 1: "killed", _TOO_LONG: "killed"}.get(run.code, "NOT TRIED")
        by = run.failed[:1] or ([run.output[-800:] or "no end"] if run.code else run.tests)
        print(f"{word:9} {run.took:5.1f}s  {run.mutant.guard}  <- {' '.join(by)}", flush=True)
        if word != "killed":
            survivors.append(run.mutant)

    broken: list[str] = []

    def check(run: Run) -> None:
        if run.code:
            broken.extend(run.failed or [run.output[-2000:] or f"not over in {run.seconds:g} s"])

    with tempfile.TemporaryDirectory() as folder:
        trees = [copy_tree(Path(folder) / str(job)) for job in range(arguments.jobs)]
        if not arguments.trust:
            run_all(plan_baseline(mutants, arguments.jobs), trees, check)
        if broken:
            print(*(f"with all guards in place: {each}" for each in broken), sep="\n")
            return 1
        run_all((Run(m.tests, _MUTANT_SECONDS, m) for m in mutants), trees, report)
    for each in equivalents:
        print(f"no effect  {each.get('guard') or each.get('id', '')}: {each.get('why', '')}")
    killed = len(mutants) - len(survivors)
    print(f"{len(mutants)} mutants, {killed} killed; {len(equivalents)} changes without effect")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
