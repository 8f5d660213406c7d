"""`deploy/aws/guard.py`: what it does to the rules of an existing bucket, and takes back."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from coalesce.inspect.policy import bucket_policy
from support.cloudformation import AWS, template

spec = importlib.util.spec_from_file_location("guard", AWS / "guard.py")
assert spec is not None
assert spec.loader is not None
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)

ROLE = "arn:aws:iam::123456789012:role/coalesce-main"
OTHER = "arn:aws:iam::123456789012:role/coalesce-audit"
OWN_STATEMENT = {
    "Sid": "OnlyEncryptedTransport",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": ["arn:aws:s3:::lake", "arn:aws:s3:::lake/*"],
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
OWN_POLICY = {"Version": "2012-10-17", "Id": "theirs", "Statement": [OWN_STATEMENT]}
OWN_RULE = {
    "ID": "old",
    "Status": "Enabled",
    "Filter": {"Prefix": "tmp/"},
    "Expiration": {"Days": 9},
}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="lake")
        yield client


def run(*options: str, role: str = ROLE) -> int:
    code: int = guard.main(["lake", "--prefix", "data", "--role", role, "--yes", *options])
    return code


def undo(file: str) -> int:
    code: int = guard.main(["lake", "--undo", file, "--yes"])
    return code


def rules(client: Any) -> Any:
    return guard.Bucket(client, "lake").read()


def with_own_rules(client: Any) -> Any:
    client.put_bucket_policy(Bucket="lake", Policy=json.dumps(OWN_POLICY))
    client.put_bucket_lifecycle_configuration(
        Bucket="lake", LifecycleConfiguration={"Rules": [OWN_RULE]}
    )
    return rules(client)


@pytest.mark.parametrize("has_rules", [True, False])
def test_guards_are_added_to_what_the_bucket_has_and_taken_back(s3: Any, has_rules: bool) -> None:
    before = with_own_rules(s3) if has_rules else rules(s3)
    assert run("--save", "saved") == 0
    after = rules(s3)
    statements = after["policy"]["Statement"]
    assert statements[:-3] == before["policy"].get("Statement", [])
    printed = bucket_policy("arn:aws:s3:::lake", ["data/"], "_coalesce/", ROLE)["Statement"]
    assert [{**one, "Sid": ""} for one in statements[-3:]] == [
        {**one, "Sid": ""} for one in printed
    ]
    assert after["lifecycle"]["Rules"][:-1] == before["lifecycle"].get("Rules", [])
    assert after["lifecycle"]["Rules"][-1]["AbortIncompleteMultipartUpload"] == {
        "DaysAfterInitiation": 2
    }
    assert undo("saved") == 0
    assert rules(s3) == before
    assert undo("saved") == 0  # once more changes nothing
    assert rules(s3) == before


def test_it_shows_the_difference_and_changes_nothing_unless_told_to(
    s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = with_own_rules(s3)
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    assert guard.main(["lake", "--prefix", "data", "--role", ROLE]) == 1
    shown = capsys.readouterr().out
    assert '+        "Sid": "JobCreatesOnlycoalescemain"' in shown
    assert "-  " not in shown.replace("--- before", "").replace("-      }\n+      },", "")
    assert asked
    assert rules(s3) == before


def test_each_location_has_its_own_statements_and_a_second_run_changes_nothing(s3: Any) -> None:
    assert run("--save", "one") == 0
    assert run("--save", "two", role=OTHER) == 0
    after = rules(s3)
    assert len({one["Sid"] for one in after["policy"]["Statement"]}) == 6
    assert run("--save", "three") == 0
    assert rules(s3) == after
    assert not Path("three").exists()


def test_undo_leaves_alone_what_somebody_has_changed_since(
    s3: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--save", "saved") == 0
    changed = rules(s3)["policy"]
    changed["Statement"].append(OWN_STATEMENT)
    s3.put_bucket_policy(Bucket="lake", Policy=json.dumps(changed))
    assert undo("saved") == 1
    assert rules(s3)["policy"] == changed
    told = capsys.readouterr()
    assert "OnlyEncryptedTransport" in told.out
    assert "undo later changes first" in told.err


def test_a_change_that_failed_half_way_can_be_undone(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lifecycle is set, and the policy is refused."""
    before = with_own_rules(s3)

    def refuse(self: Any, policy: Any) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(guard.Bucket, "_set_policy", refuse)
        assert run("--save", "saved") == 1
    assert rules(s3) != before
    assert undo("saved") == 0
    assert rules(s3) == before


