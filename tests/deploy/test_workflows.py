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


def jobs() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / ".github/workflows/main.yml").read_text())["jobs"])


def test_a_workflow_sets_what_the_deploying_script_reads() -> None:
    script = (ROOT / "ci/deploy.sh").read_text()
    read = set(re.findall(r"\$\{?([A-Z_]+)", script)) - {"PULL_PRINCIPALS"} | {"ROLE_ARN"}
    for name in ("development", "production"):
        (deploying,) = [
            step for step in jobs()[name]["steps"] if step.get("run") == "sh ci/deploy.sh"
        ]
        assert read <= deploying["env"].keys() | jobs()[name].get("env", {}).keys(), name


def test_production_waits_for_development_and_development_for_the_scan() -> None:
    """By `needs`, whatever the order of a list; and each in its own environment."""
    needs = {name: job.get("needs", []) for name, job in jobs().items()}
    assert needs == {"image": [], "development": "image", "production": ["image", "development"]}
    assert {name: job["environment"] for name, job in jobs().items()} == {
        "image": "development",
        "development": "development",
        "production": "production",
    }
    assert jobs()["image"]["steps"][-1]["run"] == "sh ci/scan.sh"


def test_an_action_is_the_one_that_was_read() -> None:
    """By its commit, which nobody can move, with its version beside it."""
    used = [
        line.partition("uses: ")[2]
        for path in WORKFLOWS
        for line in path.read_text().splitlines()
        if "uses: " in line
    ]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_the_docs_name_every_variable_of_the_workflow() -> None:
    workflow = (ROOT / ".github/workflows/main.yml").read_text()
    section = (ROOT / "docs/deploy.md").read_text().split("### GitHub Actions")[1]
    named = set(re.findall(r"`([A-Z_]+)`", section.partition("\n## ")[0]))
    assert named == set(re.findall(r"vars\.([A-Z_]+)", workflow))
