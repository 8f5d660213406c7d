"""What a listing has shown of a group."""

from __future__ import annotations

from dataclasses import dataclass

from coalesce.model import Group, GroupId
from coalesce.naming.sources import Sources


@dataclass(frozen=True, slots=True)
class ListedGroup:
    """How much of a group a listing has shown: its sources, their bytes, and all its keys.

    `growing` of the sources are outputs of earlier runs.
    """

    group: GroupId
    sources: int
    bytes: int
    keys: int
    key_characters: int
    growing: int = 0

    @classmethod
    def of(cls, group: Group) -> ListedGroup:
        """Measures a group."""
        keys = [*(source.key for source in group.sources), *(out.key for out in group.outputs)]
        sizes = Sources.of(group.id.prefix, group.sources).sizes()
        characters = sum(map(len, keys))
        count, growing = len(group.sources), len(group.growing)
        return cls(group.id, count, sum(sizes), len(keys), characters, growing)
