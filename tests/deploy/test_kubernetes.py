"""The Kubernetes manifests: valid by the API's own schemas, built by kustomize, and agreed with the
program's exit codes and the image's user.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.pages import blocks_of
from support.typed import DOCS

ROOT = Path(__file__).parent.parent.parent
KUBERNETES = ROOT / "deploy/kubernetes"
VERSIONS = ("1.33", "1.37")  # the first where retries by index are stable, and a late one
kubectl = shutil.which("kubectl")
kustomize = [kubectl, "kustomize"] if kubectl else [shutil.which("kustomize") or "", "build"]
needs_kustomize = pytest.mark.skipif(
    not kustomize[0], reason="needs kubectl or kustomize on the PATH"
)

PLAIN = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
OVERLAYS = ("base", "backfill", "serviceaccount", "overlays/nightly")


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*kustomize, str(KUBERNETES / overlay)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def check(manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate: make test-deploy"
    )
    for version in VERSIONS:
        validate.validate(manifest, version, strict=True)


def of(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def plain() -> list[dict[str, Any]]:
    return [manifest for path in PLAIN for manifest in yaml.safe_load_all(path.read_text())]


def job_specs() -> list[dict[str, Any]]:
    return [job["spec"]["jobTemplate"]["spec"] for job in of(plain(), "CronJob")] + [
        job["spec"] for job in of(plain(), "Job")
    ]


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_each_manifest_is_valid_by_the_schemas_of_the_api(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        check(manifest)


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_builds_is_valid_too(overlay: str) -> None:
    for manifest in built(overlay):
        check(manifest)


def test_the_schemas_notice_a_name_that_is_misspelt() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate: make test-deploy"
    )
    (job,) = of(plain(), "Job")
    with pytest.raises(validate.ValidationError):
        validate.validate(
            {**job, "spec": {**job["spec"], "backofLimitPerIndex": 1}}, VERSIONS[0], strict=True
        )


@pytest.mark.parametrize("spec", job_specs(), ids=["nightly", "backfill"])
def test_pod_failures_are_judged_by_our_exit_codes(spec: dict[str, Any]) -> None:
    """Rules are tried in order; exit codes are sorted, without 0, as the API server wants them;
    what no rule names counts as an attempt.
    """

    def action(code: int) -> str:
        for rule in spec["podFailurePolicy"]["rules"]:
            if code in rule.get("onExitCodes", {}).get("values", ()):
                return str(rule["action"])
        return "Count"

    actions = {code: action(code) for code in (1, 2, 3, 4, 10, 11, 12, 75, 130, 137, 143)}
    assert {code for code, what in actions.items() if what == "FailJob"} == {2, 10}
    assert {code for code, what in actions.items() if what == "FailIndex"} == {3, 4}
    assert {what for code, what in actions.items() if code not in (2, 3, 4, 10)} == {"Count"}
    for rule in spec["podFailurePolicy"]["rules"]:
        values = rule.get("onExitCodes", {"values": [1]})["values"]
        assert values == sorted(set(values))
        assert 0 not in values
    container = spec["template"]["spec"]["containers"][0]
    assert {
        rule["onExitCodes"]["containerName"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    } == {container["name"]}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # a pod failure policy needs it
    assert spec["podReplacementPolicy"] == "Failed"


@pytest.mark.parametrize("spec", job_specs(), ids=["nightly", "backfill"])
def test_the_pod_may_nothing_that_it_need_not(spec: dict[str, Any]) -> None:
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user[1]),
        "runAsGroup": int(user[2]),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


def shards(spec: dict[str, Any]) -> set[int]:
    variables = {
        entry["name"]: entry["value"] for entry in spec["template"]["spec"]["containers"][0]["env"]
    }
    return {
        spec["completions"],
        spec["parallelism"],
        spec["maxFailedIndexes"],
        int(variables["COALESCE_SHARDS"]),
    }


def test_the_number_of_shards_is_the_number_of_completions() -> None:
    assert all(spec["completionMode"] == "Indexed" for spec in job_specs())
    assert all(len(shards(spec)) == 1 for spec in job_specs())


@needs_kustomize
def test_the_nightly_overlay_runs_every_location_once_with_its_own_settings() -> None:
    manifests = built("overlays/nightly")
    settings = {
        manifest["metadata"]["name"]: manifest["data"] for manifest in of(manifests, "ConfigMap")
    }
    seen = {}
    for job in of(manifests, "CronJob"):
        spec = job["spec"]["jobTemplate"]["spec"]
        assert len(shards(spec)) == 1, job["metadata"]["name"]
        pod = spec["template"]["spec"]
        data = settings[pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]]
        assert (
            ("manifest" in data["COALESCE_PREFIX"])
            == (data.get("COALESCE_LAYOUT") == "manifest")
            == (data["COALESCE_DATE_TO_ADD"] == "NOT_SET")
        )
        assert pod["serviceAccountName"] == job["metadata"]["name"]
        seen[job["metadata"]["name"]] = (data["COALESCE_PREFIX"], spec["completions"])
    lines = (ROOT / "ci/locations").read_text().splitlines()
    listed = [line.split() for line in lines if not line.startswith("#")]
    assert seen == {
        f"coalesce-{name}": (prefix, int(shards)) for name, _, prefix, _, shards in listed
    }


@needs_kustomize
def test_storage_and_manifests_have_a_bucket_each() -> None:
    settings = [manifest["data"] for manifest in of(built("overlays/nightly"), "ConfigMap")]
    buckets = {(data.get("COALESCE_LAYOUT"), data["COALESCE_BUCKET"]) for data in settings}
    assert buckets == {(None, "my-bucket"), ("manifest", "my-manifests")}


@needs_kustomize
def test_every_location_has_a_service_account_of_its_own() -> None:
    """So that each gets the rights on its own prefix only."""
    manifests = built("overlays/nightly")
    jobs, accounts = of(manifests, "CronJob"), of(manifests, "ServiceAccount")
    assert {job["metadata"]["name"] for job in jobs} == {
        account["metadata"]["name"] for account in accounts
    }
    assert not any(account["automountServiceAccountToken"] for account in accounts)


@needs_kustomize
def test_web_identity_takes_the_annotation_that_the_docs_show(tmp_path: Path) -> None:
    (patch,) = (block.text for block in blocks_of(DOCS / "deploy.md") if block.language == "yaml")
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    with (tmp_path / "kubernetes/overlays/nightly/storage-audit/kustomization.yaml").open(
        "a"
    ) as file:
        file.write(f"\n{patch}\n")
    annotated = [
        account["metadata"]["name"]
        for account in of(built(str(tmp_path / "kubernetes/overlays/nightly")), "ServiceAccount")
        if "eks.amazonaws.com/role-arn" in account["metadata"].get("annotations", {})
    ]
    assert annotated == ["coalesce-storage-audit"]


@needs_kustomize
def test_missed_days_run_with_the_image_the_namespace_and_the_role_of_every_night() -> None:
    nightly, backfill = built("overlays/nightly"), built("backfill")
    images = {
        job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"]
        for job in of(nightly, "CronJob")
    }
    (job,) = of(backfill, "Job")
    assert {job["spec"]["template"]["spec"]["containers"][0]["image"]} == images
    assert of(backfill, "Namespace") == of(nightly, "Namespace")
    (account,) = of(backfill, "ServiceAccount")
    assert account in of(nightly, "ServiceAccount")
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    (namespace,) = of(backfill, "Namespace")
    assert {
        manifest["metadata"]["namespace"] for manifest in backfill if manifest is not namespace
    } == {namespace["metadata"]["name"]}


def test_a_night_ends_before_the_readers_start() -> None:
    """From 02:30 to 09:00 at the latest; and a second night never starts beside a slow first
    one.
    """
    (cronjob,) = of(plain(), "CronJob")
    minute, hour, *_ = cronjob["spec"]["schedule"].split()
    assert cronjob["spec"]["timeZone"] == "Etc/UTC"
    assert (
        int(hour) * 3600
        + int(minute) * 60
        + cronjob["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
        <= 9 * 3600
    )
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"
    assert cronjob["spec"]["startingDeadlineSeconds"] > 0


def test_every_variable_is_one_of_an_option() -> None:
    from coalesce.cli.app import COMMANDS

    variables = {name for option in COMMANDS["run"].options for name in option.variables}
    known = variables | {"COALESCE_SHARDS"}
    names = {name for manifest in of(plain(), "ConfigMap") for name in manifest["data"]}
    assert names - known == set()
