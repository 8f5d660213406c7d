"""The package as a user installs it: a wheel, in an environment with nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coalesce import __version__

ROOT = Path(__file__).parent.parent.parent
UV = ROOT / ".tools" / "bin" / "uv"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, from a wheel that `make wheel` has built."""
    folder = tmp_path_factory.mktemp("wheel")
    made = ["make", "--silent", "-C", str(ROOT), "wheel", f"WHEELS={folder}"]
    subprocess.run(made, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "env" / "bin" / "python"
    for words in (
        ["venv", "--quiet", "--python", sys.executable, str(folder / "env")],
        ["pip", "install", "--quiet", "--python", str(python), str(wheel)],
    ):
        subprocess.run([UV, *words], check=True, capture_output=True)
    return folder / "env" / "bin" / "coalesce"


def run(command: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [command, *words],
        cwd=command.parent,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--version", f"coalesce {__version__}"),
        ("--help", "Commands:"),
        ("run --help", "--max-files"),
        ("layout list", "corporate"),
        ("config show", "max-files"),
        ("policy -b b -p p", "s3:DeleteObject"),
        ("report --help", "--html"),
    ],
)
def test_a_wheel_has_all_that_a_command_needs(words: str, said: str, installed: Path) -> None:
    done = run(installed, *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_what_is_not_installed_with_it_is_named(installed: Path) -> None:
    done = run(installed, "demo")
    assert (done.returncode, done.stdout) == (10, "")
    (line,) = done.stderr.splitlines()
    assert "demo" in line
    assert "pip install" in line


def test_a_store_that_cannot_be_reached_is_met_by_the_installed_libraries(installed: Path) -> None:
    words = "run -b b -p p --endpoint-url http://127.0.0.1:1/ --no-sign-request --processes 1"
    done = run(installed, *words.split(), "--log-format", "text")
    assert done.returncode == 10, done.stderr
    assert "Connection refused" in done.stderr
