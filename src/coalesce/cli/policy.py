"""`coalesce policy`: rights to copy into a role and a bucket."""

from __future__ import annotations

import json

from coalesce.cli.options import Values
from coalesce.cli.output import print_line
from coalesce.cli.request import OutputOptions, PolicyOptions, StoreOptions, parse
from coalesce.errors import UsageError
from coalesce.inspect.policy import bucket_policy, role_policy
from coalesce.library.refusal import quote
from coalesce.settings import Settings, as_directory
from coalesce.storage.rights import arn_of


def print_policy(values: Values) -> int:
    """Prints the policy that the values ask for; the exit code. Raises UsageError."""
    settings = parse(Settings, {**values, "date": "NOT_SET", "shard": "0/1"})
    options = parse(PolicyOptions, values)
    arn = arn_of(settings.bucket, parse(StoreOptions, values).region)
    prefixes = [as_directory(root) for root in settings.prefix] or [""]
    if options.bucket_policy:
        if not options.role:
            raise UsageError(
                "--bucket-policy needs --role",
                hint="Name the job's role by its ARN: only this role is restricted.",
            )
        if not options.role.startswith("arn:"):
            raise UsageError(
                f"--role {quote(options.role)}: not an ARN",
                hint="Write it as arn:aws:iam::ACCOUNT:role/NAME.",
            )
        document = bucket_policy(arn, prefixes, settings.state_prefix, options.role)
    else:
        report = parse(OutputOptions, values).report
        document = role_policy(
            arn,
            prefixes,
            settings.state_prefix,
            report=_report_arn(arn, report) if report.startswith("s3://") else "",
            kms_keys=options.kms_key,
        )
    print_line(json.dumps(document, indent=2))
    return 0


def _report_arn(arn: str, url: str) -> str:
    path = url.removeprefix("s3://").replace("{shard}", "*").replace("{run_id}", "*")
    return f"{arn.rpartition(':')[0]}:{path}"
