"""The policies that `coalesce policy` prints let a whole run through, recovery included, and
nothing else.
"""

import gzip
import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from typer.testing import CliRunner

from coalesce.cli.app import app
from coalesce.protocol.lease import LeaseRecord
from coalesce.protocol.state import lease_key
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import filled
from support.nights import dead_run
from support.settings import settings

ROLE = "arn:aws:iam::111122223333:role/job"
RECORD = (
    "put",
    "delete",
    "delete_many",
    "complete_upload",
    "create_upload",
    "upload_part",
    "abort_upload",
    "get",
    "get_tags",
    "head",
    "list_page",
    "list_uploads",
)
CREATES = frozenset({"put", "complete_upload"})
ACTIONS = {
    **dict.fromkeys(("put", "complete_upload", "create_upload", "upload_part"), "s3:PutObject"),
    **dict.fromkeys(("delete", "delete_many"), "s3:DeleteObject"),
    **dict.fromkeys(("get", "head"), "s3:GetObject"),
    "get_tags": "s3:GetObjectTagging",
    "abort_upload": "s3:AbortMultipartUpload",
    "list_page": "s3:ListBucket",
    "list_uploads": "s3:ListBucketMultipartUploads",
}

Call = tuple[str, str, dict[str, str]]


class RecordingStore(MemoryStore):
    """Notes what each call asks for in IAM's terms: (action, key, condition keys)."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.calls: list[Call] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in RECORD:
            return found

        async def recording(first: Any, *rest: Any, **options: Any) -> Any:
            for key, etag in first if name == "delete_many" else [(first, options.get("etag", ""))]:
                context = (
                    {"s3:ObjectCreationOperation": "true" if name in CREATES else "false"}
                    if ACTIONS[name] == "s3:PutObject"
                    else {}
                )
                if options.get("if_none_match") or (
                    name == "complete_upload" and options.get("create_only", True)
                ):
                    context["s3:if-none-match"] = "*"
                if options.get("if_match") or (name in ("delete", "delete_many") and etag):
                    context["s3:if-match"] = options.get("if_match", etag)
                if name == "list_page":
                    context["s3:prefix"] = key
                self.calls.append((ACTIONS[name], key, context))
                if "attributes" in options and options["attributes"].tags:
                    self.calls.append(("s3:PutObjectTagging", key, {}))
            return await found(first, *rest, **options)

        return recording


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def applies(statement: dict[str, Any], call: Call) -> bool:
    """IAM's rules, as far as these policies use them: all operators and all keys of a condition
    must hold.
    """
    action, key, context = call
    resource = "arn:aws:s3:::b" if action.startswith("s3:List") else f"arn:aws:s3:::b/{key}"
    if action not in as_list(statement["Action"]) or not any(
        fnmatchcase(resource, pattern) for pattern in as_list(statement["Resource"])
    ):
        return False
    for operator, conditions in statement.get("Condition", {}).items():
        for name, wanted in conditions.items():
            value = context.get(name)
            holds = {
                "Null": (value is None) == (wanted == "true"),
                "Bool": value == wanted,
                "StringLikeIfExists": value is None
                or any(fnmatchcase(value, pattern) for pattern in as_list(wanted)),
            }[operator]
            if not holds:
                return False
    return True


def allowed(call: Call, role: dict[str, Any], bucket: dict[str, Any]) -> bool:
    statements = [*role["Statement"], *bucket["Statement"]]
    denied = any(
        statement["Effect"] == "Deny" and applies(statement, call) for statement in statements
    )
    return not denied and any(
        statement["Effect"] == "Allow" and applies(statement, call) for statement in statements
    )


def print_policy(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["policy", "-b", "b", "-p", "data", *arguments])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


async def collect_calls() -> list[Call]:
    """A run with a spoilt source, which is planned around in a second round, and that keeps its
    sources, of which some have tags; one that recovers them; and one that keeps no ledger. Before
    them a run died between a ledger entry and its output, and another before it had recorded
    anything.
    """
    bucket = filled(3, 5)
    await dead_run(bucket, "PutObject", "_coalesce/ledger/", partition=[0])
    spoilt = "data/t_2_2-2.jsonl.gz"
    bucket.store(spoilt, bucket.objects[spoilt].data[:-4])
    for n in range(5):
        bucket.store(f"data/t_1_{n}-{n}.jsonl.gz", gzip.compress(b"{}\n"), tags={"a": "b"})
    bucket.now += 1000
    dead = LeaseRecord(run_id="dead", seconds=0, layout="corporate", prefixes=("data/",))
    bucket.store(lease_key("_coalesce/", dead.run_id), dead.model_dump_json().encode())
    sent: list[Call] = []
    for chosen in (settings(delete=False), settings(), settings(ledger=False)):
        store = RecordingStore(bucket)
        await Run(store, chosen).coalesce()
        sent += store.calls
        bucket.now += 1000
        bucket.store("data/t_9_1-1.jsonl.gz", gzip.compress(b"{}\n"))
        bucket.store("data/t_9_2-2.jsonl.gz", gzip.compress(b"{}\n"))
    return sent


async def test_every_request_of_a_run_is_allowed_by_both_policies() -> None:
    role, bucket = print_policy(), print_policy("--bucket-policy", "--role", ROLE)
    sent = await collect_calls()
    assert {action for action, _, _ in sent} == {*ACTIONS.values(), "s3:PutObjectTagging"}
    entries = {action for action, key, _ in sent if key.startswith("_coalesce/ledger/")}
    assert entries == {"s3:PutObject", "s3:GetObject", "s3:DeleteObject"}
    assert {call[:2] for call in sent if not allowed(call, role, bucket)} == set()


async def test_no_right_is_granted_that_a_run_does_not_use() -> None:
    sent = await collect_calls()
    for statement in print_policy()["Statement"]:
        for action in as_list(statement["Action"]):
            for resource in as_list(statement["Resource"]):
                assert any(
                    applies({**statement, "Action": action, "Resource": resource}, call)
                    for call in sent
                ), (statement["Sid"], action, resource)


@pytest.mark.parametrize(
    "call",
    [
        ("s3:PutObject", "data/t_0_0_9.jsonl.gz", {"s3:ObjectCreationOperation": "true"}),
        (
            "s3:PutObject",
            "data/t_0_0_9.jsonl.gz",
            {"s3:ObjectCreationOperation": "true", "s3:if-match": '"e"'},
        ),
        ("s3:DeleteObject", "data/t_0_0-0.jsonl.gz", {}),
        ("s3:PutObject", "_coalesce/groups/data/t_0", {"s3:ObjectCreationOperation": "true"}),
        ("s3:DeleteObject", "_coalesce/groups/data/t_0", {}),
        (
            "s3:PutObject",
            "_coalesce/ledger/data/o.jsonl.gz",
            {"s3:ObjectCreationOperation": "true"},
        ),
        (
            "s3:PutObject",
            "_coalesce/ledger/data/o.jsonl.gz",
            {"s3:ObjectCreationOperation": "true", "s3:if-match": '"e"'},
        ),
        ("s3:DeleteObject", "_coalesce/ledger/data/o.jsonl.gz", {}),
        ("s3:GetObject", "database/x", {}),
        ("s3:DeleteObject", "other/x", {"s3:if-match": '"e"'}),
        ("s3:DeleteObjectVersion", "data/x", {}),
        ("s3:PutObjectAcl", "data/x", {}),
        ("s3:PutLifecycleConfiguration", "", {}),
        ("s3:ListBucket", "", {"s3:prefix": "other/"}),
        ("s3:ListBucket", "", {"s3:prefix": "database/"}),
    ],
)
def test_what_could_lose_an_object_or_lies_elsewhere_is_refused(call: Call) -> None:
    assert not allowed(call, print_policy(), print_policy("--bucket-policy", "--role", ROLE))


def test_the_bucket_policy_concerns_the_job_alone() -> None:
    """Whoever writes the small objects does so without conditions."""
    assert all(
        statement["Principal"] == {"AWS": ROLE}
        for statement in print_policy("--bucket-policy", "--role", ROLE)["Statement"]
    )
    done = CliRunner().invoke(app, ["policy", "-b", "b", "-p", "data", "--bucket-policy"])
    assert (done.exit_code, "--role" in done.stderr) == (2, True)


def test_reports_keys_regions_and_state_prefixes_are_in_it() -> None:
    by_sid = {
        statement["Sid"]: statement
        for statement in print_policy(
            "--report",
            "s3://logs/n/{shard}.json",
            "--kms-key",
            "arn:k",
            "--state",
            "st",
            "--region",
            "cn-north-1",
        )["Statement"]
    }
    assert by_sid["Report"]["Resource"] == "arn:aws-cn:s3:::logs/n/*.json"
    assert by_sid["Key"]["Resource"] == ["arn:k"]
    assert by_sid["ReadWriteDelete"]["Resource"] == [
        "arn:aws-cn:s3:::b/data/*",
        "arn:aws-cn:s3:::b/st/*",
    ]
