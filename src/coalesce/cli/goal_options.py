"""The options that say what is to be left, from which the size of outputs follows."""

from __future__ import annotations

from coalesce.cli.options import Group, Option

GOALS = Group(
    "Batching",
    (
        Option(
            ("--max-objects",),
            "make outputs as large as it takes to leave at most N objects under the prefixes,"
            " instead of --max-size",
            "N",
        ),
        Option(
            ("--max-path-list",),
            "make outputs as large as it takes for a comma-joined list of all paths of at most N"
            " characters, instead of --max-size",
            "N",
        ),
    ),
)
