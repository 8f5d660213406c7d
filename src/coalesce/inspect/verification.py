"""What came of a verification, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field

from coalesce import __version__
from coalesce.report.events import WarningEvent
from coalesce.report.report import Failure, ScopePart


class Verification(BaseModel):
    """What was checked, and what failed.

    `unsummed` outputs have no full-object CRC64NVME in the store. `bytes`, `sources` and `records`
    are those of the `proven` outputs; `records` is None unless `deep`. `warnings` say why nothing
    was found.

    Of the proven outputs `recorded` ones are what their ledger entry says, and `unrecorded` ones
    have none. `digests` is how many sources were found in their outputs by the digests of their
    content; None unless `deep`. `missing` outputs have an entry and are gone, which counts as
    failed; those of an `unfinished` group need not be there yet, and those that were `joined_again`
    are in another output (`--grow`).
    """

    type: Literal["verify"] = "verify"
    schema_version: Literal[1] = Field(default=1, alias="schema")
    version: str = __version__
    scope: ScopePart
    deep: bool
    outputs: int = 0
    proven: int = 0
    failed: int = 0
    unsummed: int = 0
    recorded: int = 0
    unrecorded: int = 0
    missing: int = 0
    unfinished: int = 0
    joined_again: int = 0
    digests: int | None = None
    bytes: int = 0
    sources: int = 0
    records: int | None = None
    failures: list[Failure] = Field(default_factory=list)
    warnings: list[WarningEvent] = Field(default_factory=list)
    exit_code: int = 0


@dataclass(slots=True)
class Extent:
    """How far a verification is, for whoever watches it.

    Attributes:
        found: Outputs that have been listed.
        all_listed: Whether there are no others.
        proven: Outputs that have been proven.
        failed: Outputs, and pieces of the listing, that have failed.
        bytes: Those of the proven outputs.
    """

    found: int = 0
    all_listed: bool = False
    proven: int = 0
    failed: int = 0
    bytes: int = 0
