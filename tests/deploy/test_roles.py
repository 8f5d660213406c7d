"""The roles that deploy, that run jobs by hand and that run on EKS: who may take them, and that
they have the rights that are used and no others.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cfnlint
import pytest

from coalesce.inspect import policy
from support.cloudformation import Account, template
from support.rights import actions, allows, listed, of_role

ROOT = Path(__file__).parent.parent.parent
SCHEMAS = Path(cfnlint.__file__).parent / "data/schemas"
HERE = "eu-west-2:123456789012"
CONCOURSE = "arn:aws:iam::111111111111:user/concourse"
REPOSITORY = {"GitHubRepository": "owner/coalesce", "GitHubEnvironment": "production"}
BUCKETS = {"StorageBucket": "storage", "ManifestBucket": "manifests"}
SHARED = {"VpcId": "vpc-1", "SubnetIds": "subnet-1", "AlarmTopicArn": "arn:aws:sns:r:1:t"}
KEY = "arn:aws:kms:eu-west-2:123456789012:key/1"
ITSELF = "arn:aws:iam::123456789012:role/coalesce-deployer-Deployer-1"


def deployer(**parameters: str) -> dict[str, Any]:
    given = {**BUCKETS, **(parameters or REPOSITORY)}
    return Account().deploy("coalesce-deployer", "deployer", **given)


def deployers_rights() -> list[dict[str, Any]]:
    return [one for statements in of_role(deployer(), "Deployer").values() for one in statements]


def trust(resources: dict[str, Any], logical: str) -> list[dict[str, Any]]:
    document = resources[logical]["AssumeRolePolicyDocument"]
    document = json.loads(document) if isinstance(document, str) else document
    return list(document["Statement"])


# Who may deploy.


def test_only_jobs_of_one_environment_of_the_repository_may_deploy() -> None:
    """Compared as a whole, so that neither a fork nor a pull request nor a branch fits."""
    (statement,) = trust(deployer(), "Deployer")
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Federated": "coalesce-deployer-GitHub"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {
                "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                "token.actions.githubusercontent.com:sub": (
                    "repo:owner/coalesce:environment:production"
                ),
            }
        },
    }


def test_an_account_that_trusts_github_already_keeps_its_provider() -> None:
    arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
    made = deployer(**REPOSITORY, GitHubProviderArn=arn)
    assert "GitHub" not in made
    assert trust(made, "Deployer")[0]["Principal"] == {"Federated": arn}
    assert deployer()["GitHub"]["ClientIdList"] == ["sts.amazonaws.com"]


def test_a_concourse_user_may_deploy_without_github() -> None:
    made = deployer(TrustedPrincipals=CONCOURSE)
    assert "GitHub" not in made
    assert trust(made, "Deployer") == [
        {"Effect": "Allow", "Principal": {"AWS": [CONCOURSE]}, "Action": "sts:AssumeRole"}
    ]


# What deploying takes. The published schema of each type of resource says what CloudFormation asks
# for to make, read, change and delete it, whatever properties it has. These are for properties that
# nothing in the templates has.
UNUSED = {
    "AWS::Batch::ComputeEnvironment": {  # it is on Fargate
        "batch:setcapacitytags",
        "ec2:describelaunchtemplateversions",
        "eks:associateaccesspolicy",
        "eks:createaccessentry",
        "eks:deleteaccessentry",
        "eks:describeaccessentry",
        "eks:describecluster",
        "eks:listassociatedaccesspolicies",
    },
    "AWS::EC2::SecurityGroup": {  # nothing comes in
        "ec2:authorizesecuritygroupingress",
        "ec2:revokesecuritygroupingress",
        "ec2:updatesecuritygroupruledescriptionsingress",
    },
    "AWS::IAM::Policy": {  # all are of roles
        "iam:getuserpolicy",
        "iam:getgrouppolicy",
        "iam:putuserpolicy",
        "iam:putgrouppolicy",
        "iam:deleteuserpolicy",
        "iam:deletegrouppolicy",
    },
    "AWS::IAM::Role": {  # policies are inline, and a boundary stays
        "iam:attachrolepolicy",
        "iam:detachrolepolicy",
        "iam:deleterolepermissionsboundary",
    },
    "AWS::Logs::LogGroup": {  # no key, index, bearer token, delivery or policy of its own
        "firehose:tagdeliverystream",
        "logs:associatekmskey",
        "logs:createlogdelivery",
        "logs:deleteindexpolicy",
        "logs:deleteresourcepolicy",
        "logs:disassociatekmskey",
        "logs:putbearertokenauthentication",
        "logs:putdataprotectionpolicy",
        "logs:putindexpolicy",
        "logs:putloggroupdeletionprotection",
        "logs:putresourcepolicy",
        "s3:rest.put.object",
    },
}

# One of each type, by the name that CloudFormation or the template gives it.
MADE = {
    "AWS::Batch::ComputeEnvironment": f"arn:aws:batch:{HERE}:compute-environment/Compute-1",
    "AWS::Batch::JobDefinition": f"arn:aws:batch:{HERE}:job-definition/coalesce-storage-main:1",
    "AWS::Batch::JobQueue": f"arn:aws:batch:{HERE}:job-queue/Queue-1",
    "AWS::CloudWatch::Alarm": f"arn:aws:cloudwatch:{HERE}:alarm:coalesce-batch-Undelivered-1",
    "AWS::EC2::SecurityGroup": f"arn:aws:ec2:{HERE}:security-group/sg-1",
    "AWS::ECR::Repository": f"arn:aws:ecr:{HERE}:repository/coalesce",
    "AWS::Events::Rule": f"arn:aws:events:{HERE}:rule/coalesce-storage-main-Nightly-1",
    "AWS::IAM::Policy": "arn:aws:iam::123456789012:role/coalesce-storage-main-JobRole-1",
    "AWS::IAM::Role": "arn:aws:iam::123456789012:role/coalesce-storage-main-JobRole-1",
    "AWS::Logs::LogGroup": f"arn:aws:logs:{HERE}:log-group:/aws/batch/coalesce-batch",
    "AWS::SQS::Queue": f"arn:aws:sqs:{HERE}:coalesce-batch-DeadLetters-1",
    "AWS::SQS::QueuePolicy": f"arn:aws:sqs:{HERE}:coalesce-batch-DeadLetters-1",
}
OF_OTHERS = {
    "iam:passrole": "arn:aws:iam::123456789012:role/coalesce-storage-main-JobRole-1",
    "iam:createservicelinkedrole": "arn:aws:iam::123456789012:role/aws-service-role"
    "/batch.amazonaws.com/AWSServiceRoleForBatch",
    "kms:creategrant": KEY,
    "kms:describekey": KEY,
    "kms:retiregrant": KEY,
}
THROUGH: dict[str, str | list[str]] = {"aws__CalledVia": ["cloudformation.amazonaws.com"]}
AS_DEPLOYED = THROUGH | {
    "iam__PermissionsBoundary": "coalesce-deployer-Boundary",
    "iam__PassedToService": "ecs-tasks.amazonaws.com",
    "iam__AWSServiceName": "batch.amazonaws.com",
    "kms__ViaService": "ecr.eu-west-2.amazonaws.com",
}


@cache
def asked_for(type_: str) -> frozenset[str]:
    """What CloudFormation asks for, in lower case, by the schema of a type."""
    names = json.loads((SCHEMAS / "providers/eu-west-2.json").read_text())
    schema = json.loads((SCHEMAS / f"resources/{names[type_]}.json").read_text())
    return frozenset(
        permission.lower()
        for name, handler in schema["handlers"].items()
        for permission in handler["permissions"]
        if name != "list"  # nothing lists what it has not made
    )


def types() -> list[str]:
    return sorted(
        {
            resource["Type"]
            for name in ("registry", "batch", "location")
            for resource in template(name)["Resources"].values()
        }
    )


@pytest.mark.parametrize("type_", types())
def test_the_deployer_may_make_change_and_delete_what_is_in_the_templates(type_: str) -> None:
    asked, unused = asked_for(type_), UNUSED.get(type_, set())
    assert unused <= asked
    rights = deployers_rights()
    refused = {
        action
        for action in asked - unused
        if not allows(rights, action, OF_OTHERS.get(action, MADE[type_]), **AS_DEPLOYED)
    }
    assert refused == set()


def test_the_deployer_has_no_right_that_no_template_needs() -> None:
    needed = {action for type_ in types() for action in asked_for(type_) - UNUSED.get(type_, set())}
    policies = of_role(deployer(), "Deployer")
    given = [one for name in ("stacks", "roles") for one in policies[name]]
    allowed = actions([one for one in given if one["Effect"] == "Allow"])
    assert {action for action in allowed if action.lower() not in needed} == set()
    assert not any("*" in action for action in allowed | actions(policies["scripts"]))


def test_the_deployer_makes_nothing_by_itself() -> None:
    """Only CloudFormation does in its name. What ECR asks of the key comes through ECR, and Batch
    alone makes its own role.
    """
    rights = deployers_rights()
    alone = {name: value for name, value in AS_DEPLOYED.items() if name != "aws__CalledVia"}
    able = {
        action
        for type_ in types()
        for action in asked_for(type_)
        if allows(rights, action, OF_OTHERS.get(action, MADE[type_]), **alone)
    }
    assert able == {
        "kms:creategrant",
        "kms:describekey",
        "kms:retiregrant",
        "iam:createservicelinkedrole",
    }


@pytest.mark.parametrize("action", ["iam:CreateRole", "iam:PutRolePolicy"])
@pytest.mark.parametrize("boundary", [None, "arn:aws:iam::123456789012:policy/another"])
def test_the_deployer_neither_makes_nor_widens_a_role_without_the_boundary(
    action: str, boundary: str | None
) -> None:
    context = dict(AS_DEPLOYED)
    del context["iam__PermissionsBoundary"]
    if boundary is not None:
        context["iam__PermissionsBoundary"] = boundary
    assert not allows(deployers_rights(), action, MADE["AWS::IAM::Role"], **context)
    assert allows(deployers_rights(), action, MADE["AWS::IAM::Role"], **AS_DEPLOYED)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("iam:UpdateAssumeRolePolicy", ITSELF),
        ("iam:PassRole", ITSELF),
        (
            "cloudformation:CreateChangeSet",
            f"arn:aws:cloudformation:{HERE}:stack/coalesce-deployer/1",
        ),
        ("iam:CreatePolicyVersion", "arn:aws:iam::123456789012:policy/coalesce-deployer-Boundary"),
        ("iam:DeleteRolePermissionsBoundary", MADE["AWS::IAM::Role"]),
    ],
)
def test_the_deployer_changes_neither_itself_nor_the_boundary(action: str, resource: str) -> None:
    assert not allows(deployers_rights(), action, resource, **AS_DEPLOYED)


def test_the_image_of_another_account_may_be_mirrored_if_it_is_named() -> None:
    there = "arn:aws:ecr:eu-west-2:111111111111:repository/coalesce"
    for given, may in (({}, False), ({"SourceRepositoryArn": there}, True)):
        made = deployer(**REPOSITORY, **given)
        scripts = of_role(made, "Deployer")["scripts"]
        assert allows(scripts, "ecr:BatchGetImage", there) is may
        assert not allows(scripts, "ecr:PutImage", there)


# What the boundary lets through.


def roles_of_the_stacks() -> Iterator[dict[str, Any]]:
    """The statements of every role that batch.yaml and location.yaml make, with a key."""
    account = Account()
    shared = account.deploy("coalesce-batch", "batch", **SHARED)
    location = account.deploy(
        "coalesce-storage-main",
        "location",
        Image="i:1",
        AlarmTopicArn=SHARED["AlarmTopicArn"],
        Bucket="storage",
        Prefix="data",
        KmsKeyArns=KEY,
    )
    for resources, logical in (
        (shared, "ExecutionRole"),
        (location, "JobRole"),
        (location, "SubmitRole"),
    ):
        for statements in of_role(resources, logical).values():
            yield from statements


def concrete(resource: str) -> str:
    """A resource that a pattern of a deployed template stands for."""
    stands_for = {
        "coalesce-batch-Logs.Arn": f"{MADE['AWS::Logs::LogGroup']}:log-stream:x",
        "coalesce-batch-Queue": MADE["AWS::Batch::JobQueue"],
    }
    return stands_for.get(resource, resource).replace("*", "x")


def test_the_boundary_lets_through_what_jobs_need_and_no_other_bucket() -> None:
    made = deployer(**REPOSITORY, KmsKeyArns=KEY)
    boundary = made["Boundary"]["PolicyDocument"]["Statement"]
    seen = 0
    for statement in roles_of_the_stacks():
        for action in listed(statement["Action"]):
            for resource in listed(statement["Resource"]):
                assert allows(boundary, action, concrete(resource)), (action, resource)
                seen += 1
    assert seen > 10
    for action, resource in (
        ("s3:DeleteObject", "arn:aws:s3:::another/x"),
        ("s3:PutBucketPolicy", "arn:aws:s3:::storage"),
        ("kms:Decrypt", f"{KEY}2"),
        ("batch:SubmitJob", f"arn:aws:batch:{HERE}:job-definition/another"),
        ("iam:PutRolePolicy", MADE["AWS::IAM::Role"]),
        ("sts:AssumeRole", MADE["AWS::IAM::Role"]),
    ):
        assert not allows(boundary, action, resource), action


@pytest.mark.parametrize("name", ["batch", "location"])
def test_every_role_that_is_made_takes_the_boundary(name: str) -> None:
    bounded = {"Fn::If": ["Bounded", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]}
    roles = [
        resource["Properties"]
        for resource in template(name)["Resources"].values()
        if resource["Type"] == "AWS::IAM::Role"
    ]
    assert roles
    assert all(role["PermissionsBoundary"] == bounded for role in roles)


def test_policies_are_no_larger_than_iam_takes() -> None:
    """10,240 characters for all inline policies of a role, 6,144 for a managed one; white space
    does not count, and names may be a good deal longer than here.
    """
    made = deployer(**REPOSITORY, KmsKeyArns=KEY)
    inline = [one["PolicyDocument"] for one in made["Deployer"]["Policies"]]
    assert sum(len(re.sub(r"\s", "", json.dumps(one))) for one in inline) < 9000
    assert len(re.sub(r"\s", "", json.dumps(made["Boundary"]["PolicyDocument"]))) < 5000


# Runs by hand.


def operator(**parameters: str) -> dict[str, Any]:
    account = Account()
    account.deploy("coalesce-batch", "batch", **SHARED)
    return account.deploy("by-hand", "by-hand", TrustedPrincipals=CONCOURSE, **parameters)


def test_the_role_for_runs_by_hand_may_do_what_the_pipeline_asks_for_and_no_more() -> None:
    """What batch_job.py calls, the pull of its image, and what an engineer looks at."""
    source = (ROOT / "ci/utility/batch_job.py").read_text()
    called = {
        f"{service}:{''.join(word.capitalize() for word in name.split('_'))}"
        for service, name in re.findall(r"\b_?(batch|logs)\.([a-z]+_[a-z_]+)\(", source)
    }
    assert called == {
        "batch:SubmitJob",
        "batch:DescribeJobs",
        "batch:TerminateJob",
        "logs:GetLogEvents",
    }
    (statements,) = of_role(operator(), "Operator").values()
    assert actions(statements) == called | {
        "batch:DescribeJobDefinitions",
        "batch:DescribeJobQueues",
        "batch:ListJobs",
        "logs:FilterLogEvents",
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
    }


@pytest.mark.parametrize(
    ("action", "resource", "may"),
    [
        ("batch:SubmitJob", "coalesce-batch-Queue", True),
        ("batch:SubmitJob", MADE["AWS::Batch::JobDefinition"], True),
        ("batch:SubmitJob", f"arn:aws:batch:{HERE}:job-definition/another:1", False),
        ("batch:SubmitJob", f"arn:aws:batch:{HERE}:job-queue/another", False),
        ("logs:GetLogEvents", f"{MADE['AWS::Logs::LogGroup']}:log-stream:x", True),
        ("logs:GetLogEvents", f"arn:aws:logs:{HERE}:log-group:/aws/batch/job:log-stream:x", False),
    ],
)
def test_runs_by_hand_are_those_of_our_jobs_in_our_queue(
    action: str, resource: str, may: bool
) -> None:
    (statements,) = of_role(operator(), "Operator").values()
    assert allows(statements, action, resource) is may


@pytest.mark.parametrize(("given", "asked"), [({}, True), ({"RequireMfa": "false"}, False)])
def test_engineers_need_a_second_factor_unless_it_is_waived(
    given: dict[str, str], asked: bool
) -> None:
    (statement,) = trust(operator(**given), "Operator")
    assert statement["Principal"] == {"AWS": [CONCOURSE]}
    assert statement.get("Condition") == (
        {"Bool": {"aws:MultiFactorAuthPresent": "true"}} if asked else None
    )


# EKS.


def on_eks(**parameters: str) -> dict[str, Any]:
    given = {
        "ClusterName": "lake",
        "ServiceAccount": "coalesce-storage-main",
        "Bucket": "my-bucket",
        "Prefix": "data",
    }
    return Account().deploy("eks-storage-main", "eks", **given | parameters)


def test_pod_identity_gives_the_role_to_one_service_account_of_one_cluster() -> None:
    made = on_eks()
    (statement,) = trust(made, "JobRole")
    assert statement["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert statement["Condition"] == {
        "StringEquals": {
            "aws:RequestTag/eks-cluster-arn": f"arn:aws:eks:{HERE}:cluster/lake",
            "aws:RequestTag/kubernetes-namespace": "coalesce",
            "aws:RequestTag/kubernetes-service-account": "coalesce-storage-main",
        }
    }
    assert made["Association"] == {
        "ClusterName": "lake",
        "Namespace": "coalesce",
        "ServiceAccount": "coalesce-storage-main",
        "RoleArn": "eks-storage-main-JobRole.Arn",
    }


def test_web_identity_gives_the_role_to_one_service_account_of_the_clusters_issuer() -> None:
    issuer = "oidc.eks.eu-west-2.amazonaws.com/id/ABC"
    made = on_eks(OidcProviderArn=f"arn:aws:iam::123456789012:oidc-provider/{issuer}")
    assert "Association" not in made
    assert trust(made, "JobRole") == [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Principal": {"Federated": f"arn:aws:iam::123456789012:oidc-provider/{issuer}"},
            "Condition": {
                "StringEquals": {
                    f"{issuer}:aud": "sts.amazonaws.com",
                    f"{issuer}:sub": "system:serviceaccount:coalesce:coalesce-storage-main",
                }
            },
        }
    ]


@pytest.mark.parametrize("keys", ["", KEY])
def test_a_location_has_on_eks_the_rights_that_it_has_on_batch(keys: str) -> None:
    made = on_eks(KmsKeyArns=keys)
    statements = [one for part in of_role(made, "JobRole").values() for one in part]
    printed = policy.role_policy(
        "arn:aws:s3:::my-bucket", ["data/"], "_coalesce/", kms_keys=[keys] if keys else []
    )
    assert statements == printed["Statement"]
