"""What every group of a run is worked under, and what a process works on it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coalesce.content.attributes import AttributeRules
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.planning.parts import PartSizes
from coalesce.planning.rules import Limits
from coalesce.protocol.lease import Claim
from coalesce.storage.base import ObjectStore
from coalesce.storage.capabilities import Capabilities
from coalesce.transfer.limits import Capacity


@dataclass(frozen=True, slots=True)
class GroupRules:
    """The same for all groups of a run, in whichever of its processes they are worked on.

    `delete` off commits outputs and keeps sources and plan records; `ledger` off removes the ledger
    entries with the plan record; `undo` on settles the undo records of dead runs too. `known` are
    all layouts that records of earlier runs may have. A plan record holds at most `round_batches`
    batches and `round_sources` sources: a larger group takes several rounds.
    """

    state: str
    run_id: str
    version: str
    layout: Layout
    limits: Limits
    capabilities: Capabilities
    check: bool = True
    delete: bool = True
    ledger: bool = True
    undo: bool = False
    attributes: AttributeRules = field(default_factory=AttributeRules)
    sizes: PartSizes = field(default_factory=PartSizes)
    known: Mapping[str, Layout] = field(default_factory=lambda: LAYOUTS)
    round_batches: int = 64
    round_sources: int = 25_000


@dataclass(frozen=True, slots=True)
class Session:
    """One process at work on a run's groups: its connections, its part of the capacity, and the
    lease that it works under.
    """

    store: ObjectStore
    rules: GroupRules
    lease: Claim
    capacity: Capacity
