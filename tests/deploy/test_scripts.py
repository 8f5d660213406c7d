"""The scripts of the pipelines, run with the real `aws` against emulated accounts: one of the CI
user, and one of the role that it is to act as.
"""

import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from support.cloudformation import template

ROOT = Path(__file__).parent.parent.parent
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
ROLE = "arn:aws:iam::222222222222:role/ci/deploy"
REGION = "eu-west-2"
TODAY = dt.datetime.now(dt.UTC).date()
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"digest": "sha256:0"},
    "layers": [],
}

needs_aws = pytest.mark.skipif(
    shutil.which("aws", path=PATH) is None,
    reason="needs aws on the PATH or in .venv",
)


@pytest.mark.skipif(shutil.which("shellcheck", path=PATH) is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing() -> None:
    scripts = sorted(f"ci/{path.name}" for path in (ROOT / "ci").glob("*.sh"))
    done = subprocess.run(
        ["shellcheck", "--external-sources", *scripts],
        cwd=ROOT,
        env={"PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


class Repository:
    """A copy of what the scripts read, and the accounts that they work in."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        shutil.copytree(ROOT / "ci", folder / "ci")
        shutil.copytree(ROOT / "deploy/aws", folder / "deploy/aws")

    def simplify(self, name: str, resource: dict[str, Any], description: str) -> None:
        """Makes a template of one resource, which takes the real one's parameters: the emulator
        does not update everything that the real one has, and takes the same one only once.
        """
        simple = {
            "Description": description,
            "Parameters": {
                parameter: {"Type": "String", "Default": ""}
                for parameter in template(name)["Parameters"]
            },
            "Resources": {"Only": resource},
        }
        (self.folder / f"deploy/aws/{name}.yaml").write_text(json.dumps(simple))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", *command],
            cwd=self.folder,
            env={
                "PATH": PATH,
                "HOME": str(self.folder),
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": "the-ci-user",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_MAX_ATTEMPTS": "1",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def client(self, service: str, role: str = "") -> Any:
        """A client of the role's account, or of the CI user's."""
        own: dict[str, Any] = {
            "region_name": REGION,
            "endpoint_url": self.endpoint,
            "aws_access_key_id": "the-ci-user",
            "aws_secret_access_key": "secret",
        }
        if role:
            given = boto3.client("sts", **own).assume_role(RoleArn=role, RoleSessionName="test")
            own |= {
                "aws_access_key_id": given["Credentials"]["AccessKeyId"],
                "aws_secret_access_key": given["Credentials"]["SecretAccessKey"],
                "aws_session_token": given["Credentials"]["SessionToken"],
            }
        return boto3.client(service, **own)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"))
    yield Repository(tmp_path, endpoint)
    server.stop()


def stacks(repository: Repository, role: str = "") -> set[str]:
    listed = repository.client("cloudformation", role).describe_stacks()["Stacks"]
    return {stack["StackName"] for stack in listed}


def push(repository: Repository, tag: str, role: str = ROLE) -> str:
    """Puts another image into the registry; its digest."""
    manifest = json.dumps(MANIFEST | {"annotations": {"of": tag}})
    put = repository.client("ecr", role).put_image(
        repositoryName="coalesce",
        imageManifest=manifest,
        imageTag=tag,
        imageDigest=f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}",
    )
    return str(put["image"]["imageId"]["imageDigest"])


def image(digest: str) -> str:
    return f"222222222222.dkr.ecr.{REGION}.amazonaws.com/coalesce@{digest}"


def tags(repository: Repository) -> dict[str, set[str]]:
    """The images, by the tags that they were pushed with, and their other tags."""
    images = repository.client("ecr", ROLE).describe_images(repositoryName="coalesce")
    named = [set(image["imageTags"]) for image in images["imageDetails"]]
    return {own: tags - {own} for tags in named for own in tags & {"first", "second"}}


@needs_aws
def test_a_task_acts_as_its_role_whatever_keys_the_environment_has(repository: Repository) -> None:
    done = repository.run("ci/deploy.sh", "registry", ROLE_ARN=ROLE)
    assert done.returncode == 0, done.stderr
    assert stacks(repository, ROLE) == {"coalesce-registry"}
    assert stacks(repository) == set()
    assert not (repository.folder / ".aws/config").exists()


@needs_aws
def test_a_task_without_a_role_acts_as_who_it_is(repository: Repository) -> None:
    assert repository.run("ci/deploy.sh", "registry").returncode == 0
    assert stacks(repository) == {"coalesce-registry"}


@needs_aws
def test_a_task_that_has_its_role_already_does_not_assume_it_again(
    repository: Repository,
) -> None:
    """As after the login of a GitHub workflow: the role need not trust itself."""
    keys = repository.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="ci")["Credentials"]
    done = repository.run(
        "-xc",
        ". ci/role.sh; aws sts get-caller-identity --query Arn --output text",
        ROLE_ARN=ROLE,
        AWS_ACCESS_KEY_ID=keys["AccessKeyId"],
        AWS_SECRET_ACCESS_KEY=keys["SecretAccessKey"],
        AWS_SESSION_TOKEN=keys["SessionToken"],
    )
    assert done.stdout == "arn:aws:sts::222222222222:assumed-role/deploy/ci\n"


class Impostor(BaseHTTPRequestHandler):
    """An STS by which the caller is the CI user, whatever its keys; it may hand out others."""

    asked: list[str]
    willing: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = body.split("Action=")[1].split("&")[0]
        self.asked.append(action)
        answers = {
            "GetCallerIdentity": "<Arn>arn:aws:iam::111111111111:user/ci</Arn>",
            "AssumeRole": "<Credentials><AccessKeyId>a</AccessKeyId>"
            "<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
            "<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>",
        }
        good = action in answers and (self.willing or action != "AssumeRole")
        answer = (
            f"<{action}Response><{action}Result>{answers[action]}</{action}Result></{action}Response>"
            if good
            else "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
        ).encode()
        self.send_response(200 if good else 403)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@needs_aws
@pytest.mark.parametrize("script", ["deploy.sh", "scan.sh"])
@pytest.mark.parametrize(
    ("role", "willing"),
    [(ROLE, False), (ROLE, True), ("", True)],
    ids=["refused", "another identity", "no role named"],
)
def test_a_task_refuses_to_go_on_as_somebody_else(
    script: str, role: str, willing: bool, tmp_path: Path
) -> None:
    handler = type("Handler", (Impostor,), {"asked": [], "willing": willing})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        repository = Repository(tmp_path, f"http://127.0.0.1:{server.server_port}")
        done = repository.run(f"ci/{script}", ROLE_ARN=role, DIGEST="sha256:1")
        server.shutdown()
    assert done.returncode == 1
    assert f"cannot act as the role '{role}': nothing was changed" in done.stderr
    assert set(handler.asked) <= {"GetCallerIdentity", "AssumeRole"}


PARAMETERS = {
    "VPC_ID": "vpc-1",
    "SUBNET_IDS": "subnet-1",
    "ALARM_TOPIC_ARN": "arn:aws:sns:eu-west-2:222222222222:alarms",
    "STORAGE_BUCKET": "storage",
    "MANIFEST_BUCKET": "manifests",
    "SCHEDULE_STATE": "ENABLED",
    "ROLE_ARN": ROLE,
}
TOPIC = {"Type": "AWS::SNS::Topic"}
RULE = {
    "Type": "AWS::Events::Rule",
    "Properties": {
        "Description": {"Ref": "Prefix"},
        "ScheduleExpression": "rate(1 day)",
        "State": {"Ref": "ScheduleState"},
    },
}


@needs_aws
@pytest.mark.timeout(400)  # twenty starts of aws, each some seconds on a busy machine
def test_a_line_removed_from_the_locations_removes_its_schedule(repository: Repository) -> None:
    """And nothing else: what somebody deployed by hand stays; a last line may lack its newline."""
    repository.client("ecr", ROLE).create_repository(
        repositoryName="coalesce",
        imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "deploy*"}],
    )
    parameters = PARAMETERS | {"IMAGE": image(push(repository, "first"))}
    repository.simplify("batch", TOPIC, "first")
    repository.simplify("location", RULE, "first")
    locations = repository.folder / "ci/locations"
    lines = ["# name", "one storage data/one yesterday 4", "two storage data/two yesterday 1"]
    locations.write_text("\n".join(lines))
    done = repository.run("ci/deploy.sh", **parameters)
    assert done.returncode == 0, done.stderr
    assert {"coalesce-batch", "coalesce-one", "coalesce-two"} <= stacks(repository, ROLE)
    repository.client("cloudformation", ROLE).create_stack(
        StackName="coalesce-by-hand", TemplateBody=json.dumps({"Resources": {"Only": TOPIC}})
    )

    parameters |= {"IMAGE": image(push(repository, "second")), "SCHEDULE_STATE": "DISABLED"}
    repository.simplify("batch", TOPIC, "second")
    repository.simplify("location", RULE, "second")
    locations.write_text("\n".join(lines[:2]))
    done = repository.run("ci/deploy.sh", **parameters)
    assert done.returncode == 0, done.stderr
    left = {"coalesce-batch", "coalesce-one", "coalesce-by-hand"}
    assert stacks(repository, ROLE) == left
    rules = repository.client("events", ROLE).list_rules()["Rules"]
    assert [rule["Description"] for rule in rules] == ["data/one"]

    locations.write_text("# all gone\n")
    done = repository.run("ci/deploy.sh", **parameters)
    assert (done.returncode, "names no location" in done.stderr) == (1, True)
    assert stacks(repository, ROLE) == left
    assert tags(repository) == {"first": set(), "second": {"deploying", "deployed"}}, done.stdout


def test_the_registry_never_expires_what_runs() -> None:
    """A rule never expires what an earlier rule matches, and each of these tags is on one image."""
    properties = template("registry")["Resources"]["Repository"]["Properties"]
    rules = json.loads(properties["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
    assert [rule["rulePriority"] for rule in rules] == sorted(
        rule["rulePriority"] for rule in rules
    )
    *keeping, last = [rule["selection"] for rule in rules]
    assert last["tagStatus"] == "any"
    kept = [tag for rule in keeping for tag in rule["tagPatternList"]]
    assert sorted(kept) == ["deployed", "deploying", "latest"]
    assert all(
        (len(rule["tagPatternList"]), rule["countType"], rule["countNumber"])
        == (1, "imageCountMoreThan", 1)
        for rule in keeping
    )
    movable = {
        each["ImageTagMutabilityExclusionFilterValue"]
        for each in properties["ImageTagMutabilityExclusionFilters"]
    }
    assert movable == {*kept, "candidate"}


@needs_aws
@pytest.mark.parametrize(
    ("accepted", "found", "passes"),
    [
        ("", {}, True),
        ("", {"CVE-1": "MEDIUM", "CVE-2": "LOW"}, True),
        ("", {"CVE-1": "CRITICAL", "CVE-2": "LOW"}, False),
        (f"CVE-1 {TODAY} no fix yet", {"CVE-1": "HIGH"}, True),
        (f"CVE-1 {TODAY + dt.timedelta(3)} no fix", {"CVE-1": "HIGH", "CVE-12": "HIGH"}, False),
        (f"CVE-1 {TODAY - dt.timedelta(1)} too late", {"CVE-1": "HIGH"}, False),
        ("CVE-1 soon a date that is none", {"CVE-1": "HIGH"}, False),
    ],
)
def test_a_finding_stops_the_pipeline_unless_it_is_accepted_until_a_day_to_come(
    accepted: str, found: dict[str, str], passes: bool, repository: Repository
) -> None:
    ecr = repository.client("ecr")
    ecr.create_repository(repositoryName="coalesce")
    digest = push(repository, "candidate", role="")
    ecr.start_image_scan(repositoryName="coalesce", imageId={"imageDigest": digest})
    result = {
        "imageScanFindings": {
            "findings": [{"name": name, "severity": grade} for name, grade in found.items()]
        },
        "registryId": "123456789012",
        "repositoryName": "coalesce",
        "imageId": {"imageDigest": digest},
        "imageScanStatus": {"status": "COMPLETE"},
    }
    urllib.request.urlopen(
        urllib.request.Request(
            f"{repository.endpoint}/moto-api/static/ecr/scan-finding-results",
            data=json.dumps({"results": [result], "region": REGION}).encode(),
            headers={"Content-Type": "application/json"},
        )
    )
    with (repository.folder / "ci/accepted-findings").open("a") as file:
        file.write(accepted)
    done = repository.run("ci/scan.sh", DIGEST=digest)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr
    refused = [name for name, grade in found.items() if grade in ("HIGH", "CRITICAL")]
    assert passes or any(f"{name} is critical or high" in done.stdout for name in refused), (
        done.stdout + done.stderr
    )


def test_findings_are_accepted_for_half_a_year_at_most_with_a_reason() -> None:
    for line in (ROOT / "ci/accepted-findings").read_text().splitlines():
        if line and not line.startswith("#"):
            _, until, why = line.split(maxsplit=2)
            assert dt.date.fromisoformat(until) <= TODAY + dt.timedelta(183), line
            assert why
