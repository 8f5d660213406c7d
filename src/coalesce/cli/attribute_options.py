"""The options of what outputs say of themselves."""

from __future__ import annotations

from coalesce.cli.options import Group, Option

ATTRIBUTES = Group(
    "Attributes of outputs",
    (
        Option(
            ("--storage-class",),
            "storage class: source joins only sources of the same one; none leaves it to the store;"
            " {choices}",
            "CLASS",
        ),
        Option(
            ("--sse",),
            "server-side encryption, like that of the sources unless it is given: {choices}",
            "ALGORITHM",
        ),
        Option(
            ("--sse-kms-key-id",),
            "KMS key for --sse aws:kms and aws:kms:dsse; source is that of the sources",
            "KEY",
        ),
        Option(("--tags",), "tags: source, none, or these", "K=V,..."),
        Option(("--metadata",), "user metadata: source, none, or this", "K=V,..."),
        Option(("--content-type",), "content type: source, none, or this", "TYPE"),
        Option(("--content-encoding",), "content encoding: source, none, or this", "CODING"),
        Option(
            ("--strict-attributes",),
            "join only sources that say the same of themselves; otherwise the output has what its"
            " first source says, and differences are counted in the report",
        ),
    ),
)
