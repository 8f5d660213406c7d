"""`coalesce policy`: rights to copy into a role and a bucket."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from coalesce.cli import options as o
from coalesce.cli.exits import exit_with
from coalesce.errors import UsageError


def command(
    targets: o.Targets = None,
    bucket: o.Bucket = None,
    prefix: o.Prefix = None,
    whole_bucket: o.WholeBucket = None,
    state: o.State = None,
    region: o.Region = None,
    report: o.ReportTo = None,
    config: o.Config = None,
    kms_key: Annotated[
        list[str] | None, o.option("--kms-key", help="ARN of the bucket's KMS key; repeatable")
    ] = None,
    for_bucket: Annotated[
        bool, o.option("--bucket-policy", help="the policy of the bucket instead of the role's")
    ] = False,
    role: Annotated[
        str | None, o.option("--role", help="ARN of the job's role, for --bucket-policy")
    ] = None,
) -> None:
    """Print the least policy of the job's role; or one of the bucket that enforces conditional
    writes and deletes.
    """
    given = dict(locals())

    def work() -> int:
        from coalesce.cli.values import gathered, settings_of
        from coalesce.inspect.policy import arn_of, bucket_policy, role_policy
        from coalesce.settings import as_directory

        values = gathered(given)
        settings = settings_of({**values, "date": "NOT_SET", "shard": "0/1"})
        arn = arn_of(settings.bucket, region or "")
        prefixes = [as_directory(root) for root in settings.prefix] or [""]
        if for_bucket:
            if not role:
                raise UsageError("--bucket-policy needs --role ARN: others may write as they did")
            document = bucket_policy(arn, prefixes, settings.state_prefix, role)
        else:
            path = str(values.get("report") or "")
            written = (
                f"{arn.rpartition(':')[0]}:{path.removeprefix('s3://')}"
                if path.startswith("s3://")
                else ""
            )
            written = written.replace("{shard}", "*").replace("{run_id}", "*")
            document = role_policy(
                arn, prefixes, settings.state_prefix, report=written, kms_keys=kms_key or ()
            )
        typer.echo(json.dumps(document, indent=2))
        return 0

    exit_with(work)
