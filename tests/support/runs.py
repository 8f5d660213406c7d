"""Runs over a bucket in memory, with parts and rounds that are small enough for it."""

from dataclasses import replace
from typing import Any

from coalesce.planning.parts import PART_BYTES, PartSizes
from coalesce.protocol.session import GroupRules
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryStore


class NoLease:
    """Holds for ever."""

    untidy = False

    def check(self) -> None: ...

    def mark_untidy(self) -> None:
        self.untidy = True


async def nobody(_: str) -> bool:
    """No run is alive."""
    return False


def new_run(store: MemoryStore, chosen: Settings, *arguments: Any, **more: Any) -> Run:
    """A run whose parts are as small as the bucket allows, in rounds of so many outputs."""
    rounds = getattr(store.bucket, "round_batches", 64)

    def tune(rules: GroupRules) -> GroupRules:
        usual = getattr(store.bucket, "part_bytes", PART_BYTES)
        sizes = PartSizes(usual=usual, least=store.bucket.min_part_bytes)
        return replace(rules, round_batches=rounds, sizes=sizes)

    return Run(store, chosen, *arguments, **({"tune": tune} | more))
