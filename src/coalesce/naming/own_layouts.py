"""A user's own layout, as `[layout.NAME]` in the configuration file says it, and its checks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice, product
from typing import Literal

from pydantic import BaseModel, ConfigDict

from coalesce.model import Codec, Records
from coalesce.naming.layout_data import Kind, LayoutData, Offsets
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.naming.linear import compile_linear
from coalesce.naming.patterns import Template, kind_of, sub_patterns

_NAME = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_ALLOWED = re.compile(r"\(\?(?!P<|:)")

# Texts of which some match most fields: what is tried of a layout before there is a key to try.
_TEXTS = (
    "",
    *("0", "7", "12", "2026", "20261126", "202611262155", "20261126215500", "00000000000000000042"),
    *("20261126T215500", "20261126T215500Z", "20261126T2155Z", "2026-11-26", "2026-11-26-21"),
    *("2026-11-26T21:55:00Z", "2026-11-26T21-55-00", "2026-11-26-21-55-00", "21-55-00", "21"),
    *("a", "abc", "web-1", "app.web", "A1", "ip-10-0-0-1", "fddd7a0e-fad9-4f7e-9bce-00ae5debc563"),
    *(".gz", ".log", ".json", ".json.gz", ".log.gz", "json", "log", "gz"),
)
_TRIED = 200


class OwnLayout(BaseModel):
    """What a user says of a layout; see `LayoutData`. Without a codec, endings tell it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    group: tuple[str, ...]
    order: tuple[str, ...]
    output: str
    codec: Codec | None = None
    records: Records = Records.LINES
    offsets: Literal["range", "start", "none"] = "none"

    def layout(self, name: str) -> Layout:
        """Returns the layout. Raises ValueError, which says what is wrong with it."""
        if not _NAME.fullmatch(name):
            raise ValueError("its name is not lower-case letters, digits and hyphens")
        if name in LAYOUTS:
            raise ValueError("a layout of this name comes with the program; choose another name")
        found = Layout(self._data(name))
        try:
            found.prepare()
        except ValueError as error:
            raise ValueError(f"source: {error}") from error
        _try(found)
        return found

    def _data(self, name: str) -> LayoutData:
        try:
            fields = sub_patterns(self.source)
            if _ALLOWED.search(self.source):
                raise ValueError("of groups that begin with (? only (?P<name> and (?: are known")
            if not self.source.startswith("(?P<dir>"):
                raise ValueError("it does not begin with the group dir, such as (?P<dir>.*/)")
        except ValueError as error:
            raise ValueError(f"source: {error}") from error
        self._check_fields(fields)
        self._check_output(fields)
        return LayoutData(
            name=name,
            source=self.source,
            group=self.group,
            order=tuple((field, kind_of(fields[field])) for field in self.order),
            output=self.output,
            example=self.source,
            output_example=self.output,
            samples=(),
            codecs=(self.codec,) if self.codec else tuple(Codec),
            records=self.records,
            offsets=Offsets(self.offsets),
            comparable_offsets=self.offsets != "none",
            own=True,
        )

    def _check_fields(self, fields: Mapping[str, str]) -> None:
        for name, chosen in (("group", self.group), ("order", self.order)):
            if missing := [field for field in chosen if field not in fields]:
                raise ValueError(f"{name}: source has no group {missing[0]}")
            if len(set(chosen)) != len(chosen):
                raise ValueError(f"{name}: a field is there twice")
        if "dir" not in self.group:
            raise ValueError("group: dir is missing; objects are joined inside one directory")
        if not 1 <= len(self.order) <= 2:
            raise ValueError("order: one field or two")
        if both := set(self.group) & set(self.order):
            raise ValueError(f"order: {min(both)} is a field of the group already")
        wanted = {"range": 2, "start": 1}.get(self.offsets, 0)
        numbers = [field for field in self.order if kind_of(fields[field]) is Kind.NUMBER]
        if wanted and not len(numbers) == len(self.order) == wanted:
            raise ValueError(f"offsets: {self.offsets} needs {wanted} order fields of digits alone")

    def _check_output(self, fields: Mapping[str, str]) -> None:
        """Every field of the group must stand in an output's name, or two groups could have one."""
        try:
            template = Template.of(self.output)
        except ValueError as error:
            raise ValueError(f"output: {error}") from error
        texts = [part for part in template.parts if isinstance(part, str)]
        if any("/" in text or "*" in text for text in texts):
            raise ValueError("output: neither / nor * may follow {dir}")
        if sorted(("dir", *template.group_fields)) != sorted(self.group):
            raise ValueError("output: every field of the group must stand in it once, and no other")
        ends = ("max", "last") if self.offsets == "range" else ("last",)
        for end, field in template.range_fields:
            if field not in fields or (end == "max" and field != self.order[-1]):
                raise ValueError(f"output: {{{end}.{field}}} is not known")
        begin = self.order[0]
        named = template.range_fields
        if ("first", begin) not in named or not any(
            (end, field) in named for end in ends for field in self.order
        ):
            raise ValueError(f"output: {{first.{begin}}} and {{last.{begin}}} must stand in it")


@lru_cache(64)
def known_layouts(own: tuple[tuple[str, OwnLayout], ...]) -> Mapping[str, Layout]:
    """Returns all layouts by name: those of the program, and a user's own.

    Raises ValueError for one that cannot be used.
    """
    known = dict(LAYOUTS)
    for name, said in own:
        try:
            known[name] = said.layout(name)
        except ValueError as error:
            raise ValueError(f"[layout.{name}] {error}") from error
    return known


def check_sample(layout: Layout, keys: Iterable[str]) -> None:
    """Tries a layout on keys that are there.

    Raises ValueError if it takes keys for sources, and none of them could be joined.
    """
    unclear = [key for key in keys if layout.names_source(key)]
    if unclear and not any(layout.parse(key) for key in unclear):
        raise ValueError(
            f"output: that of {unclear[0]!r} would be taken for a source, or for another group's"
        )


def _try(layout: Layout) -> None:
    """Tries a layout on made-up fields. Raises ValueError if no output of them would be told from a
    source, or its group from others.
    """
    fields = sub_patterns(layout.data.source)
    used = sorted({part.field for part in Template.of(layout.data.output).placeholders} - {"dir"})
    texts = [_matching(fields[name]) for name in used]
    made_up = [dict(zip(used, chosen, strict=True)) for chosen in islice(product(*texts), _TRIED)]
    if made_up and not any(map(layout.tells_apart, made_up)):
        shown = layout.spell(made_up[-1])
        raise ValueError(
            f"output: a name such as {shown!r} would be taken for a source, or for another group's"
        )


def _matching(pattern: str) -> list[str]:
    matches = compile_linear(pattern).fullmatch
    return [text for text in _TEXTS if matches(text) is not None][:3]
