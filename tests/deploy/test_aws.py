"""The CloudFormation templates: linted, deployed into an emulator, and held against the limits that
neither of them knows.
"""

import datetime as dt
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from cfnlint import api as lint
from moto import mock_aws

from coalesce.inspect import policy
from coalesce.report.metrics import DIMENSIONS, METRICS, NAMESPACE
from coalesce.run.division import most_processes
from coalesce.settings import parse_duration, parse_size
from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, data_in, fill, look
from support.cloudformation import AWS, Account, Refused, template
from support.command import coalesce, job, summary
from support.events import failed, messages

TEMPLATES = sorted(path.stem for path in AWS.glob("*.yaml"))
LAYOUTS = ("storage", "manifests")
SHARED = {"VpcId": "vpc-1", "SubnetIds": "subnet-1,subnet-2", "AlarmTopicArn": "arn:aws:sns:r:1:t"}
LOCATION = {"AlarmTopicArn": SHARED["AlarmTopicArn"], "Bucket": "my-bucket", "Prefix": "data"}

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


def location(account: Account | None = None, name: str = "main", **parameters: str) -> Any:
    """The properties of the resources of one location, whose image is the first."""
    account = account or Account()
    account.deploy("coalesce-batch", "batch", **SHARED)
    return account.deploy(name, "location", **{"Image": "coalesce:1", **LOCATION, **parameters})


