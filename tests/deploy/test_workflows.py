"""The GitHub workflows: linted by actionlint where it is, and in step with the Makefile and the
deploying script.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="needs actionlint on the PATH")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(
        ["actionlint", *map(str, WORKFLOWS)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def steps() -> list[dict[str, Any]]:
    jobs = [job for path in WORKFLOWS for job in yaml.safe_load(path.read_text())["jobs"].values()]
    return [step for job in jobs for step in job["steps"]]


def test_every_target_that_a_workflow_makes_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {
        name for step in steps() for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
    }
    assert made
    assert made <= targets


def test_a_workflow_sets_what_the_deploying_script_reads() -> None:
    read = set(re.findall(r"\$\{?([A-Z_]+)", (ROOT / "ci/deploy.sh").read_text())) - {
        "PULL_PRINCIPALS",
        "ROLE_ARN",
        "AWS_PROFILE",
    }
    (deploying,) = [step for step in steps() if step.get("run") == "sh ci/deploy.sh"]
    assert read <= deploying["env"].keys()
