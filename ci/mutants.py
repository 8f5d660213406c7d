"""Removes one guard of the program at a time, and demands that a test notices: `make mutants`.

The guards stand in `mutants.toml`: each with its text, what stands there without it, and the tests
that must fail then. The tree is copied, so nothing here is touched. The list cannot rot: a text
that does not occur exactly once is an error, and so is a test that fails with all guards in place.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")

# pytest's exit code; any other than this and 0 says that the tests could not be run
_TESTS_FAILED = 1
_SECONDS = 300
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
    tests: list[str]

    def rotten(self) -> str:
        """Why this mutant cannot be made, or nothing."""
        times = (ROOT / "src/coalesce" / self.file).read_text().count(self.old)
        return "" if times == 1 else f"{self.guard}: its text occurs {times} times in {self.file}"


def copied(to: Path) -> Path:
    """A tree of its own to work on."""
    for folder in ("src", "tests", "ci"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


def tested(tree: Path, tests: list[str], *more: str) -> tuple[int, str]:
    """(pytest's exit code, the first test that failed)."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "30",
        *more,
        *(f"tests/{test}" for test in tests),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tree / ".hypothesis"),
    }
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return _TOO_LONG, f"not over after {_SECONDS} s"
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else done.stdout[-400:] + done.stderr[
        -400:
    ] if done.returncode else ""


def passes(tests: list[str], trees: SimpleQueue[Path]) -> bool:
    """Whether these tests pass with all guards in place: only then does their failing tell
    anything.
    """
    tree = trees.get()
    try:
        code, failed = tested(tree, tests)
    finally:
        trees.put(tree)
    if code:
        print(f"with all guards in place: {failed}", flush=True)
    return code == 0


def tried(mutant: Mutant, trees: SimpleQueue[Path]) -> bool:
    """Whether a test noticed. Says which."""
    begun = time.monotonic()
    tree = trees.get()
    path = tree / "src/coalesce" / mutant.file
    text = path.read_text()
    try:
        path.write_text(text.replace(mutant.old, mutant.new))
        code, failed = tested(tree, mutant.tests)
    finally:
        path.write_text(text)
        trees.put(tree)
    word = {0: "SURVIVED", _TESTS_FAILED: "killed"}.get(code, "NOT TRIED")
    print(
        f"{word:9} {time.monotonic() - begun:5.1f}s  {mutant.guard}  "
        f"<- {failed or ' '.join(mutant.tests)}",
        flush=True,
    )
    return code == _TESTS_FAILED


def main() -> int:
    """The exit code: 0 if every mutant was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guards", nargs="*", help="words of the guards to try; all without them")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    arguments = parser.parse_args()
    mutants = [Mutant(**entry) for entry in tomllib.loads(LIST.read_text())["mutant"]]
    mutants = [
        mutant for mutant in mutants if all(word in mutant.guard for word in arguments.guards)
    ]
    rotten = [reason for mutant in mutants if (reason := mutant.rotten())]
    if rotten:
        print(*rotten, sep="\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for job in range(arguments.jobs):
            trees.put(copied(Path(folder) / str(job)))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            if not all(
                pool.map(
                    lambda tests: passes(list(tests), trees),
                    sorted({tuple(mutant.tests) for mutant in mutants}),
                )
            ):
                return 1
            killed = sum(pool.map(lambda mutant: tried(mutant, trees), mutants))
    print(f"{len(mutants)} mutants, {killed} killed")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
