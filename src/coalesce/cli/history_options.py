"""What the commands that answer from the ledger are asked."""

from __future__ import annotations

from coalesce.cli.options import Group, Option

HISTORY = Group(
    "History",
    (
        Option(
            (),
            "keys of sources or outputs; with --run or --offset, where to look",
            "s3://BUCKET/KEY",
            repeatable=True,
            field="targets",
        ),
        Option(("--run",), "which outputs the run of this id made under the prefixes", "ID"),
        Option(
            ("--offset",),
            "which source under the prefixes held this offset, and where it is now",
            "TOPIC:PARTITION:N",
        ),
    ),
)

EXTRACTION = Group(
    "Extraction",
    (
        Option((), "the source's key", "s3://BUCKET/KEY", repeatable=True, field="targets"),
        Option(
            ("--to-file", "-o"), "write to this file instead of stdout, once all is proven", "FILE"
        ),
        Option(("--force",), "write over the file if it is there"),
    ),
)
