"""The rules that plans are made by: groups and keys in scope, sources and bytes per output."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from coalesce.model import Codec, GroupId, Records, Source
from coalesce.settings import TAKE_SOURCES, Settings

_DEFAULTS = Settings.model_fields


@dataclass(frozen=True, slots=True)
class Limits:
    """The rules of a plan: sources and bytes per output, and what is left alone.

    `max_size` is in bytes, `min_age` in seconds. `copy` allows server-side copies; `single` makes
    one member of each output, where its codec can be made one; `one_class` joins only sources of
    the same storage class. Outputs of less than `grow` bytes may be joined again. `wanted` are the
    only sources to join, None for all of them.
    """

    max_files: int = _DEFAULTS["max_files"].default
    max_size: int = _DEFAULTS["max_size"].default
    min_files: int = _DEFAULTS["min_files"].default
    min_age: float = _DEFAULTS["min_age"].default
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    copy: bool = False
    single: bool = False
    one_class: bool = True
    grow: int = 0
    wanted: Container[Source] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Returns the limits in a run's settings, of whatever codec its groups are."""
        return cls(
            max_files=settings.max_files,
            max_size=settings.max_size,
            min_files=settings.min_files,
            min_age=settings.min_age,
            include=settings.include,
            exclude=settings.exclude,
            single=settings.gzip_mode == "single",
            one_class=settings.storage_class == TAKE_SOURCES,
            grow=settings.grow or 0,
        )

    def of_content(self, codec: Codec, records: Records) -> Limits:
        """Returns the run's limits as they are for groups of this content.

        What is compressed again may come out a little longer, so it is planned to 97% of
        `max_size`; and it does not have the bytes that the store could copy. A header can only be
        taken out of what is not compressed.
        """
        header = records is Records.CSV_HEADER
        if codec is Codec.PLAIN and header:
            return replace(self, single=False, copy=False)
        if header or (self.single and codec.is_compressed_again):
            return replace(self, single=True, max_size=self.max_size * 97 // 100, copy=False)
        return replace(self, single=False) if self.single else self


@dataclass(frozen=True, slots=True)
class Scope:
    """Which groups are worked on at all.

    Empty means all; topics are shell patterns; `only` are the groups of a plan.
    """

    partitions: tuple[int, ...] = ()
    topics: tuple[str, ...] = ()
    only: frozenset[GroupId] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Scope:
        """Returns the scope in a run's settings."""
        return cls(partitions=settings.partition, topics=settings.topic)

    def covers(self, group: GroupId) -> bool:
        """Whether this run works on the group."""
        return (
            (not self.partitions or group.partition in self.partitions)
            and (not self.topics or any(fnmatchcase(group.topic, topic) for topic in self.topics))
            and (self.only is None or group in self.only)
        )


def selected(key: str, limits: Limits) -> bool:
    """Whether a key passes the user's patterns."""
    included = not limits.include or any(fnmatchcase(key, glob) for glob in limits.include)
    return included and not any(fnmatchcase(key, glob) for glob in limits.exclude)
