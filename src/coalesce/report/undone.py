"""What was given back, in a report."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PrivateAttr

from coalesce.model import UndoneOutput


class UndonePart(BaseModel):
    """Outputs that were given back and deleted, their sources, and the bytes of these outputs.

    Those whose undo an earlier run had begun are counted by the run that finishes it.
    """

    model_config = ConfigDict(extra="ignore")  # a later version may say more

    outputs: int = 0
    sources: int = 0
    bytes: int = 0
    _keys: set[str] = PrivateAttr(default_factory=set)

    def add(self, outputs: int, sources: int, size: int) -> None:
        """Adds so many outputs, of so many sources and bytes in all."""
        self.outputs += outputs
        self.sources += sources
        self.bytes += size

    def add_output(self, output: UndoneOutput) -> None:
        """Adds one output."""
        self.add(1, output.sources, output.size)
        self._keys.add(output.key)

    def has(self, output: str) -> bool:
        """Whether this run has given an output back, by its key."""
        return output in self._keys
