"""The option that limits a run to the keys of a list."""

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
    ),
)
