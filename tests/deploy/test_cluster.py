"""The Kubernetes manifests on a real API server with the real controllers of jobs, which `make
test-cluster` builds and starts: what the docs tell to type, what the server admits, and what a
job does when a shard ends with each of our exit codes.

There is no node: a pod stays pending until a test says how it ended, as a node would.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.typed import commands

ROOT = Path(__file__).parent.parent.parent
KUBERNETES = ROOT / "deploy/kubernetes"
BACKFILL = "coalesce-backfill-storage-main"

pytestmark = [
    pytest.mark.skipif(
        "COALESCE_TEST_CLUSTER" not in os.environ,
        reason="needs a Kubernetes API server: make test-cluster builds and starts one",
    ),
    pytest.mark.timeout(300),
]


def run(command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """A line as a reader would type it at the root of a clone."""
    return subprocess.run(
        ["sh", "-c", command], cwd=ROOT, input=text, capture_output=True, text=True, check=False
    )


def kubectl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(kind: str, *arguments: str) -> list[dict[str, Any]]:
    answer = kubectl("get", kind, "-n", "coalesce", "-o", "json", *arguments)
    return list(json.loads(answer)["items"])


@pytest.fixture(scope="module")
def typed() -> list[subprocess.CompletedProcess[str]]:
    """The lines of docs/deploy.md, each typed after the one before."""
    return [run(line) for line in commands("deploy.md", "Kubernetes")]


def test_what_the_docs_tell_to_type_works(typed: list[subprocess.CompletedProcess[str]]) -> None:
    """Without an error or a warning of the server."""
    assert [(done.args[-1], done.returncode, done.stderr) for done in typed] == [
        (line, 0, "") for line in commands("deploy.md", "Kubernetes")
    ]
    nightly, backfill, deleted = (done.stdout for done in typed)
    assert len(re.findall(r"^cronjob.batch/\S+ created$", nightly, re.M)) == 6
    assert f"job.batch/{BACKFILL} created" in backfill
    assert f'"{BACKFILL}" deleted' in deleted


def test_what_is_typed_again_changes_nothing(
    typed: list[subprocess.CompletedProcess[str]],
) -> None:
    again = run(typed[0].args[-1])
    assert (again.returncode, again.stderr) == (0, "")
    assert set(re.findall(r" (\w+)$", again.stdout, re.M)) == {"unchanged"}


@pytest.mark.usefixtures("typed")
def test_missed_days_of_other_dates_need_the_earlier_job_removed(tmp_path: Path) -> None:
    """A job does not change once it is there; the docs say so."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    backfill = tmp_path / "kubernetes/backfill/kustomization.yaml"
    apply = f"kubectl apply -k {backfill.parent}"
    assert run(apply).returncode == 0
    backfill.write_text(backfill.read_text().replace("2026-11-22", "2026-11-23"))
    refused = run(apply)
    assert (refused.returncode, "field is immutable" in refused.stderr) == (1, True)
    kubectl("delete", "job", "-n", "coalesce", BACKFILL)
    assert run(apply).returncode == 0
    kubectl("delete", "job", "-n", "coalesce", BACKFILL)


@pytest.mark.usefixtures("typed")
def test_a_second_image_rolls_out(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    cluster = tmp_path / "kubernetes/cluster/kustomization.yaml"
    cluster.write_text(re.sub(r"newTag: .*", "newTag: second", cluster.read_text()))
    assert run(f"kubectl apply -k {tmp_path}/kubernetes/overlays/nightly").returncode == 0
    images = {
        job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"]
        for job in found("cronjobs")
    }
    assert images == {"coalesce:second"}


def pod_of(template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried", "namespace": "coalesce", **template["metadata"]},
        "spec": template["spec"],
    }


@pytest.mark.usefixtures("typed")
def test_the_server_admits_the_pod_of_every_location() -> None:
    """By the restricted standard, which the namespace enforces: the same pod with one right more is
    refused.
    """
    jobs = found("cronjobs")
    for job in jobs:
        pod = pod_of(job["spec"]["jobTemplate"]["spec"]["template"])
        kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
    assert len(jobs) == 6
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = run("kubectl create --dry-run=server -f -", json.dumps(pod))
    assert 'violates PodSecurity "restricted' in refused.stderr


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("backoffLimitPerIndex", "backofLimitPerIndex", "unknown field"),
        ("values: [2, 10]", "values: [10, 2]", "must be ordered"),
        ("restartPolicy: Never", "restartPolicy: OnFailure", "restartPolicy"),
        ("completionMode: Indexed", "completionMode: NonIndexed", "backoffLimitPerIndex"),
    ],
)
def test_the_server_would_refuse_a_defect_of_the_manifest(old: str, new: str, said: str) -> None:
    text = (KUBERNETES / "backfill/job.yaml").read_text()
    assert old in text
    refused = run("kubectl create --dry-run=server -n coalesce -f -", text.replace(old, new, 1))
    assert refused.returncode != 0
    assert said in refused.stderr