def test_a_change_while_it_asks_is_not_overwritten(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: str) -> str:
        s3.put_bucket_policy(Bucket="lake", Policy=json.dumps(OWN_POLICY))
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    assert guard.main(["lake", "--prefix", "data", "--role", ROLE]) == 1
    assert rules(s3)["policy"] == OWN_POLICY


def test_what_was_saved_is_never_overwritten(s3: Any) -> None:
    Path("saved").write_text("of another bucket")
    assert run("--save", "saved") == 1
    assert Path("saved").read_text() == "of another bucket"
    assert rules(s3) == {"policy": {}, "lifecycle": {}}


def test_a_file_of_another_bucket_is_refused(s3: Any) -> None:
    s3.create_bucket(Bucket="pond")
    assert run("--save", "saved") == 0
    assert guard.main(["pond", "--undo", "saved", "--yes"]) == 1
    assert guard.Bucket(s3, "pond").read() == {"policy": {}, "lifecycle": {}}


@pytest.mark.parametrize(
    "arguments",
    [["lake"], ["lake", "--prefix", "data"], ["lake", "--prefix", "data", "--role", "main"]],
)
def test_what_is_missing_is_told(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        guard.main(arguments)
    assert ended.value.code == 2


def test_the_rule_for_uploads_is_that_of_the_template() -> None:
    rule = template("bucket")["Resources"]["Data"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (same,) = [one for one in rule if "AbortIncompleteMultipartUpload" in one]
    assert {"ID": same["Id"], **{k: v for k, v in same.items() if k != "Id"}, "Filter": {}} == (
        guard.ABANDONED
    )


def test_a_rule_that_already_ends_uploads_everywhere_is_enough() -> None:
    for scope in ({"Filter": {}}, {"Filter": {"Prefix": ""}}, {"Prefix": ""}):
        theirs = {"ID": "x", "Status": "Enabled", **scope}
        theirs["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": 7}
        assert guard.merged_lifecycle({"Rules": [theirs]}) == {"Rules": [theirs]}
        off = theirs | {"Status": "Disabled"}
        assert guard.merged_lifecycle({"Rules": [off]})["Rules"] == [off, guard.ABANDONED]
        part = {**theirs, "Filter": {"Prefix": "a/"}}
        assert len(guard.merged_lifecycle({"Rules": [part]})["Rules"]) == 2


def test_a_policy_beyond_what_s3_takes_is_refused() -> None:
    long = {"Statement": [{"Sid": str(n), "Resource": "r" * 1000} for n in range(20)]}
    with pytest.raises(guard.Refused, match="20 KB"):
        guard.merged_policy(long, [{"Sid": "S", "Resource": "r" * 1000}], ROLE)


STATEMENTS = st.fixed_dictionaries({"Effect": st.just("Deny")}, optional={"Sid": st.text()})


@given(st.lists(STATEMENTS, max_size=6), st.booleans())
def test_merging_keeps_every_other_statement_and_is_the_same_twice(
    there: list[dict[str, str]], alone: bool
) -> None:
    ours = bucket_policy("arn:aws:s3:::lake", ["data/"], "_coalesce/", ROLE)["Statement"]
    policy = {"Statement": there[0] if alone and there else there}
    merged = guard.merged_policy(policy, ours, ROLE)
    kept = there[:1] if alone and there else there
    assert merged["Statement"][: len(kept)] == kept
    assert len(merged["Statement"]) == len(kept) + len(ours)
    assert guard.merged_policy(merged, ours, ROLE) == merged
