"""Gives an existing bucket the guards of bucket.yaml, beside the rules that it has.

    python deploy/aws/guard.py my-bucket --prefix corporate_storage/main --role ROLE_ARN

adds to the bucket's policy the statements under which the role may only create objects and only
delete by ETag, and to its lifecycle a rule for abandoned uploads. It shows the difference, asks,
and saves what was there before in a file;

    python deploy/aws/guard.py my-bucket --undo FILE

puts that back. Run it once for each location in the bucket, with the role of that location's stack.
"""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from coalesce.inspect.policy import bucket_policy

# Runs clean up after earlier runs; this rule is for prefixes where no run comes again. Two days, so
# that it never hits a live run.
ABANDONED = {
    "ID": "abandoned-uploads",
    "Status": "Enabled",
    "Filter": {},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
}
LARGEST_POLICY = 20 * 1024
NONE_YET = ("NoSuchBucketPolicy", "NoSuchLifecycleConfiguration")

Rules = dict[str, Any]


class Refused(Exception):
    """The bucket is left as it is."""


def merged_policy(policy: Rules, statements: Sequence[Rules], role: str) -> Rules:
    """The policy with the statements in it, once for each role whatever it held of them before.

    Args:
        policy: The one that the bucket has; empty if it has none.
        statements: Those of `bucket_policy` for the role.
        role: The ARN of the role; its name goes into the ids, which are unique in a policy.
    """
    name = re.sub(r"[^A-Za-z0-9]", "", role.rpartition("/")[2])
    ours = {f"{one['Sid']}{name}": one for one in statements}
    ours = {sid: {**one, "Sid": sid} for sid, one in ours.items()}
    there = policy.get("Statement", [])
    there = there if isinstance(there, list) else [there]
    held = [ours.pop(str(one.get("Sid")), one) for one in there]
    merged = {"Version": "2012-10-17", **policy, "Statement": [*held, *ours.values()]}
    if len(json.dumps(merged, separators=(",", ":"))) > LARGEST_POLICY:
        raise Refused("the policy would be larger than the 20 KB that S3 allows")
    return merged


def merged_lifecycle(lifecycle: Rules) -> Rules:
    """The lifecycle with a rule for abandoned uploads, unless one already covers the bucket."""
    rules = lifecycle.get("Rules", [])
    if any(_ends_uploads(rule) for rule in rules):
        return lifecycle
    kept = [rule for rule in rules if rule.get("ID") != ABANDONED["ID"]]
    return {**lifecycle, "Rules": [*kept, ABANDONED]}


def _ends_uploads(rule: Rules) -> bool:
    everywhere = rule.get("Filter", {"Prefix": rule.get("Prefix", "")}) in ({}, {"Prefix": ""})
    enabled = rule.get("Status") == "Enabled"
    return everywhere and enabled and "AbortIncompleteMultipartUpload" in rule


def difference(before: Rules, after: Rules) -> str:
    """What changes, line by line; empty if nothing does."""
    old, new = (json.dumps(one, indent=2).splitlines() for one in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm=""))


