"""The CloudFormation templates: linted, deployed into an emulator, and held against the limits that
neither of them knows.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from cfnlint import api as lint
from moto import mock_aws

from coalesce.inspect import policy
from coalesce.settings import parse_duration
from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, data_in, fill, look
from support.cloudformation import AWS, template
from support.command import coalesce, job, summary

TEMPLATES = sorted(path.stem for path in AWS.glob("*.yaml"))
DEFINITIONS = ("Storage", "Manifests")

# What AWS offers on Fargate: vCPU → MiB.
FARGATE = {
    1: range(2048, 8193, 1024),
    2: range(4096, 16385, 1024),
    4: range(8192, 30721, 1024),
    8: range(16384, 61441, 4096),
    16: range(32768, 122881, 8192),
}


def properties(stack: str, resource: str) -> Any:
    return template(stack)["Resources"][resource]["Properties"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_cfn_lint_finds_nothing(name: str) -> None:
    assert [str(match) for match in lint.lint_file(AWS / f"{name}.yaml")] == []


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_retries_keep_to_what_batch_takes_and_to_our_exit_codes(definition: str) -> None:
    """One to ten attempts, at most five conditions, patterns of digits with a star at most at the
    end; the first match decides, and no match is a retry.
    """
    retry = properties("batch", definition)["RetryStrategy"]
    conditions = retry["EvaluateOnExit"]
    assert 1 <= retry["Attempts"] <= 10
    assert len(conditions) <= 5
    assert all(re.fullmatch(r"\d*\*?", condition["OnExitCode"]) for condition in conditions)

    def action(code: int) -> str:
        for condition in conditions:
            pattern = condition["OnExitCode"]
            if str(code) == pattern or (
                pattern.endswith("*") and str(code).startswith(pattern[:-1])
            ):
                return str(condition["Action"])
        return "RETRY"

    assert {
        code for code in (1, 2, 3, 4, 10, 11, 12, 75, 130, 137, 143) if action(code) == "EXIT"
    } == {2, 3, 4, 10}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_attempt_ends_before_the_readers_start(definition: str) -> None:
    """At 09:30 UTC; half an hour is left for waiting in the queue.

    Each attempt would rather end by itself.
    """
    job = properties("batch", definition)
    minute, hour, *_ = cron(template("location")["Parameters"]["Schedule"]["Default"])
    each = dt.timedelta(seconds=job["Timeout"]["AttemptDurationSeconds"])
    start = dt.datetime(2026, 1, 1, int(hour), int(minute))
    assert start == dt.datetime(2026, 1, 1, 2, 30)
    assert start + job["RetryStrategy"]["Attempts"] * each <= dt.datetime(2026, 1, 1, 9, 0)
    assert dt.timedelta(seconds=float(str(parse_duration(job["Parameters"]["deadline"])))) < each


def cron(expression: str) -> list[str]:
    """The six fields of an EventBridge cron expression: one of the two days is `?`, numbers are in
    range.
    """
    match = re.fullmatch(r"cron\((.+)\)", expression)
    assert match is not None, expression
    fields = match[1].split()
    assert len(fields) == 6, expression
    for field, most in zip(fields[:2], (59, 23), strict=True):
        assert all(0 <= int(number) <= most for number in re.findall(r"\d+", field)), expression
    assert [fields[2], fields[4]].count("?") == 1, expression
    return fields


def test_fargate_offers_every_size_that_the_parameters_allow() -> None:
    parameters, rules = template("batch")["Parameters"], template("batch")["Rules"]
    allowed = {}
    for rule in rules.values():
        ((_, vcpu),) = [rule["RuleCondition"]["Fn::Equals"]]
        ((memory, _),) = [assertion["Assert"]["Fn::Contains"] for assertion in rule["Assertions"]]
        allowed[int(vcpu)] = [int(size) for size in memory]
    assert sorted(allowed) == sorted(int(vcpu) for vcpu in parameters["Vcpu"]["AllowedValues"])
    for vcpu, sizes in allowed.items():
        assert sizes
        assert set(sizes) <= set(FARGATE[vcpu]), vcpu
    assert int(parameters["Memory"]["Default"]) in allowed[int(parameters["Vcpu"]["Default"])]
    assert {int(size) for size in parameters["Memory"]["AllowedValues"]} == {
        size for sizes in allowed.values() for size in sizes
    }


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_container_may_nothing_that_it_need_not(definition: str) -> None:
    container = properties("batch", definition)["ContainerProperties"]
    user = re.search(r"^USER (.+)$", (AWS.parent.parent / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert (container["User"], container["ReadonlyRootFilesystem"]) == (user[1], True)


def submitted(shards: int = 1) -> dict[str, str]:
    """The parameters with which the schedule of a location starts its job."""
    values = {
        name: str(parameter.get("Default", ""))
        for name, parameter in template("location")["Parameters"].items()
    }
    values |= {"Bucket": "my-bucket", "Prefix": "data", "Shards": str(shards), "Date": "NOT_SET"}
    text = properties("location", "Nightly")["Targets"][0]["Input"]["Fn::Sub"]
    given = json.loads(re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text))
    return dict(given["Parameters"])


@pytest.mark.parametrize("definition", DEFINITIONS)
async def test_what_the_schedule_starts_does_the_job(definition: str, bucket: S3Store) -> None:
    """The definition's command, with its own parameters and the schedule's, on a real server; a
    command that is not understood would end with 2.
    """
    if definition == "Manifests":
        for n in range(3):
            await bucket.put(
                f"data/db.core.topic_0_{n}-db.core.other_1_{n + 7}.txt", b"id-%d\n" % n
            )
    else:
        await fill(bucket, 2, 3)
    definition_of = properties("batch", definition)
    values = definition_of["Parameters"] | submitted() | {"s3-bucket-id": bucket.bucket}
    command = [
        re.sub(r"Ref::([\w-]+)", lambda match: values[match[1]], word)
        for word in definition_of["ContainerProperties"]["Command"]
    ]
    done = coalesce(bucket, *command, COALESCE_MIN_AGE="0")
    assert done.returncode == 0, done.stderr
    held = await look(bucket)
    assert len(data_in(held)) == (1 if definition == "Manifests" else 2)
    check_finished(held)
    pattern = properties("batch", "Finished")["FilterPattern"]
    assert all(
        f"$.{name} = {json.dumps(summary(done.stdout)[name])}" in pattern
        for name in ("type", "exit_code")
    )


# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
NEEDED = {
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}


def granted(statements: list[dict[str, Any]]) -> set[str]:
    actions: set[str] = set()
    for statement in statements:
        action = statement.get("Action", [])
        actions |= {action} if isinstance(action, str) else set(action)
    return {action for action in actions if action.startswith("s3:")}


async def test_the_job_role_has_the_rights_that_a_run_uses_and_no_others(bucket: S3Store) -> None:
    """By the requests of a real run. Only one that sweeps after a killed run looks for uploads, and
    only one that joins sources with tags reads and sets them.
    """
    await fill(bucket, 2, 3)
    done = coalesce(bucket, *job(bucket, "--output", "json"))
    assert done.returncode == 0, done.stderr
    used = {NEEDED[operation] for operation in summary(done.stdout)["requests"]}
    assert granted(properties("location", "Rights")["PolicyDocument"]["Statement"]) == used | {
        "s3:ListBucketMultipartUploads",
        "s3:GetObjectTagging",
        "s3:PutObjectTagging",
    }


def resolved(value: Any, names: dict[str, str]) -> Any:
    """A part of a template with its references filled in."""
    if isinstance(value, list):
        return [resolved(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value:
        return names[value["Ref"]]
    if "Fn::Sub" in value:
        return re.sub(r"\$\{([\w:]+)\}", lambda match: names[match[1]], value["Fn::Sub"])
    return {key: resolved(item, names) for key, item in value.items()}


def test_the_templates_grant_and_deny_what_policy_prints() -> None:
    """Statement for statement."""
    names = {
        "AWS::Partition": "aws",
        "Bucket": "my-bucket",
        "Data": "my-bucket",
        "Prefix": "data",
        "JobRoleArn": "arn:aws:iam::123456789012:role/job",
    }
    bucket = ("arn:aws:s3:::my-bucket", ["data/"], "_coalesce/")
    assert resolved(
        properties("location", "Rights")["PolicyDocument"], names
    ) == policy.role_policy(*bucket)
    enforced = resolved(
        properties("bucket", "BucketPolicy")["PolicyDocument"]["Statement"][:3], names
    )
    assert enforced == policy.bucket_policy(*bucket, names["JobRoleArn"])["Statement"]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    """An empty account of the emulator, with a VPC, a subnet and a topic."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SECURITY_TOKEN",
        "AWS_SESSION_TOKEN",
    ):
        monkeypatch.setenv(name, "test")
    with mock_aws(config={"batch": {"use_docker": False}}):
        yield boto3.Session(region_name="eu-west-2")


