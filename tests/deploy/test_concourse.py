"""The Concourse pipelines: merged, valid, complete; their scripts understood by the shell, and by
the templates that they deploy.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from support.cloudformation import template
from support.concourse import ROOT, merged, merged_by_spruce

AVIATOR = {"infrastructure": "aviator.yml", "execution": "aviator-corporate-storage-coalescer.yml"}
pipelines = pytest.mark.parametrize("aviator", AVIATOR.values(), ids=AVIATOR.keys())


@pipelines
@pytest.mark.skipif(
    shutil.which("spruce") is None,
    reason="needs spruce on the PATH; without it the tests' own merge stands in",
)
def test_spruce_merges_it_as_the_stand_in_does(aviator: str) -> None:
    def in_order(pipeline: Any) -> Any:
        """Lists of named maps by name: spruce keeps another order of files than a sorted one in
        places.
        """
        return {
            key: sorted(value, key=lambda item: str(item["name"]))
            for key, value in pipeline.items()
        }

    assert in_order(merged_by_spruce(aviator)) == in_order(merged(aviator))


@pipelines
@pytest.mark.skipif(
    shutil.which("fly") is None,
    reason="needs fly on the PATH; without it only the structure is checked",
)
def test_fly_finds_the_pipeline_valid(aviator: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(yaml.safe_dump(merged(aviator)))
    done = subprocess.run(
        ["fly", "validate-pipeline", "--strict", "-c", str(tmp_path / "pipeline.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "looks good\n"), done.stderr


@pytest.mark.skipif(shutil.which("aviator") is None, reason="needs aviator on the PATH")
@pytest.mark.parametrize(
    ("target", "variables", "said"),
    [
        ("update-pipeline", [], []),
        (
            "update-corporate-storage-coalescer-pipeline",
            [],
            ["--var date=", "--var prefix=", "--var partition=-1"],
        ),
        (
            "update-corporate-storage-coalescer-pipeline",
            ["DATE=2026-11-01", "PARTITION=3"],
            ["--var date=2026-11-01", "--var partition=3"],
        ),
    ],
)
def test_make_sets_the_pipeline(
    target: str, variables: list[str], said: list[str], tmp_path: Path
) -> None:
    """With the real aviator, and a fly that only says what it was told."""
    for name in (*AVIATOR.values(), "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "ci", tmp_path / "ci")
    (tmp_path / "fly").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "fly").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", "-s", target, *variables],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^--target \S+ set-pipeline --pipeline corporate-storage-coalesc",
        done.stdout,
        re.MULTILINE,
    )
    assert all(word in done.stdout for word in said), done.stdout


def steps(plan: Any) -> Iterator[dict[str, Any]]:
    """Every step, also those inside others."""
    if isinstance(plan, list):
        for item in plan:
            yield from steps(item)
    elif isinstance(plan, dict):
        yield plan
        for name in ("in_parallel", "do", "on_success", "on_failure", "on_error"):
            yield from steps(plan.get(name, []))


@pipelines
def test_everything_that_is_named_is_there(aviator: str) -> None:
    """What `fly validate-pipeline` looks at, and a little more: every job stands in a group, every
    task has its inputs.
    """
    pipeline = merged(aviator)
    jobs = {job["name"]: job for job in pipeline["jobs"]}
    resources = {resource["name"] for resource in pipeline["resources"]}
    types = {kind["name"] for kind in pipeline.get("resource_types", ())} | {
        "git",
        "registry-image",
    }
    assert {resource["type"] for resource in pipeline["resources"]} <= types
    assert sorted(name for group in pipeline["groups"] for name in group["jobs"]) == sorted(jobs)
    used = set()
    for name, job in jobs.items():
        assert job.keys() <= {
            "name",
            "plan",
            "serial",
            "max_in_flight",
            "on_success",
            "on_failure",
            "on_error",
        }, name
        there: set[str] = set()
        for step in [
            *steps(job["plan"]),
            *steps({key: job.get(key, []) for key in ("on_success", "on_failure", "on_error")}),
        ]:
            for verb in ("get", "put"):
                if verb in step:
                    used.add(step.get("resource", step[verb]))
                    there.add(step[verb])
            assert set(step.get("passed", ())) <= jobs.keys()
            if "task" in step:
                config = step["config"]
                assert config["platform"] == "linux"
                assert config["image_resource"]["source"]["repository"]
                assert {entry["name"] for entry in config["inputs"]} <= there, (name, step["task"])
                there |= {entry["name"] for entry in config.get("outputs", ())}
                assert config["run"]["path"]
    assert used == resources
    assert "((" not in json.dumps([job["name"] for job in pipeline["jobs"]])
    assert "(( inject" not in json.dumps(pipeline)


@pipelines
def test_the_shell_understands_every_script(aviator: str) -> None:
    scripts = [
        step["config"]["run"]["args"][-1]
        for job in merged(aviator)["jobs"]
        for step in steps(job["plan"])
        if step.get("config", {}).get("run", {}).get("args", [""])[0] == "-ec"
    ]
    assert scripts
    for script in scripts:
        done = subprocess.run(
            ["sh", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def locations() -> dict[str, list[str]]:
    lines = (ROOT / "ci/locations").read_text().splitlines()
    return {
        name: rest for name, *rest in (line.split() for line in lines if not line.startswith("#"))
    }


def test_every_location_can_be_run_by_hand_as_the_schedule_runs_it() -> None:
    """One job each, and one for all of a kind."""
    jobs = {job["name"]: job["plan"] for job in merged(AVIATOR["execution"])["jobs"]}
    by_hand = {}
    for name, plan in jobs.items():
        if name in locations():
            (task,) = [step for step in steps(plan) if "task" in step]
            given = task["params"]
            assert given["DEFINITION"] == f"coalesce-{name}"
            by_hand[name] = [
                "storage" if "storage" in given["BUCKET"] else "manifests",
                given["PREFIX"],
                given["DATE"],
                str(given["SHARDS"]),
            ]
    assert by_hand == locations()
    for kind in ("storage", "manifests"):
        assert {step["task"] for step in steps(jobs[f"{kind}-all"]) if "task" in step} == {
            name for name in by_hand if name.startswith(kind)
        }


def test_deploying_gives_each_template_the_parameters_that_it_has(tmp_path: Path) -> None:
    """The script itself, with an `aws` that only notes what it was told: every parameter exists,
    and none without a default is missing.
    """
    (tmp_path / "aws").write_text(
        f'#!/bin/sh\nfor word in "$@"; do printf "%s\\t" "$word" >> {tmp_path}/told; done; '
        f"echo >> {tmp_path}/told\n"
    )
    (tmp_path / "aws").chmod(0o755)
    needed = (
        "IMAGE",
        "VPC_ID",
        "SUBNET_IDS",
        "ALARM_TOPIC_ARN",
        "STORAGE_BUCKET",
        "MANIFEST_BUCKET",
        "SCHEDULE_STATE",
        "STORAGE_KEY_ARNS",
    )
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        **{name: name.lower() for name in needed},
    }
    for arguments in (["registry"], []):
        subprocess.run(["sh", str(ROOT / "ci/deploy.sh"), *arguments], env=environment, check=True)
    stacks = {}
    for line in (tmp_path / "told").read_text().splitlines():
        words = line.rstrip("\t").split("\t")
        name = Path(words[words.index("--template-file") + 1]).stem
        given = dict(
            word.split("=", 1) for word in words[words.index("--parameter-overrides") + 1 :]
        )
        known = template(name)["Parameters"]
        assert not given.keys() - known.keys(), name
        assert (
            not {key for key, parameter in known.items() if "Default" not in parameter}
            - given.keys()
        ), name
        for key, value in given.items():
            assert value in known[key].get("AllowedValues", [value]) or value == "schedule_state"
        stacks[words[words.index("--stack-name") + 1]] = given
    assert stacks.keys() == {
        "coalesce-registry",
        "coalesce-batch",
        *(f"coalesce-{name}" for name in locations()),
    }
    assert template("location")["Parameters"]["BatchStack"]["Default"] in stacks
    assert stacks["coalesce-manifests-main"]["Bucket"] == "manifest_bucket"
    keys = {
        name: stacks[f"coalesce-{name}-main"]["KmsKeyArns"] for name in ("storage", "manifests")
    }
    assert keys == {"storage": "storage_key_arns", "manifests": ""}


def test_the_pipeline_sets_what_the_deploying_script_reads() -> None:
    read = set(re.findall(r"\$\{?([A-Z_]+)", (ROOT / "ci/deploy.sh").read_text())) - {
        "PULL_PRINCIPALS"
    }
    given = {
        job["name"]: step["params"].keys() | {"IMAGE"}
        for job in merged(AVIATOR["infrastructure"])["jobs"]
        for step in steps(job["plan"])
        if step.get("task") == "deploy"
    }
    assert given
    assert {name: read - names for name, names in given.items() if read - names} == {}


spec = importlib.util.spec_from_file_location("batch_job", ROOT / "ci/utility/batch_job.py")
assert spec is not None
assert spec.loader is not None
batch_job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(batch_job)


def test_a_run_by_hand_gives_the_definition_the_parameters_that_it_has() -> None:
    job = template("location")["Resources"]["Job"]["Properties"]
    taken = {
        word.removeprefix("Ref::")
        for word in job["ContainerProperties"]["Command"]
        if isinstance(word, str) and word.startswith("Ref::")
    }
    asked = batch_job.request(
        {
            "QUEUE": "q",
            "DEFINITION": "d",
            "BUCKET": "b",
            "PREFIX": "p",
            "DATE": "2026-11-01",
            "PARTITION": "3",
            "SHARDS": "8",
        }
    )
    assert asked["arrayProperties"] == {"size": 8}
    assert taken == asked["parameters"].keys() | job["Parameters"].keys()
    alone = batch_job.request(
        {"QUEUE": "q", "DEFINITION": "d", "BUCKET": "b", "PREFIX": "p", "SHARDS": "1", "DATE": ""}
    )
    assert (alone["parameters"], "arrayProperties" in alone) == (
        {"s3-bucket-id": "b", "s3-prefix": "p"},
        False,
    )


class Batch:
    """A job that goes on by one state each time that it is looked at; its children have ended from
    the start.
    """

    def __init__(self, states: list[str], *codes: int | None) -> None:
        self.states, self.codes = states, codes

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {
            "jobs": [
                self._child(int(name.partition(":")[2])) if ":" in name else self._parent()
                for name in jobs
            ]
        }

    def _parent(self) -> dict[str, Any]:
        status = self.states.pop(0)
        if len(self.codes) > 1:
            return {"status": status, "arrayProperties": {"size": len(self.codes)}}
        return {**self._child(0), "status": status, "arrayProperties": {}}

    def _child(self, index: int) -> dict[str, Any]:
        code = self.codes[index]
        container = {
            "logStreamName": f"stream/{index}",
            **({"exitCode": code} if code is not None else {}),
        }
        return {
            "status": "FAILED" if code != 0 else "SUCCEEDED",
            "arrayProperties": {"index": index},
            "container": container,
        }


class Logs:
    """Streams of two pages; one is not there."""

    exceptions = SimpleNamespace(ResourceNotFoundException=LookupError)

    def get_log_events(
        self,
        logStreamName: str,  # noqa: N803
        nextToken: str = "",  # noqa: N803
        **_: object,
    ) -> dict[str, Any]:
        if logStreamName == "stream/2":
            raise self.exceptions.ResourceNotFoundException
        page = int(nextToken or 0)
        return {
            "events": [{"message": f"{logStreamName} says {page}"}] if page < 2 else [],
            "nextForwardToken": str(min(page + 1, 2)),
        }


@pytest.mark.parametrize(
    ("codes", "ends"),
    [((0,), 0), ((75,), 75), ((None,), 1), ((0, 0, 0), 0), ((0, 75, 4), 4), ((12, 10, 0), 10)],
)
def test_following_a_job_tells_its_logs_once_and_ends_with_the_worst_code(
    codes: tuple[int | None, ...], ends: int
) -> None:
    told: list[str] = []
    batch = Batch(["SUBMITTED", "RUNNING", "FAILED" if ends else "SUCCEEDED"], *codes)
    waits: list[None] = []
    code = batch_job.Follower(batch, Logs(), "group", told.append).until_ended(
        "job", lambda: waits.append(None)
    )
    assert (code, len(waits)) == (ends, 2)
    spoken = [line.split("stream/")[1] for line in told if "says" in line]
    assert sorted(spoken) == [
        f"{index} says {page}" for index in range(min(len(codes), 2)) for page in (0, 1)
    ]
    assert told[0] == "SUBMITTED"
