"""What `undo` is asked about besides its scope."""

from __future__ import annotations

from coalesce.cli.options import Group, Option

UNDOING = Group(
    "Undo",
    (
        Option(
            ("--run",),
            "only outputs that the run with this id has written; its report and the ledger name it",
            "ID",
        ),
        Option(
            ("--dry-run",),
            "show what would be given back and what that would cost; writes nothing to the bucket",
        ),
    ),
)
