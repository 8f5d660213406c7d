"""The Concourse pipelines: merged, valid, complete; their scripts understood by the shell, and by
the templates that they deploy.
"""

import datetime as dt
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from botocore.exceptions import EndpointConnectionError
from moto import mock_aws

from support.cloudformation import template
from support.concourse import ROOT, merged, merged_by_spruce
from support.deploying import deployments

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
        ("update-pipeline", [], ["--target aws-concourse", "--var branch= "]),
        (
            "update-pipeline",
            ["FLY_TARGET=mine", "BRANCH=feature/x"],
            ["--target mine", "--var branch=feature/x"],
        ),
        (
            "update-corporate-storage-coalescer-pipeline",
            [],
            ["--target utility", "--var date= ", "--var prefix= ", "--var partition=-1"],
        ),
        (
            "update-corporate-storage-coalescer-pipeline",
            ["DATE=2026-11-01", "PARTITION=3", "DEADLINE=11h"],
            ["--var date=2026-11-01", "--var partition=3", "--var deadline=11h"],
        ),
    ],
)
def test_make_sets_the_pipeline(
    target: str, variables: list[str], said: list[str], tmp_path: Path
) -> None:
    """With the real aviator, and a fly that only says what it was told."""
    done = with_aviator(tmp_path, "make", "-s", target, *variables)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^--target \S+ set-pipeline --pipeline corporate-storage-coalesc",
        done.stdout,
        re.MULTILINE,
    )
    assert all(word in done.stdout for word in said), done.stdout


@pytest.mark.skipif(shutil.which("aviator") is None, reason="needs aviator on the PATH")
@pipelines
def test_aviator_alone_sets_the_pipeline_as_make_does(aviator: str, tmp_path: Path) -> None:
    done = with_aviator(tmp_path, "aviator", "-f", aviator)
    assert (done.returncode, "set-pipeline" in done.stdout) == (0, True), done.stderr
    assert "--var branch= " in done.stdout


