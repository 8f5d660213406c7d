"""The options that say which objects there are, or which of them are meant."""

from __future__ import annotations

from coalesce.cli.options import Group, Option

WORK_LIST = Group(
    "Scope",
    (
        Option(
            ("--files-from",),
            "join these keys only: a key or s3:// URL on each line of this file, s3:// URL or, for"
            " -, of stdin; without --prefix, work under their directories",
            "FILE",
        ),
        Option(
            ("--inventory",),
            "list only the groups that have anything to join by an S3 Inventory (CSV): the s3://"
            " URL of its manifest.json",
            "URL",
        ),
    ),
)
