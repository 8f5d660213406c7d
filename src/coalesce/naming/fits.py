"""Which layouts fit the keys of a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from coalesce.naming.layouts import LAYOUTS

_EXAMPLES = 5


@dataclass(slots=True)
class Fit:
    """How many keys are sources and outputs of one layout."""

    layout: str
    sources: int = 0
    outputs: int = 0


@dataclass(slots=True)
class Fits:
    """What keys are taken for by each layout; `examples` are the first that fit none."""

    keys: int = 0
    unparsed: int = 0
    layouts: list[Fit] = field(default_factory=lambda: [Fit(name) for name in LAYOUTS])
    examples: list[str] = field(default_factory=list)

    def add(self, keys: Iterable[str]) -> None:
        """Counts these keys."""
        for key in keys:
            kinds = [(fit, LAYOUTS[fit.layout].parse(key)) for fit in self.layouts]
            for fit, parsed in kinds:
                fit.sources += parsed is not None and parsed.kind == "source"
                fit.outputs += parsed is not None and parsed.kind == "output"
            self.keys += 1
            if not any(parsed for _, parsed in kinds):
                self.unparsed += 1
                if len(self.examples) < _EXAMPLES:
                    self.examples.append(key)

    @property
    def best(self) -> str:
        """The layout that fits most keys, the first of several; empty if none fits any."""
        fit = max(self.layouts, key=lambda fit: fit.sources + fit.outputs)
        return fit.layout if fit.sources + fit.outputs else ""
