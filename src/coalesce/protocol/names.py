"""Which sources of a group there are, by one listing."""

from __future__ import annotations

from coalesce.listing.pages import all_pages
from coalesce.model import GroupId, Source
from coalesce.naming.layouts import Layout, source_of
from coalesce.naming.sources import Places, Sources, SourcesBuilder
from coalesce.protocol.session import Session


class SourcesThere:
    """The sources of a group that a listing has shown.

    `date` is when that was, in whole seconds since the epoch by the store's clock.
    """

    def __init__(self, layout: Layout, sources: Sources, date: float) -> None:
        self.date = date
        self._layout = layout
        self._sources = sources
        self._places = Places(sources)

    def find(self, key: str) -> Source | None:
        """The source with this key, None if there is none."""
        name = self._layout.parse(key)
        place = self._places.find(name.first, key) if name else None
        return None if place is None else self._sources[place]


async def list_sources(session: Session, group: GroupId) -> SourcesThere:
    """Lists the sources of a group, named as the session's layout says. Raises StorageError."""
    layout, found, date = session.rules.layout, SourcesBuilder(group.prefix), 0.0
    async for page in all_pages(session.store, group.prefix):
        date = date or page.date
        for entry in page.objects:
            name = layout.parse(entry.key)
            if name is not None and (name.kind, name.group) == ("source", group):
                found.add(source_of(name, entry))
    return SourcesThere(layout, found.build(), date)
