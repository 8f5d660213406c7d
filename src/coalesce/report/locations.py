"""The sources of a run by where they lie: the prefix, and the day in the key."""

from __future__ import annotations

import re
from collections.abc import Iterable

from coalesce.report.report import MOST_LOCATIONS, LocationPart

_DAY = re.compile(r"(?:^|/)(\d{4}/\d{2}/\d{2})/", re.ASCII)
_OTHERS = "(others)"


def locate(directory: str, prefixes: Iterable[str]) -> tuple[str, str]:
    """The location of a directory, and its day as `yyyy/MM/dd`, empty without one.

    A location is what goes before the day, or else the prefix that was asked for.
    """
    if found := _DAY.search(directory):
        return directory[: found.start(1)], found[1]
    holding = (prefix for prefix in prefixes if directory.startswith(prefix))
    return max(holding, key=len, default=directory), ""


class Locations:
    """Adds up a bounded number of locations and days; what comes after those counts as others."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._prefixes = tuple(prefixes)
        self._found: dict[tuple[str, str], LocationPart] = {}

    def share_of(self, directory: str) -> LocationPart:
        """Where the sources of a directory count."""
        place = locate(directory, self._prefixes)
        if place not in self._found and len(self._found) >= MOST_LOCATIONS:
            place = _OTHERS, ""
        location, date = place
        return self._found.setdefault(place, LocationPart(location=location, date=date))

    def clear(self) -> None:
        """Forgets what was added up."""
        self._found.clear()

    def sorted(self) -> list[LocationPart]:
        """All of them, by location and day."""
        return [self._found[place] for place in sorted(self._found)]