FAILS, SHARD_FAILS, COUNTS = "the whole Job fails", "this shard fails", "counts as"


def documented() -> dict[int, str]:
    """What a job does when its first shard ends with a code, by the table of docs/deploy.md."""
    text = (ROOT / "docs/deploy.md").read_text("utf-8")
    table = text.split("## How each scheduler reacts to an exit code")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if re.match(r"\| .*\d", line)]
    return {
        int(code): next(what for what in (FAILS, SHARD_FAILS, COUNTS) if row[2].startswith(what))
        for row in rows
        for code in re.findall(r"[1-9]\d*", row[0])
    }


def begin(name: str) -> None:
    """Starts a job like that of missed days, under another name."""
    built = yaml.safe_load_all(kubectl("kustomize", str(KUBERNETES / "backfill")))
    (job,) = [manifest for manifest in built if manifest["kind"] == "Job"]
    job["metadata"]["name"] = name
    job["metadata"]["labels"]["tried"] = name
    kubectl("create", "-f", "-", text=json.dumps(job))


def first_shard(job: str) -> str:
    return f"batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index=0"


def until(kind: str, selector: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first that is as wanted, now or as soon as the server tells of it."""
    command = ["kubectl", "get", kind, "-n", "coalesce", "-l", selector, "--watch"]
    with subprocess.Popen(
        [*command, "-o", 'jsonpath={@}{"\\n"}'], stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        for line in watching.stdout:
            item: dict[str, Any] = json.loads(line)
            if wanted(item):
                watching.kill()
                return item
    raise AssertionError(f"the watch of {kind} {selector} ended")


def end(job: str, code: int) -> None:
    """Tells the server, as a node would, that the job's first shard ended with a code."""
    pod = until("pods", first_shard(job), lambda _: True)
    container = {
        "name": "coalesce",
        "image": "coalesce",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": {"exitCode": code}},
    }
    status = {"status": {"phase": "Failed", "containerStatuses": [container]}}
    name = str(pod["metadata"]["name"])
    patch = ["--subresource=status", "--type=merge", "-p", json.dumps(status)]
    kubectl("patch", "pod", "-n", "coalesce", name, *patch)


def reaction(job: str) -> str:
    """What the job does about its first failed pod, as soon as that is seen."""

    def begins_again(pod: dict[str, Any]) -> bool:
        failures = "batch.kubernetes.io/job-index-failure-count"
        return str(pod["metadata"].get("annotations", {}).get(failures)) == "1"

    status = until(
        "jobs",
        f"tried={job}",
        lambda item: bool(item["status"].keys() & {"failed", "failedIndexes", "conditions"}),
    )["status"]
    failed = [one for one in status.get("conditions", ()) if one["reason"] == "PodFailurePolicy"]
    if failed:
        return FAILS
    if status.get("failedIndexes") == "0":
        return SHARD_FAILS
    until("pods", first_shard(job), begins_again)
    return COUNTS


@pytest.mark.usefixtures("typed")
def test_a_job_reacts_to_each_exit_code_as_the_docs_say() -> None:
    """All jobs at once: the next attempt of a shard comes after ten seconds."""
    said = documented()
    assert {FAILS, SHARD_FAILS, COUNTS} == set(said.values())
    for code in said:
        begin(f"code-{code}")
    for code in said:
        end(f"code-{code}", code)
    assert {code: reaction(f"code-{code}") for code in said} == said
    for code in said:
        kubectl("delete", "job", "-n", "coalesce", f"code-{code}")
