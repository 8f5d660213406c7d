"""Outputs that grow: which outputs of earlier plans are joined again, with what lies beside them.

Pure. An output is joined again only where its neighbours together are at least as large as it is.
So what a byte lies in doubles whenever the byte is written again, and a byte is written about
log2(`--grow` / bytes of one run) times: the rule of a binary counter, and of log-structured merge
trees.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from coalesce.model import Group
from coalesce.naming.layouts import Layout
from coalesce.naming.sources import Places, SourcesBuilder
from coalesce.planning.batches import Chosen, choose_sources
from coalesce.planning.rules import Limits


class _Placed(NamedTuple):
    """An output that may grow, by its place among what may be joined; `size` is in bytes."""

    place: int
    size: int
    key: str


def grow(group: Group, layout: Layout, limits: Limits) -> Group:
    """Returns the group with those outputs among its sources that are to be joined again."""
    able = _able_to_grow(group, layout, limits)
    if not able:
        return group
    tried = _with_growing(group, able)
    chosen = choose_sources(tried, layout, limits)
    sizes = array("q", accumulate(chosen.sources.sizes(), initial=0))
    places = Places(chosen.sources)
    placed = [
        _Placed(place, output.size, output.key)
        for output in tried.growing
        if (place := places.find(output.first, output.key)) is not None
    ]
    placed.sort()
    worth: set[str] = set()
    for begin, end in _stretches(chosen, limits):
        inside = [output for output in placed if begin <= output.place < end]
        worth.update(_worth_joining(begin, end, inside, sizes, limits.min_files))
    return _with_growing(group, worth) if worth else group


def _able_to_grow(group: Group, layout: Layout, limits: Limits) -> set[str]:
    """Returns the keys of the outputs that may be joined again, as far as outputs alone tell.

    One that shares offsets with another is left: one of them may hold records of the other.
    """
    ordered = sorted(group.outputs, key=lambda output: output.first)
    able: set[str] = set()
    reached = -1
    for at, output in enumerate(ordered):
        shared = layout.comparable_offsets and (
            output.first <= reached
            or (at + 1 < len(ordered) and ordered[at + 1].first <= output.last)
        )
        reached = max(reached, output.last)
        if output.size < limits.grow and not shared:
            able.add(output.key)
    return able


def _with_growing(group: Group, keys: Collection[str]) -> Group:
    """The group with the outputs at these keys among its sources."""
    sources = SourcesBuilder(group.id.prefix)
    for source in group.sources:
        sources.add(source)
    growing = tuple(output for output in group.outputs if output.key in keys)
    for output in growing:
        sources.add(output)
    stay = tuple(output for output in group.outputs if output.key not in keys)
    return replace(group, sources=sources.build(), outputs=stay, growing=growing)


def _stretches(chosen: Chosen, limits: Limits) -> Iterator[tuple[int, int]]:
    """Yields where each run of neighbours that may become one output begins and ends."""
    begin = 0
    for stretch in chosen.stretches():
        for alike in stretch.by_class() if limits.one_class else (stretch,):
            yield begin, begin + len(alike)
            begin += len(alike)


def _worth_joining(
    begin: int, end: int, outputs: Sequence[_Placed], sizes: Sequence[int], min_files: int
) -> Iterator[str]:
    """Yields the keys of those outputs of a stretch that are to be joined again.

    Where the largest is more than the rest together, it stays, and divides the stretch. What
    remains on one side of it is then less than half, so the depth is logarithmic.

    Args:
        begin: The place where the stretch begins.
        end: The place behind it.
        outputs: The outputs in it, by place.
        sizes: For each place, the bytes of all that is before it.
        min_files: How many sources an output needs.
    """
    if not outputs:
        return
    largest = max(outputs, key=lambda output: output.size)
    if 2 * largest.size <= sizes[end] - sizes[begin]:
        if end - begin >= min_files:
            yield from (output.key for output in outputs)
        return
    at = outputs.index(largest)
    yield from _worth_joining(begin, largest.place, outputs[:at], sizes, min_files)
    yield from _worth_joining(largest.place + 1, end, outputs[at + 1 :], sizes, min_files)
