"""A work list: the only keys that a run may join.

The groups of its keys are listed all the same: a listing says which version of an object is there,
which outputs there are already, and which sources the list leaves out. No output extends across one
of those, since it would claim offsets that it does not hold.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from coalesce.errors import UsageError
from coalesce.model import Group, GroupId, ObjectInfo, Source
from coalesce.naming.layouts import Layout, source_of
from coalesce.naming.sources import Places, Sources, SourcesBuilder
from coalesce.settings import Settings, outermost

# Directories that a list without a prefix may name: they become the prefixes of the run, which
# other runs read in its lease.
_MOST_DIRECTORIES = 1000


class Wanted:
    """The keys of one group that are on the list, and which of them have been seen."""

    def __init__(self, listed: Sources) -> None:
        ordered = [-1, *range(len(listed))]
        once = (at for before, at in pairwise(ordered) if before < 0 or not _same(listed, at))
        self._sources = listed.take(once)
        self._places = Places(self._sources)
        self._seen = bytearray(len(self._sources))

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, source: object) -> bool:
        return isinstance(source, Source) and self._find(source) is not None

    def _find(self, source: Source) -> int | None:
        return self._places.find(source.first, source.key)

    def see(self, sources: Iterable[Source]) -> None:
        """Takes in the sources of the group that are there."""
        for source in sources:
            if (place := self._find(source)) is not None:
                self._seen[place] = 1

    def unseen(self) -> Iterator[str]:
        """Yields the keys that are not there."""
        return (self._sources[at].key for at, seen in enumerate(self._seen) if not seen)


def _same(listed: Sources, at: int) -> bool:
    return listed[at].key == listed[at - 1].key


@dataclass(slots=True)
class WorkList:
    """The keys of a work list that this run's shard owns.

    Attributes:
        groups: The groups of those that are sources.
        others: How many of the keys are no sources.
        other: The first of these; empty if there is none.
    """

    groups: dict[GroupId, Wanted] = field(default_factory=dict)
    others: int = 0
    other: str = ""

    @classmethod
    def of(cls, keys: Iterable[str], settings: Settings, today: dt.date) -> WorkList:
        """Sorts keys into groups; one that is on the list twice counts once.

        Raises UsageError for a key outside of the settings' prefixes, and for one whose group
        begins above them: its output would be written there.
        """
        found, prefixes = cls(), settings.prefixes(today)
        layout = settings.chosen_layout
        builders: dict[GroupId, SourcesBuilder] = {}
        for key in keys:
            if not key.startswith(prefixes):
                raise UsageError(
                    f"the work list names {key!r}, which is not under --prefix",
                    hint=f"The prefixes are {', '.join(prefixes)}; leave --prefix and --date out "
                    "to work under the directories of the keys.",
                )
            if not settings.shard.owns(key, layout.share_of):
                continue
            parsed = layout.parse(key)
            if parsed is None or parsed.kind != "source":
                found.others += 1
                found.other = found.other or key
                continue
            if not parsed.group.directory.startswith(prefixes):
                raise UsageError(
                    f"the work list names {key!r}, whose group is all of "
                    f"{parsed.group.directory!r}, which is not under --prefix",
                    hint=f"Write -p {parsed.group.directory or 'PREFIX'}, or leave --prefix out.",
                )
            if parsed.group not in builders:
                builders[parsed.group] = SourcesBuilder(parsed.group.prefix)
            builders[parsed.group].add(source_of(parsed, ObjectInfo(key, 0, "", 0.0)))
        found.groups = {group: Wanted(builder.build()) for group, builder in builders.items()}
        return found

    def see(self, groups: Iterable[Group]) -> None:
        """Takes in groups as they are listed."""
        for group in groups:
            if group.id in self.groups:
                self.groups[group.id].see(group.sources)

    def missing(self, unknown: tuple[str, ...]) -> list[str]:
        """The keys that are not there, but for those that begin with what is `unknown`."""
        return [
            key
            for wanted in self.groups.values()
            for key in wanted.unseen()
            if not key.startswith(unknown)
        ]

    def __len__(self) -> int:
        return self.others + sum(map(len, self.groups.values()))


def directories_of(keys: Iterable[str], layout: Layout) -> tuple[str, ...]:
    """The prefixes of a run whose work list goes without: the directories of its keys, or those
    above where groups of the layout begin, none inside another.

    Raises UsageError for an empty list, for a key at the bucket's root, and for too many
    directories.
    """
    found = outermost({_directory_of(key, layout) for key in keys})
    if not found:
        raise UsageError("the work list is empty", hint="Check --files-from.")
    if found == ("",):
        raise UsageError(
            "the work list names a key that is in no directory",
            hint="Add --whole-bucket if you mean that.",
        )
    if len(found) > _MOST_DIRECTORIES:
        raise UsageError(
            f"the keys of the work list are in {len(found):,} directories",
            hint="Say with --prefix what they have in common.",
        )
    return found


def _directory_of(key: str, layout: Layout) -> str:
    parsed = layout.parse(key)
    return key[: key.rfind("/") + 1] if parsed is None else parsed.group.directory