def deploy(account: boto3.Session, stack: str, name: str, **parameters: str) -> dict[str, str]:
    """Creates a stack; its outputs.

    The emulator insists on a service role, where AWS has its service-linked one, and knows no rules
    for parameters.
    """
    body = json.loads(json.dumps(template(name)))
    if "Compute" in body["Resources"]:
        body["Resources"]["Compute"]["Properties"]["ServiceRole"] = {
            "Fn::GetAtt": ["ExecutionRole", "Arn"]
        }
    body.pop("Rules", None)
    cloudformation = account.client("cloudformation")
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    cloudformation.create_stack(
        StackName=stack,
        TemplateBody=json.dumps(body),
        Parameters=given,
        Capabilities=["CAPABILITY_IAM"],
    )
    described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    assert described["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", ())}


@pytest.fixture
def deployed(account: boto3.Session) -> dict[str, str]:
    ec2 = account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    topic = account.client("sns").create_topic(Name="alarms")["TopicArn"]
    return deploy(
        account,
        "coalesce-batch",
        "batch",
        Image="coalesce:1",
        VpcId=vpc,
        SubnetIds=subnet,
        AlarmTopicArn=topic,
    )


@pytest.mark.filterwarnings("ignore")
def test_the_batch_stack_comes_up_with_its_retry_rules(
    account: boto3.Session, deployed: dict[str, str]
) -> None:
    definitions = account.client("batch").describe_job_definitions()["jobDefinitions"]
    assert len(definitions) == 2
    for definition in definitions:
        assert [rule["onExitCode"] for rule in definition["retryStrategy"]["evaluateOnExit"]] == [
            "2",
            "3",
            "4",
            "10",
        ]
        assert definition["containerProperties"]["readonlyRootFilesystem"] is True
    queue = account.client("batch").describe_job_queues()["jobQueues"][0]
    assert (queue["jobQueueArn"], queue["state"]) == (deployed["Queue"], "ENABLED")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layout", "shards"), [("storage", 8), ("manifests", 1)])
