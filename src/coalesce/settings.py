"""What a run is told, checked once and frozen: the border between the outside's text and the
program's values.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from coalesce.naming.shards import WHOLE, Shard

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_DAY = re.compile(r"(\d{4})[-/](\d{2})[-/](\d{2})")


def parse_size(text: object) -> object:
    """Bytes of `128MB` (decimal) or `64MiB` (binary); plain numbers are bytes.

    Raises ValueError.
    """
    if not isinstance(text, str):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; write bytes, or a number with a unit such as 128MB or 64MiB"
        )
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


def parse_duration(text: object) -> object:
    """Seconds of `90s`, `5m`, `2h`, `1d`; plain numbers are seconds. Raises ValueError."""
    if not isinstance(text, str):
        return text
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration; write a number with a unit such as 90s, 5m or 2h"
        )
    return float(match[1]) * _SECONDS[match[2]]


def parse_days(text: str, today: dt.date) -> tuple[dt.date, ...]:
    """The days that `--date-to-add` names, in order; none for NOT_SET. `today` is UTC's.

    Raises ValueError.
    """
    word = text.strip()
    if word.upper() == "NOT_SET" or not word:
        return ()
    begin, dots, end = word.partition("..")
    first = _day(begin, today)
    last = _day(end, today) if dots else first
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    return tuple(first + dt.timedelta(days=n) for n in range((last - first).days + 1))


def _day(text: str, today: dt.date) -> dt.date:
    word = text.strip().lower()
    if word in ("today", "yesterday"):
        return today - dt.timedelta(days=word == "yesterday")
    match = _DAY.fullmatch(word)
    if match is None:
        raise ValueError(
            f"{text!r} is not a day; write today, yesterday, 2026-11-22, 2026/11/22, A..B or NOT_SET"
        )
    return dt.date(int(match[1]), int(match[2]), int(match[3]))


def as_directory(prefix: str) -> str:
    """A prefix as whole path segments: it ends with a slash, so that `a/b` never matches `a/bc`."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


Bytes = Annotated[int, BeforeValidator(parse_size)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
Share = Annotated[
    Shard,
    BeforeValidator(lambda text: Shard.parse(text) if isinstance(text, str) else text),
    PlainSerializer(str),
]
Weaker = Literal["delete-race", "overwrite-race", "no-exclusion"]


class Settings(BaseModel):
    """Everything that `run`, `plan` and `recover` can be told.

    Names are those of the options, and of the TOML file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: str
    prefix: tuple[str, ...] = ()
    whole_bucket: bool = False
    date: str = "NOT_SET"
    layout: Literal["corporate", "manifest"] = "corporate"
    partition: tuple[int, ...] = ()
    topic: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    max_files: int = Field(1_000_000, ge=2)
    max_size: Bytes = Field(128_000_000, ge=1)
    min_files: int = Field(2, ge=2)
    min_age: Seconds = Field(300.0, ge=0)

    concurrency: int = Field(0, ge=0)
    processes: int = Field(1, ge=0)
    memory: Bytes = Field(128 * 1024**2, ge=32 * 1024**2)
    shard: Share = WHOLE

    state: str = "_coalesce/"
    lease: Seconds = Field(60.0, ge=1, le=86_400)
    check: bool = True
    delete: bool = True
    accept_weaker: tuple[Weaker, ...] = ()

    max_groups: int | None = Field(None, ge=1)
    max_bytes: Bytes | None = Field(None, ge=1)
    max_delete: int | None = Field(None, ge=1)
    deadline: Seconds | None = Field(None, gt=0)
    error_on_nothing: bool = False

    @model_validator(mode="before")
    @classmethod
    def _all_partitions(cls, values: Any) -> Any:
        chosen = values.get("partition") if isinstance(values, dict) else None
        if isinstance(chosen, list | tuple) and -1 in chosen:
            values = {**values, "partition": tuple(n for n in chosen if n != -1)}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.bucket:
            raise ValueError("a bucket is required: --bucket NAME")
        if any(number < 0 for number in self.partition):
            raise ValueError("a partition is a number from 0 on; -1 means all of them")
        if not self.whole_bucket and not all(self.prefix):
            raise ValueError(
                "an empty prefix is the whole bucket; say --whole-bucket if that is meant"
            )
        if not self.prefix and not self.whole_bucket:
            raise ValueError("a prefix is required: --prefix P (or --whole-bucket)")
        parse_days(self.date, dt.date(2000, 1, 1))
        state = as_directory(self.state)
        if state in ("", "/"):
            raise ValueError("the state prefix must not be empty")
        for prefix in map(as_directory, self.prefix):
            if prefix and (state.startswith(prefix) or prefix.startswith(state)):
                raise ValueError(
                    f"the state prefix {state!r} and the prefix {prefix!r} overlap; choose another --state"
                )
        return self

    @property
    def state_prefix(self) -> str:
        """Where leases and plan records live, with its slash."""
        return as_directory(self.state)

    def prefixes(self, today: dt.date) -> tuple[str, ...]:
        """The prefixes to list: each with a slash at its end, one per day if a date is given, none
        inside another.
        """
        days = parse_days(self.date, today)
        dated = (f"{root}{day:%Y/%m/%d}/" for root in self.roots for day in days)
        return _outermost(dated) if days else self.roots

    @property
    def roots(self) -> tuple[str, ...]:
        """The prefixes without dates, each with a slash at its end, none inside another."""
        return _outermost(map(as_directory, self.prefix)) or ("",)


def _outermost(prefixes: Iterable[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):  # one that others begin with stands right before them
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)