def with_aviator(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    for name in (*AVIATOR.values(), "Makefile"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "ci", folder / "ci")
    (folder / "fly").write_text('#!/bin/sh\necho "$@"\n')
    (folder / "fly").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "target", ["update-pipeline", "update-corporate-storage-coalescer-pipeline"]
)
def test_make_says_which_tool_is_missing_and_where_it_comes_from(
    target: str, tmp_path: Path
) -> None:
    for tool in ("make", "bash", "sh", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    for missing, source in (
        ("aviator", "https://github.com/"),
        ("fly", "the first page of your Concourse"),
    ):
        done = subprocess.run(
            ["make", "-s", target],
            cwd=ROOT,
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert f"make {target} needs {missing}, which comes from {source}" in done.stderr
        (tmp_path / missing).symlink_to("/bin/true")


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
    variables = {name: name.lower() for name in needed}
    stacks = {}
    for arguments in (["registry"], []):
        for made in deployments(tmp_path, *arguments, **variables):
            known, given = template(made.template)["Parameters"], made.parameters
            assert not given.keys() - known.keys(), made.stack
            assert (
                not {key for key, parameter in known.items() if "Default" not in parameter}
                - given.keys()
            ), made.stack
            for key, value in given.items():
                allowed = known[key].get("AllowedValues", [value])
                assert value in allowed or value == "schedule_state"
            stacks[made.stack] = given
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
    script = (ROOT / "ci/deploy.sh").read_text()
    read = set(re.findall(r"\$\{?([A-Z_]+)", script)) - {"PULL_PRINCIPALS"} | {"ROLE_ARN"}
    given = {
        job["name"]: step["params"].keys() | {"IMAGE"}
        for job in merged(AVIATOR["infrastructure"])["jobs"]
        for step in steps(job["plan"])
        if step.get("task") == "deploy"
    }
    assert given
    assert {name: read - names for name, names in given.items() if read - names} == {}


def plans() -> dict[str, list[dict[str, Any]]]:
    """The steps of each job of the infrastructure pipeline, in order."""
    return {
        job["name"]: list(steps(job["plan"])) for job in merged(AVIATOR["infrastructure"])["jobs"]
    }


def test_an_image_is_scanned_before_latest_moves_to_it() -> None:
    """And each build pushes it under a tag of its own, so that it can be started again."""
    done = [step.get("resource", step.get("put", step.get("task"))) for step in plans()["image"]]
    assert done.index("candidate-image") < done.index("scan") < done.index("development-image")
    resources = {each["name"]: each for each in merged(AVIATOR["infrastructure"])["resources"]}
    assert resources["candidate-image"]["source"]["tag"] == "candidate"
    assert "tag" not in resources["development-image"]["source"]
    for job in ("image", "mirror"):
        (put,) = [step for step in plans()[job] if "additional_tags" in step.get("params", {})]
        assert put["params"]["additional_tags"] == "tags/tags"


def test_nothing_from_a_fork_runs_privileged() -> None:
    resources = {each["name"]: each for each in merged(AVIATOR["infrastructure"])["resources"]}
    privileged = 0
    for plan in plans().values():
        got = [resources[step.get("resource", step["get"])] for step in plan if "get" in step]
        requests = [each["source"] for each in got if each["type"] == "pull-request"]
        if any(step.get("privileged") for step in plan):
            privileged += 1
            assert all(source.get("disable_forks") is True for source in requests)
        if requests:
            secrets = json.dumps([step["config"] for step in plan if "task" in step])
            assert not re.search(r"access_key|token|role_arn", secrets)
    assert privileged


@pipelines
def test_the_self_update_follows_the_branch_that_the_pipeline_was_set_with(aviator: str) -> None:
    """Nothing else that deploys does: a branch under trial reaches no account by itself."""
    pipeline = merged(aviator)
    branches = {
        each["name"]: each["source"].get("branch")
        for each in pipeline["resources"]
        if each["type"] == "git"
    }
    assert branches["pipeline-source"] == "((branch))"
    assert branches["source"] == (None if aviator == AVIATOR["infrastructure"] else "((branch))")
    (job,) = [job for job in pipeline["jobs"] if job["name"] == "update-pipeline"]
    (update,) = [step for step in steps(job["plan"]) if "set_pipeline" in step]
    given = yaml.safe_load((ROOT / aviator).read_text())["fly"]["vars"]
    assert update["vars"] == {**given, "branch": "((branch))"}
    (merge,) = [step for step in steps(job["plan"]) if step.get("task") == "merge"]
    (_, script) = merge["config"]["run"]["args"]
    written = re.findall(r">\s*(\S+)", script)
    assert written == ["/tmp/merge.yml"]  # not in the working tree, which others read


def test_a_run_by_hand_may_pull_the_image_that_it_runs_in() -> None:
    sources = {
        json.dumps(step["config"]["image_resource"]["source"], sort_keys=True)
        for job in merged(AVIATOR["execution"])["jobs"]
        for step in steps(job["plan"])
        if step.get("task", "").startswith(("storage", "manifests"))
    }
    (source,) = sources
    assert json.loads(source) == {
        "repository": "coalesce",
        "tag": "latest",
        "aws_region": "((aws.region))",
        "aws_access_key_id": "((aws.access_key_id))",
        "aws_secret_access_key": "((aws.secret_access_key))",
        "aws_role_arn": "((production.by_hand_role_arn))",
        "aws_account_id": "((production.account))",
    }


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
    assert alone == {
        "jobName": "coalesce-by-hand",
        "jobQueue": "q",
        "jobDefinition": "d",
        "parameters": {"s3-bucket-id": "b", "s3-prefix": "p"},
    }


QUEUED = {"QUEUE": "q", "DEFINITION": "d"}


@pytest.mark.parametrize(
    ("given", "deadline", "seconds"),
    [
        ({}, None, None),
        ({"DEADLINE": "", "TIMEOUT": ""}, None, None),
        ({"DEADLINE": "11h"}, "11h", 11 * 3600 + 600),
        ({"TIMEOUT": "3h"}, None, 3 * 3600),
        ({"DEADLINE": "11h", "TIMEOUT": "12h"}, "11h", 12 * 3600),
    ],
)
def test_a_run_by_hand_may_take_longer_than_a_night(
    given: dict[str, str], deadline: str | None, seconds: int | None
) -> None:
    """An attempt that has a deadline has time to end by itself."""
    asked = batch_job.request(QUEUED | given)
    assert asked["parameters"].get("deadline") == deadline
    assert asked.get("timeout") == (seconds and {"attemptDurationSeconds": seconds})


@pytest.mark.parametrize(
    "given",
    [
        {"DEADLINE": "2h", "TIMEOUT": "2h"},
        {"DEADLINE": "soon"},
        {"PREFIX": "data/main", "WANTED_PREFIX": "data/audit"},
        {"PREFIX": "data/main", "WANTED_PREFIX": "data/mainly"},
        {"PREFIX": "data/main", "WANTED_PREFIX": "data"},
    ],
)
def test_a_run_by_hand_refuses_what_contradicts_itself(given: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        batch_job.request(QUEUED | given)


@pytest.mark.parametrize(
    ("wanted", "prefix"),
    [("", "data/main"), ("data/main", "data/main"), ("data/main/a/", "data/main/a")],
)
def test_a_run_by_hand_may_take_a_part_of_its_location(wanted: str, prefix: str) -> None:
    given = QUEUED | {"PREFIX": "data/main", "WANTED_PREFIX": wanted, "DATE": "yesterday"}
    assert batch_job.request(given)["parameters"]["s3-prefix"] == prefix
    asked = batch_job.request(given | {"WANTED_DATE": "2026-11-01"})
    assert asked["parameters"]["date-to-add"] == "2026-11-01"


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


class Unreachable(Batch):
    """Loses its connection at some looks."""

    def __init__(self, lost: list[bool], states: list[str], *codes: int | None) -> None:
        super().__init__(states, *codes)
        self.lost = lost

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        if self.lost and self.lost.pop(0):
            raise EndpointConnectionError(endpoint_url="https://batch")
        return super().describe_jobs(jobs)


def test_a_lost_connection_is_waited_out() -> None:
    told: list[str] = []
    long = batch_job.POLLS_WITHOUT_ANSWER - 1
    lost = [False, *[True] * long, False, *[True] * long]
    batch = Unreachable(lost, ["SUBMITTED", "RUNNING", "SUCCEEDED"], 0)
    follower = batch_job.Follower(batch, Logs(), "group", told.append)
    assert follower.until_ended("job", lambda: None) == 0
    assert [line for line in told if "asking again" not in line] == [
        "SUBMITTED",
        "stream/0 says 0",
        "stream/0 says 1",
        "RUNNING",
        "SUCCEEDED",
    ]


def test_a_job_that_cannot_be_followed_any_more_goes_on() -> None:
    told: list[str] = []
    batch = Unreachable([True] * 10_000, ["SUCCEEDED"], 0)
    follower = batch_job.Follower(batch, Logs(), "group", told.append)
    assert follower.until_ended("job", lambda: None) == 75
    assert told[-1] == "no longer following job, which goes on"


class Submitting(Batch):
    """Also takes the job, and says what was terminated."""

    def __init__(self) -> None:
        super().__init__(["RUNNING"] * 10_000, 0)
        self.terminated: list[str] = []

    def submit_job(self, **_: object) -> dict[str, str]:
        return {"jobId": "job"}

    def terminate_job(self, jobId: str, reason: str) -> None:  # noqa: N803
        self.terminated.append(jobId)


@pytest.mark.parametrize(
    ("sent", "terminated"), [(signal.SIGTERM, ["job"]), (signal.SIGINT, ["job"]), (None, [])]
)
def test_only_who_stops_the_task_terminates_the_job(
    sent: signal.Signals | None, terminated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Submitting()
    session = SimpleNamespace(create_client=lambda name: batch if name == "batch" else Logs())
    monkeypatch.setattr(batch_job, "session_of", lambda _: session)
    monkeypatch.setattr(batch_job.time, "sleep", lambda _: wait())
    for name, value in (QUEUED | {"LOG_GROUP": "group"}).items():
        monkeypatch.setenv(name, value)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def wait() -> None:
        if sent is None:
            raise MemoryError
        os.kill(os.getpid(), sent)

    try:
        with pytest.raises(SystemExit if sent else MemoryError):
            batch_job.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert batch.terminated == terminated


def test_the_role_of_a_run_by_hand_is_assumed_anew_before_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        role = {"ROLE_ARN": "arn:aws:iam::222222222222:role/by-hand"}
        credentials = batch_job.session_of(role).get_credentials()
        keys = {credentials.get_frozen_credentials().access_key for _ in range(3)}
        assert len(keys) == 1
        monkeypatch.setattr(
            "botocore.credentials._local_now",
            lambda: dt.datetime.now(dt.UTC) + dt.timedelta(minutes=55),
        )
        # the fetcher keeps an answer for as long as it is good
        credentials._time_fetcher = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(minutes=55)
        assert credentials.get_frozen_credentials().access_key not in keys
        arn = batch_job.session_of(role).create_client("sts").get_caller_identity()["Arn"]
    assert arn == "arn:aws:sts::222222222222:assumed-role/by-hand/coalesce-by-hand"
