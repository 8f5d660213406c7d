"""Which layouts fit the keys of a bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coalesce.naming.foreign import foreign
from coalesce.naming.layouts import LAYOUTS, Layout

_EXAMPLES = 5


@dataclass(slots=True)
class Fit:
    """How many keys are sources and outputs of one layout."""

    layout: str
    sources: int = 0
    outputs: int = 0


class Fits:
    """What keys are taken for by each layout.

    Attributes:
        keys: How many there are.
        layouts: How many of them fit each layout.
        others: Those that fit none.
        foreign: How many of these are of each kind that cannot be joined.
    """

    def __init__(self, known: Mapping[str, Layout] = LAYOUTS) -> None:
        self._known = known
        self.keys = 0
        self.layouts = [Fit(name) for name in known]
        self.others: list[str] = []
        self.foreign: Counter[str] = Counter()

    def add(self, keys: Iterable[str]) -> None:
        """Counts these keys."""
        for key in keys:
            kinds = [(fit, self._known[fit.layout].parse(key)) for fit in self.layouts]
            for fit, parsed in kinds:
                fit.sources += parsed is not None and parsed.kind == "source"
                fit.outputs += parsed is not None and parsed.kind == "output"
            self.keys += 1
            if not any(parsed for _, parsed in kinds):
                self.others.append(key)
                if kind := foreign(key):
                    self.foreign[kind.what] += 1

    @property
    def unparsed(self) -> int:
        """How many keys fit no layout."""
        return len(self.others)

    @property
    def examples(self) -> list[str]:
        """The first keys that fit none."""
        return self.others[:_EXAMPLES]

    @property
    def best(self) -> str:
        """The layout that fits most keys, the first of several; empty if none fits any."""
        fit = max(self.layouts, key=lambda fit: fit.sources + fit.outputs)
        return fit.layout if fit.sources + fit.outputs else ""