def definition_of(layout: str = "storage", **parameters: str) -> Any:
    return location(Layout=layout, **parameters)["Job"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_cfn_lint_finds_nothing(name: str) -> None:
    assert [str(match) for match in lint.lint_file(AWS / f"{name}.yaml")] == []


@pytest.mark.skipif(shutil.which("checkov") is None, reason="needs checkov on the PATH")
def test_checkov_finds_nothing_but_what_is_explained() -> None:
    """In the templates and the Terraform module."""
    command = [
        "checkov",
        "-d",
        str(AWS),
        "--config-file",
        str(AWS.parent.parent / "ci/checkov.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def typed() -> list[str]:
    """The commands of the page that deploy a template, each on one line."""
    text = (AWS.parent.parent / "docs/deploy-aws.md").read_text("utf-8")
    lines = re.sub(r" \\\n +", " ", text).splitlines()
    return [line.strip() for line in lines if line.startswith("    aws cloudformation deploy ")]


@pytest.mark.parametrize("command", typed(), ids=lambda command: command.split()[4])
def test_what_the_docs_tell_to_type_has_the_parameters_of_its_template(command: str) -> None:
    """Every one exists, and none that has no default is missing; IAM is acknowledged where roles
    are made.
    """
    words = command.split()
    path = AWS.parent.parent / words[words.index("--template-file") + 1]
    known = template(path.stem)["Parameters"]
    given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]\w+=", word))
    assert given.keys() <= known.keys()
    assert {name for name, one in known.items() if "Default" not in one} <= given.keys()
    for name, value in given.items():
        pattern = known[name].get("AllowedPattern", ".*")
        assert re.fullmatch(pattern, value) or value.isupper(), name
    makes_roles = any(
        resource["Type"] == "AWS::IAM::Role"
        for resource in template(path.stem)["Resources"].values()
    )
    assert ("CAPABILITY_IAM" in words) == makes_roles


def test_the_docs_tell_how_to_deploy_what_everybody_needs() -> None:
    told = {re.findall(r"/([\w-]+)\.yaml", command)[0] for command in typed()}
    assert told == {"registry", "batch", "location", "deployer", "by-hand", "eks"}


def test_a_second_image_rolls_out() -> None:
    """Every schedule starts the newest image, with no step between that CloudFormation refuses."""
    account = Account()
    for image in ("coalesce:1", "coalesce:2", "coalesce:3"):
        for name, layout in (("main", "storage"), ("manifests-main", "manifests")):
            parameters = {"Prefix": name, "Layout": layout, "Image": image}
            started = location(account, name, **parameters)["Nightly"]["Targets"][0]
            definition = account.job(started["BatchParameters"]["JobDefinition"])
            assert definition["ContainerProperties"]["Image"] == image
            assert definition["Parameters"]["s3-prefix"] == name


def test_what_the_shared_stack_is_given_may_change_while_locations_use_it() -> None:
    """An alarm topic, subnets, a size: nothing of it is an export that another stack holds."""
    account = Account()
    location(account)
    for name, parameter in template("batch")["Parameters"].items():
        other = str(next(iter(parameter.get("AllowedValues", ["9"])[::-1])))
        account.deploy("coalesce-batch", "batch", **SHARED | {name: other})


def test_the_model_of_an_account_refuses_a_change_to_an_export_in_use() -> None:
    account = Account()
    location(account)
    account.exports["coalesce-batch-queue"] = "what it was before"
    with pytest.raises(Refused, match="in use"):
        account.deploy("coalesce-batch", "batch", **SHARED)


@pytest.mark.parametrize("schedule", ["ENABLED", "DISABLED"])
def test_each_location_has_its_own_alarms_where_its_schedule_is_on(schedule: str) -> None:
    resources = location(ScheduleState=schedule, Shards="8")
    alarms = {"NoGoodNight", "LongPathList", "Unsettled"}
    assert resources.keys() & alarms == (alarms if schedule == "ENABLED" else set())
    if schedule == "ENABLED":
        silent = resources["NoGoodNight"]
        assert (silent["Threshold"], silent["Statistic"]) == ("8", "Sum")  # a shard ends well once
        assert silent["TreatMissingData"] == "breaching"


def test_the_alarm_looks_back_over_a_whole_night_at_any_time() -> None:
    """A day, and the six hours that the attempts of a night may take."""
    job = definition_of()
    night = job["RetryStrategy"]["Attempts"] * job["Timeout"]["AttemptDurationSeconds"]
    alarm = location()["NoGoodNight"]
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 86400 + night


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_role_for_each_location(layout: str) -> None:
    """It may read, write and delete under its own prefix and the state prefix, nowhere else."""
    account = Account()
    roles = [
        location(account, name, Prefix=name, Layout=layout)["Job"]["ContainerProperties"][
            "JobRoleArn"
        ]
        for name in ("one", "two")
    ]
    assert len(set(roles)) == 2
    statements = location(account, "one", Prefix="one")["Rights"]["PolicyDocument"]["Statement"]
    assert set(re.findall(r"my-bucket/([^\"]+)", json.dumps(statements))) == {
        "one/*",
        "_coalesce/*",
    }


def test_keys_reach_the_role_and_nothing_else_does() -> None:
    """Several, for objects that an earlier key has encrypted."""
    assert "KeyRights" not in location()
    keys = "arn:aws:kms:r:1:key/1,arn:aws:kms:r:1:key/2"
    (statement,) = location(KmsKeyArns=keys)["KeyRights"]["PolicyDocument"]["Statement"]
    printed = policy.role_policy("arn:aws:s3:::b", ["p/"], "_coalesce/", kms_keys=keys.split(","))
    assert statement == printed["Statement"][-1]


@pytest.mark.parametrize(("given", "owner"), [({}, "123456789012"), ({"BucketOwner": "2"}, "2")])
def test_the_job_refuses_a_bucket_of_another_account(given: dict[str, str], owner: str) -> None:
    command = definition_of(**given)["ContainerProperties"]["Command"]
    assert command[command.index("--expected-bucket-owner") + 1] == owner


def test_what_cannot_be_delivered_is_kept_and_told() -> None:
    """Every target of a rule has the dead-letter queue, which rules of this account may write to,
    and an alarm looks at it.
    """
    account = Account()
    location(account)
    shared = account.deploy("coalesce-batch", "batch", **SHARED)
    targets = [
        target
        for resources in (shared, location(account))
        for resource in resources.values()
        for target in resource.get("Targets", ())
    ]
    assert len(targets) == 3
    assert {target["DeadLetterConfig"]["Arn"] for target in targets} == {
        account.exports["coalesce-batch-dead-letters-arn"]
    }
    (statement,) = shared["DeadLettersPolicy"]["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert shared["Undelivered"]["Dimensions"][0]["Value"] == "coalesce-batch-DeadLetters.QueueName"
    assert shared["Undelivered"]["AlarmActions"] == [SHARED["AlarmTopicArn"]]


ONE = {"container": {"exitCode": 10}}
SUMMARY = {"SUCCEEDED": 5, "FAILED": 3}


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        (ONE, "coalesce job j (i) failed: r, exit code 10. "),
        (ONE | {"arrayProperties": {"index": 3, "statusSummary": {}}}, None),
        (
            {"arrayProperties": {"size": 8, "statusSummary": SUMMARY}},
            "coalesce job j (i) failed: r. Of 8 shards 3 failed and 5 succeeded; list those that"
            " failed: aws batch list-jobs --array-job-id i --job-status FAILED. ",
        ),
    ],
)
def test_a_failure_is_told_once_with_what_is_known_of_it(detail: Any, told: str | None) -> None:
    shared = Account().deploy("coalesce-batch", "batch", **SHARED)
    common = {"jobName": "j", "jobId": "i", "statusReason": "r"}
    rules = (shared["Failed"], shared["ArrayFailed"])
    found = messages(rules, failed("coalesce-batch-Queue", common | detail))
    wanted = "What to do on each exit code: " if detail is not ONE else "What to do on each code: "
    assert found == ([] if told is None else [f"{told}{wanted}docs/exit-codes.md"])


def test_what_is_kept_for_good_does_not_block_a_first_deployment_that_failed() -> None:
    """`Retain` would leave a log group, a repository or a bucket of a fixed name behind, and the
    next try would find it taken.
    """
    kept = {
        resource["Type"]: resource["DeletionPolicy"]
        for name in TEMPLATES
        for resource in template(name)["Resources"].values()
        if "DeletionPolicy" in resource
    }
    types = ("Logs::LogGroup", "ECR::Repository", "S3::Bucket", "IAM::OIDCProvider")
    assert kept == {f"AWS::{type_}": "RetainExceptOnCreate" for type_ in types}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_retries_keep_to_what_batch_takes_and_to_our_exit_codes(layout: str) -> None:
    """One to ten attempts, at most five conditions, patterns of digits with a star at most at the
    end; the first match decides, and no match is a retry.
    """
    retry = definition_of(layout)["RetryStrategy"]
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


def test_every_attempt_ends_before_the_readers_start() -> None:
    """At 09:30 UTC; half an hour is left for waiting in the queue, and as much before for a
    schedule that cannot submit its job at once. Each attempt would rather end by itself.
    """
    job = definition_of()
    minute, hour, *_ = cron(template("location")["Parameters"]["Schedule"]["Default"])
    each = dt.timedelta(seconds=job["Timeout"]["AttemptDurationSeconds"])
    start = dt.datetime(2026, 1, 1, int(hour), int(minute))
    assert start == dt.datetime(2026, 1, 1, 2, 30)
    late = location()["Nightly"]["Targets"][0]["RetryPolicy"]["MaximumEventAgeInSeconds"]
    end = start + dt.timedelta(seconds=late) + job["RetryStrategy"]["Attempts"] * each
    assert end <= dt.datetime(2026, 1, 1, 9, 0)
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
    parameters, rules = template("location")["Parameters"], template("location")["Rules"]
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


def sizes() -> list[tuple[int, int]]:
    """Each number of vCPUs that a shard may have, with each number of MiB."""
    return [
        (int(rule["RuleCondition"]["Fn::Equals"][1]), int(memory))
        for rule in template("location")["Rules"].values()
        for memory in rule["Assertions"][0]["Assert"]["Fn::Contains"][0]
    ]


@pytest.mark.parametrize(("vcpu", "memory"), sizes())
def test_every_vcpu_that_is_paid_for_gets_a_process_and_memory_is_enough(
    vcpu: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the formula in the settings, with ten million sources that are listed and not yet done."""
    command = definition_of(Vcpu=str(vcpu), Memory=str(memory))["ContainerProperties"]["Command"]
    budget = int(str(parse_size(command[command.index("--memory") + 1])))
    monkeypatch.setattr("coalesce.run.division.usable_cpus", lambda: vcpu)
    assert most_processes(0, budget) == vcpu
    workers = vcpu if vcpu > 1 else 0
    peak = budget + (1 + workers) * 150 * 1024**2 + 10_000_000 * 92
    assert peak < memory * 1024**2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_container_may_nothing_that_it_need_not(layout: str) -> None:
    container = definition_of(layout)["ContainerProperties"]
    user = re.search(r"^USER (.+)$", (AWS.parent.parent / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert (container["User"], container["ReadonlyRootFilesystem"]) == (user[1], True)


def test_the_job_is_told_its_region() -> None:
    """The metadata that would say it is not there on Fargate."""
    (variable,) = definition_of()["ContainerProperties"]["Environment"]
    assert variable == {"Name": "AWS_DEFAULT_REGION", "Value": "eu-west-2"}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_what_the_schedule_starts_does_the_job(layout: str, bucket: S3Store) -> None:
    """The definition's command, with its own parameters, on a real server; a command that is not
    understood would end with 2. What it prints for CloudWatch is what the alarms look at.
    """
    if layout == "manifests":
        for n in range(3):
            await bucket.put(
                f"data/db.core.topic_0_{n}-db.core.other_1_{n + 7}.txt", b"id-%d\n" % n
            )
    else:
        await fill(bucket, 2, 3)
    resources = location(Layout=layout, Bucket=bucket.bucket, Date="NOT_SET")
    values = resources["Job"]["Parameters"]
    command = [
        re.sub(r"Ref::([\w-]+)", lambda match: values[match[1]], word)
        for word in resources["Job"]["ContainerProperties"]["Command"]
    ]
    done = coalesce(bucket, *command, COALESCE_MIN_AGE="0")
    assert done.returncode == 0, done.stderr
    held = await look(bucket)
    assert len(data_in(held)) == (1 if layout == "manifests" else 2)
    check_finished(held)
    report, printed = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert (report["type"], printed["GoodRuns"]) == ("summary", 1)
    names = [name.capitalize() for name in DIMENSIONS]
    for alarm in (
        resources["NoGoodNight"],
        resources["LongPathList"]["Metrics"][1]["MetricStat"]["Metric"],
        resources["Unsettled"],
    ):
        assert alarm["Namespace"] == NAMESPACE
        assert alarm["MetricName"] in {metric.cloudwatch for metric in METRICS}
        assert alarm["Dimensions"] == [{"Name": name, "Value": printed[name]} for name in names]


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


def test_the_templates_grant_and_deny_what_policy_prints() -> None:
    """Statement for statement."""
    bucket = ("arn:aws:s3:::my-bucket", ["data/"], "_coalesce/")
    assert location()["Rights"]["PolicyDocument"] == policy.role_policy(*bucket)
    roles = ["arn:aws:iam::123456789012:role/one", "arn:aws:iam::123456789012:role/two"]
    made = Account().deploy(
        "b", "bucket", Bucket="my-bucket", Prefix="data", JobRoleArns=",".join(roles)
    )
    statements = made["BucketPolicy"]["PolicyDocument"]["Statement"][:3]
    text = json.dumps(statements).replace("b-Data", "my-bucket")
    printed = policy.bucket_policy(*bucket, "role")["Statement"]
    assert json.loads(text) == [{**one, "Principal": {"AWS": roles}} for one in printed]


@pytest.mark.parametrize(
    ("key", "encryption"),
    [
        ("", {"SSEAlgorithm": "aws:kms"}),
        ("arn:k", {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:k"}),
    ],
)
def test_a_new_bucket_is_encrypted_with_the_key_that_is_named(
    key: str, encryption: dict[str, str]
) -> None:
    given = {"Bucket": "my-bucket", "Prefix": "data", "JobRoleArns": "arn:aws:iam::1:role/r"}
    made = Account().deploy("b", "bucket", KmsKeyArn=key, **given)["Data"]["BucketEncryption"]
    assert made["ServerSideEncryptionConfiguration"] == [
        {"ServerSideEncryptionByDefault": encryption, "BucketKeyEnabled": True}
    ]


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
        VpcId=vpc,
        SubnetIds=subnet,
        AlarmTopicArn=topic,
    )


@pytest.mark.filterwarnings("ignore")
def test_the_batch_stack_comes_up(account: boto3.Session, deployed: dict[str, str]) -> None:
    queue = account.client("batch").describe_job_queues()["jobQueues"][0]
    assert (queue["jobQueueArn"], queue["state"]) == (deployed["Queue"], "ENABLED")
    rules = account.client("events").list_rules()["Rules"]
    assert len(rules) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layout", "shards"), [("storage", 8), ("manifests", 1)])
def test_a_location_gets_its_schedule_its_rights_and_its_alarms(
    account: boto3.Session, deployed: dict[str, str], layout: str, shards: int
) -> None:
    given = LOCATION | {"Image": "coalesce:1", "Layout": layout, "Shards": str(shards)}
    made = deploy(account, "main", "location", **given)
    events, iam, batch = (account.client(name) for name in ("events", "iam", "batch"))
    (definition,) = batch.describe_job_definitions()["jobDefinitions"]
    retries = definition["retryStrategy"]["evaluateOnExit"]
    assert [rule["onExitCode"] for rule in retries] == ["2", "3", "4", "10"]
    container = definition["containerProperties"]
    assert (container["image"], container["readonlyRootFilesystem"]) == ("coalesce:1", True)
    assert container["jobRoleArn"] == made["JobRoleArn"]
    rule = next(rule for rule in events.list_rules()["Rules"] if rule.get("ScheduleExpression"))
    assert (rule["ScheduleExpression"], rule["State"]) == ("cron(30 2 * * ? *)", "ENABLED")
    target = events.list_targets_by_rule(Rule=rule["Name"])["Targets"][0]
    assert target["Arn"] == deployed["Queue"]
    assert target["DeadLetterConfig"]["Arn"] == deployed["DeadLettersArn"]
    assert target["BatchParameters"]["JobDefinition"] == made["JobDefinition"] == "main"
    assert target["BatchParameters"].get("ArrayProperties", {}).get("Size", 1) == shards
    assert "RetryStrategy" not in target["BatchParameters"]
    role = made["JobRoleArn"].rpartition("/")[2]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    rights = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]
    resources = json.dumps([statement["Resource"] for statement in rights])
    assert set(re.findall(r"arn:aws:s3:::([^\"]+)", resources)) == {
        "my-bucket",
        "my-bucket/data/*",
        "my-bucket/_coalesce/*",
    }


@pytest.mark.filterwarnings("ignore")
def test_the_registry_stack_comes_up(account: boto3.Session) -> None:
    deploy(account, "registry", "registry")
    repository = account.client("ecr").describe_repositories()["repositories"][0]
    assert (repository["repositoryName"], repository["imageTagMutability"]) == (
        "coalesce",
        "IMMUTABLE_WITH_EXCLUSION",
    )


@pytest.mark.filterwarnings("ignore")
def test_the_roles_come_up(account: boto3.Session, deployed: dict[str, str]) -> None:
    """That of who deploys, with a boundary that a location's roles then have, and that of runs by
    hand.
    """
    iam = account.client("iam")
    user = "arn:aws:iam::123456789012:user/ci"
    # All that may be given: the emulator keeps empty places where a template leaves something out.
    provider = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
    deployer = deploy(
        account,
        "deployer",
        "deployer",
        StorageBucket="my-bucket",
        ManifestBucket="my-manifests",
        KmsKeyArns="arn:aws:kms:eu-west-2:123456789012:key/1",
        SourceRepositoryArn="arn:aws:ecr:eu-west-2:111111111111:repository/coalesce",
        GitHubRepository="owner/coalesce",
        GitHubProviderArn=provider,
        TrustedPrincipals=user,
    )
    by_hand = deploy(account, "by-hand", "by-hand", TrustedPrincipals=user)
    for made, who in (
        (deployer, [{"Federated": provider}, {"AWS": [user]}]),
        (by_hand, [{"AWS": [user]}]),
    ):
        name = made["RoleArn"].rpartition("/")[2]
        trusted = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]["Statement"]
        assert [statement["Principal"] for statement in trusted] == who
    boundary = deployer["PermissionsBoundary"]
    given = LOCATION | {"Image": "coalesce:1", "PermissionsBoundary": boundary}
    role = deploy(account, "main", "location", **given)["JobRoleArn"].rpartition("/")[2]
    bound = iam.get_role(RoleName=role)["Role"]["PermissionsBoundary"]
    assert bound["PermissionsBoundaryArn"] == boundary


def test_the_lifecycle_waits_longer_than_any_run_may_take() -> None:
    rules = properties("bucket", "Data")["LifecycleConfiguration"]["Rules"]
    (days,) = [
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in rules
        if "AbortIncompleteMultipartUpload" in rule
    ]
    job = definition_of()
    assert dt.timedelta(days=days) > 2 * job["RetryStrategy"]["Attempts"] * dt.timedelta(
        seconds=job["Timeout"]["AttemptDurationSeconds"]
    )