def test_a_location_gets_its_schedule_and_its_rights(
    account: boto3.Session, deployed: dict[str, str], layout: str, shards: int
) -> None:
    deploy(
        account,
        "main",
        "location",
        Bucket="my-bucket",
        Prefix="data",
        Layout=layout,
        Shards=str(shards),
    )
    events, iam = account.client("events"), account.client("iam")
    rule = next(rule for rule in events.list_rules()["Rules"] if rule.get("ScheduleExpression"))
    assert (rule["ScheduleExpression"], rule["State"]) == ("cron(30 2 * * ? *)", "ENABLED")
    target = events.list_targets_by_rule(Rule=rule["Name"])["Targets"][0]
    assert target["Arn"] == deployed["Queue"]
    assert (
        target["BatchParameters"]["JobDefinition"]
        == deployed["Manifests" if layout == "manifests" else "Storage"]
    )
    assert target["BatchParameters"].get("ArrayProperties", {}).get("Size", 1) == shards
    assert "RetryStrategy" not in target["BatchParameters"]
    assert json.loads(target["Input"])["Parameters"] == submitted(shards) | {
        "date-to-add": "yesterday"
    }
    names = iam.list_role_policies(RoleName=deployed["JobRole"])["PolicyNames"]
    rights = iam.get_role_policy(RoleName=deployed["JobRole"], PolicyName=names[0])[
        "PolicyDocument"
    ]["Statement"]
    resources = json.dumps([statement["Resource"] for statement in rights])
    assert set(re.findall(r"arn:aws:s3:::([^\"]+)", resources)) == {
        "my-bucket",
        "my-bucket/data/*",
        "my-bucket/_coalesce/*",
    }


@pytest.mark.filterwarnings("ignore")
def test_an_array_job_can_be_submitted_to_the_queue(
    account: boto3.Session, deployed: dict[str, str]
) -> None:
    batch = account.client("batch")
    array = batch.submit_job(
        jobName="j",
        jobQueue=deployed["Queue"],
        jobDefinition=deployed["Storage"],
        arrayProperties={"size": 3},
        parameters=submitted(),
    )
    children = [
        batch.describe_jobs(jobs=[f"{array['jobId']}:{index}"])["jobs"][0] for index in range(3)
    ]
    assert len({child["jobId"] for child in children}) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_registry_stack_comes_up(account: boto3.Session) -> None:
    deploy(account, "registry", "registry")
    repository = account.client("ecr").describe_repositories()["repositories"][0]
    assert (repository["repositoryName"], repository["imageTagMutability"]) == (
        "coalesce",
        "IMMUTABLE_WITH_EXCLUSION",
    )


def test_the_lifecycle_waits_longer_than_any_run_may_take() -> None:
    rules = properties("bucket", "Data")["LifecycleConfiguration"]["Rules"]
    (days,) = [
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in rules
        if "AbortIncompleteMultipartUpload" in rule
    ]
    job = properties("batch", "Storage")
    assert dt.timedelta(days=days) > 2 * job["RetryStrategy"]["Attempts"] * dt.timedelta(
        seconds=job["Timeout"]["AttemptDurationSeconds"]
    )