class Bucket:
    """The policy and the lifecycle of a bucket."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name = client, name

    def read(self) -> Rules:
        """Both as they are now; each is empty if there is none."""
        policy = self._get("get_bucket_policy").get("Policy", "{}")
        answer = self._get("get_bucket_lifecycle_configuration")
        names = ("Rules", "TransitionDefaultMinimumObjectSize")
        lifecycle = {name: answer[name] for name in names if answer.get(name)}
        # Dates come as objects.
        return {
            "policy": json.loads(policy),
            "lifecycle": json.loads(json.dumps(lifecycle, default=dt.datetime.isoformat)),
        }

    def write(self, before: Rules, after: Rules) -> None:
        """Sets those of both that differ, if they still are what they were before."""
        if self.read() != before:
            raise Refused("the bucket's rules have changed meanwhile; start again")
        if after["lifecycle"] != before["lifecycle"]:
            self._set_lifecycle(dict(after["lifecycle"]))
        if after["policy"] != before["policy"]:
            self._set_policy(after["policy"])

    def _get(self, operation: str) -> Rules:
        try:
            return dict(getattr(self._client, operation)(Bucket=self._name))
        except ClientError as error:
            if error.response["Error"]["Code"] in NONE_YET:
                return {}
            raise

    def _set_policy(self, policy: Rules) -> None:
        if policy:
            self._client.put_bucket_policy(Bucket=self._name, Policy=json.dumps(policy))
        else:
            self._client.delete_bucket_policy(Bucket=self._name)

    def _set_lifecycle(self, lifecycle: Rules) -> None:
        if lifecycle:
            rules = {"Rules": lifecycle.pop("Rules")}
            self._client.put_bucket_lifecycle_configuration(
                Bucket=self._name, LifecycleConfiguration=rules, **lifecycle
            )
        else:
            self._client.delete_bucket_lifecycle(Bucket=self._name)


def change(bucket: Bucket, before: Rules, after: Rules, yes: bool) -> bool:
    """Shows the difference, asks and writes; whether there was one."""
    shown = difference(before, after)
    if not shown:
        print("nothing to change")
        return False
    print(shown)
    if not yes and input("change the bucket? [y/N] ").strip().lower() not in ("y", "yes"):
        raise Refused("not confirmed")
    bucket.write(before, after)
    return True


def guard(bucket: Bucket, options: argparse.Namespace) -> None:
    """Merges the guards into the bucket's rules."""
    prefixes = [f"{prefix.strip('/')}/" for prefix in options.prefix]
    arn = f"arn:{options.role.split(':')[1]}:s3:::{options.bucket}"
    state = f"{options.state.strip('/')}/"
    statements = bucket_policy(arn, prefixes, state, options.role)["Statement"]
    before = bucket.read()
    after = {
        "policy": merged_policy(before["policy"], statements, options.role),
        "lifecycle": merged_lifecycle(before["lifecycle"]),
    }
    # Saved before anything is written, and never over an earlier file.
    if difference(before, after):
        with options.save.open("x") as file:
            json.dump({"bucket": options.bucket, "before": before, "after": after}, file, indent=1)
        print(f"what is there now is saved in {options.save}")
    if change(bucket, before, after, options.yes):
        # As the store gives it back, which may differ in form.
        saved = {"bucket": options.bucket, "before": before, "after": bucket.read()}
        options.save.write_text(json.dumps(saved, indent=1))


def undo(bucket: Bucket, options: argparse.Namespace) -> None:
    """Puts back what was there before, if nobody has changed it since."""
    saved = json.loads(options.undo.read_text())
    if saved["bucket"] != options.bucket:
        raise Refused(f"{options.undo} is of the bucket {saved['bucket']}")
    now = bucket.read()
    if any(now[part] not in (saved["before"][part], saved["after"][part]) for part in now):
        print(difference(saved["after"], now))
        raise Refused("the bucket's rules have changed since, as shown; undo later changes first")
    change(bucket, now, saved["before"], options.yes)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked."""
    summary, _, description = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    now = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}"
    parser.add_argument("bucket")
    parser.add_argument("--prefix", action="append", default=[], help="as the job has it; several")
    parser.add_argument("--role", default="", help="ARN of the job's role")
    parser.add_argument("--state", default="_coalesce/", help="state prefix of the job")
    parser.add_argument("--undo", type=Path, metavar="FILE", help="put back what FILE has saved")
    parser.add_argument("--save", type=Path, metavar="FILE", default=Path(f"guard-{now}.json"))
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--endpoint-url")
    options = parser.parse_args(arguments)
    if options.undo is None and not (all(options.prefix) and options.prefix and options.role):
        parser.error("--prefix and --role are needed, or --undo")
    if options.undo is None and not re.fullmatch(r"arn:[\w-]+:iam::\d+:role/.+", options.role):
        parser.error("--role is the ARN of a role")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Changes the bucket as the options say; the exit code."""
    options = parsed(arguments)
    client = get_session().create_client("s3", endpoint_url=options.endpoint_url)
    bucket = Bucket(client, options.bucket)
    try:
        (undo if options.undo else guard)(bucket, options)
    except (Refused, ClientError, BotoCoreError, OSError) as error:
        print(f"{options.bucket}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
