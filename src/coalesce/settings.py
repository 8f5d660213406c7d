"""What a run is told, checked once and frozen: the border between the outside's text and the
program's values, and the one place of every default.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from coalesce.naming.days import parse_days
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.naming.own_layouts import OwnLayout, known_layouts
from coalesce.naming.shards import WHOLE, Shard
from coalesce.storage.attributes import Encryption, StorageClass, parse_metadata, parse_tags

DEFAULT_STATE = "_coalesce/"
TAKE_SOURCES, LEAVE_OUT = "source", "none"  # of the attributes of outputs
BUCKET_REQUIRED = "--bucket is required: -b NAME, or s3://BUCKET/PREFIX"

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_ENDS_IN_DAY = re.compile(r"/?\d{4}/\d{2}/\d{2}/?$", re.ASCII)


def parse_size(text: object) -> object:
    """Bytes of `128MB` (decimal) or `64MiB` (binary); plain numbers are bytes.

    Raises ValueError.
    """
    if not isinstance(text, str):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a size; write bytes, or a number with a unit such as 128MB or 64MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))


def format_size(size: float) -> str:
    """The shortest text that `parse_size` reads as so many bytes."""
    texts = [f"{size:g}" if size < 1e6 else str(int(size))]
    for power, letter in enumerate("KMGT", 1):
        for base, unit in ((1000, f"{letter}B"), (1024, f"{letter}iB")):
            if size and size % base**power == 0:
                texts.append(f"{int(size // base**power)}{unit}")
    return min(reversed(texts), key=len)


def parse_duration(text: object) -> object:
    """Seconds of `90s`, `5m`, `2h`, `1d`; plain numbers are seconds. Raises ValueError."""
    if not isinstance(text, str):
        return text
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a duration; write a number with a unit such as 90s, 5m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """A text that `parse_duration` reads as so many seconds: 60s, 5m, 24h."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s" if seconds else "0"


def as_directory(prefix: str) -> str:
    """A prefix as whole path segments: it ends with a slash, so that `a/b` never matches `a/bc`."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def check_bucket(name: str) -> str:
    """The same name. Raises ValueError for an empty one and for one with a prefix in it."""
    if not name:
        raise ValueError(BUCKET_REQUIRED)
    if name.startswith("s3://"):
        bucket, _, prefix = name.removeprefix("s3://").partition("/")
        raise ValueError(
            f"--bucket takes a name: -b {bucket or 'NAME'}, or give s3://{bucket or 'NAME'}"
            f"/{prefix or 'PREFIX'}"
        )
    bucket, slash, prefix = name.partition("/")
    if slash and not name.startswith("arn:"):
        raise ValueError(f"--bucket takes a name: -b {bucket or 'NAME'} -p {prefix or 'PREFIX'}")
    return name


def check_prefix(prefix: str) -> str:
    """The same prefix. Raises ValueError for a URL, a pattern and a path of a file system, under
    which there are no keys.
    """
    if prefix.startswith("s3://"):
        bucket, _, path = prefix.removeprefix("s3://").partition("/")
        raise ValueError(
            f"--prefix takes a path in the bucket: -b {bucket or 'NAME'} -p {path or 'PREFIX'}"
        )
    if prefix.startswith("/"):
        raise ValueError(f"keys do not begin with a slash: -p {prefix.lstrip('/') or 'PREFIX'}")
    if "*" in prefix or "?" in prefix:
        fixed = re.split(r"[*?]", prefix)[0].rpartition("/")[0]
        raise ValueError(
            f"--prefix is no pattern; for one: -p {fixed or 'PREFIX'} --include '{prefix}'"
        )
    return prefix


def _check_days(text: str) -> str:
    parse_days(text, dt.datetime.now(dt.UTC).date())
    return text


def _check_partition(number: int) -> int:
    if number < -1:
        raise ValueError("not a partition; they are numbered from 0, and -1 means all of them")
    return number


def _drop_all(partitions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(number for number in partitions if number != -1)


def _check_encoding(text: str) -> str:
    if "aws-chunked" in text:
        raise ValueError("aws-chunked is how a client sends an object, not what it is encoded in")
    return text


def _check_header(text: str) -> str:
    if not (text.strip() and text.isascii() and text.isprintable()):
        raise ValueError("not a header's value; write printable ASCII, or source, or none")
    return text


def _check_pairs(parse: Callable[[str], object]) -> AfterValidator:
    def check(text: str) -> str:
        if text not in (TAKE_SOURCES, LEAVE_OUT):
            parse(text)
        return text

    return AfterValidator(check)


@dataclass(frozen=True, slots=True)
class Unit:
    """Says of a field in what unit its numbers are written."""

    format: Callable[[float], str]


Bytes = Annotated[int, BeforeValidator(parse_size), Unit(format_size)]
Seconds = Annotated[float, BeforeValidator(parse_duration), Unit(format_duration)]
Share = Annotated[
    Shard,
    BeforeValidator(lambda text: Shard.parse(text) if isinstance(text, str) else text),
    PlainSerializer(str),
]
Bucket = Annotated[str, AfterValidator(check_bucket)]
Prefix = Annotated[str, AfterValidator(check_prefix)]
Partition = Annotated[int, AfterValidator(_check_partition)]
GzipMode = Literal["single", "members"]
Header = Annotated[str, AfterValidator(_check_header)]
Metadata = Annotated[str, _check_pairs(parse_metadata)]
Tags = Annotated[str, _check_pairs(parse_tags)]
Weaker = Literal["delete-race", "overwrite-race", "no-exclusion"]


class Settings(BaseModel):
    """Everything that `run`, `plan` and `recover` can be told.

    Names are those of the options, and of the TOML file. Sizes are in bytes, times in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: Bucket
    prefix: tuple[Prefix, ...] = ()
    whole_bucket: bool = False
    date: Annotated[str, AfterValidator(_check_days)] = "NOT_SET"
    layout: str = Field(default="corporate", examples=list(LAYOUTS))
    layouts: dict[str, OwnLayout] = Field(default_factory=dict)
    partition: Annotated[tuple[Partition, ...], AfterValidator(_drop_all)] = ()
    topic: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    max_files: int = Field(default=1_000_000, ge=2)
    max_size: Bytes = Field(default=128_000_000, ge=1)
    max_objects: int | None = Field(default=None, ge=1)
    max_path_list: int | None = Field(default=None, ge=1)
    min_files: int = Field(default=2, ge=2)
    min_age: Seconds = Field(default=300.0, ge=0)
    grow: Bytes | None = Field(default=None, ge=1)

    concurrency: int = Field(default=0, ge=0)
    processes: int = Field(default=0, ge=0)
    memory: Bytes = Field(default=128 * 1024**2, ge=32 * 1024**2)
    """The budget for bodies in flight, over all processes together.

    At its peak one process takes no more than about

        memory / processes + 140 MiB + 92 bytes x sources that are listed and not yet done

    whatever the sizes of sources and outputs. With worker processes, the run's own one takes no
    part of `memory`; it and a worker take 50 bytes more for each source of what the one is handing
    to the other. Of the 140 MiB, 100 are Python, its libraries and the connections, and 40 text on
    its way to be deflated, with `gzip` single; TLS takes 50 MiB more.
    A source whose ETag is no MD5 takes more than 92 bytes; one in a plan record that is recovered
    takes 66, of this budget as far as it goes.
    Measured: docs/evidence/performance-figures.md.
    """
    shard: Share = WHOLE

    storage_class: Literal["source", "none", StorageClass] = "source"
    sse: Literal["source", "none", Encryption] = "source"
    sse_kms_key_id: Header = "source"
    tags: Tags = "source"
    metadata: Metadata = "source"
    content_type: Header = "source"
    content_encoding: Annotated[Header, AfterValidator(_check_encoding)] = "source"
    strict_attributes: bool = False

    state: str = DEFAULT_STATE
    lease: Seconds = Field(default=60.0, ge=1, le=86_400)
    check: bool = True
    gzip: GzipMode = "single"
    delete: bool = True
    ledger: bool = True
    accept_weaker: tuple[Weaker, ...] = ()

    max_groups: int | None = Field(default=None, ge=1)
    max_bytes: Bytes | None = Field(default=None, ge=1)
    max_delete: int | None = Field(default=None, ge=1)
    deadline: Seconds | None = Field(default=None, gt=0)
    error_on_nothing: bool = False

    @model_validator(mode="after")
    def _check_layout(self) -> Settings:
        if self.layout not in self.known_layouts:
            *others, last = self.known_layouts
            raise ValueError(f"--layout {self.layout}: choose {', '.join(others)} or {last}")
        return self

    @model_validator(mode="after")
    def _check_gzip(self) -> Settings:
        if not self.check and self.gzip == "single" and "gzip" in self.model_fields_set:
            raise ValueError("--gzip single needs the check; with --no-check choose --gzip members")
        return self

    @model_validator(mode="after")
    def _check_growth(self) -> Settings:
        if self.grow is not None and self.grow > self.max_size // 2:
            raise ValueError(
                f"--grow {format_size(self.grow)} is more than half of --max-size "
                f"{format_size(self.max_size)}: what grows would be written again and again"
            )
        return self

    @model_validator(mode="after")
    def _check_goal(self) -> Settings:
        said = ("max_size" in self.model_fields_set, self.max_objects, self.max_path_list)
        if self.has_goal and sum(map(bool, said)) > 1:
            raise ValueError(
                "--max-size, --max-objects and --max-path-list contradict each other; "
                "leave all but one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_encryption(self) -> Settings:
        named = self.sse_kms_key_id not in (TAKE_SOURCES, LEAVE_OUT)
        if named and not self.sse.startswith("aws:kms"):
            raise ValueError("--sse-kms-key-id needs --sse aws:kms or aws:kms:dsse")
        return self

    @model_validator(mode="after")
    def _check_prefixes(self) -> Settings:
        if not self.prefix and not self.whole_bucket:
            raise ValueError(
                "--prefix is required: -p PREFIX, s3://BUCKET/PREFIX, or --whole-bucket"
            )
        if self.whole_bucket and any(self.prefix):
            (first, *_) = filter(None, self.prefix)
            raise ValueError(
                f"--whole-bucket and --prefix {first} contradict each other; leave one of them out"
            )
        if not self.whole_bucket and not all(self.prefix):
            raise ValueError(
                "an empty --prefix is the whole bucket; add --whole-bucket if you mean that"
            )
        state = as_directory(self.state)
        if state in ("", "/"):
            raise ValueError("--state must not be empty")
        for prefix in map(as_directory, self.prefix):
            if prefix and (state.startswith(prefix) or prefix.startswith(state)):
                raise ValueError(
                    f"--state {state} and --prefix {prefix} overlap; choose another --state"
                )
        return self

    @model_validator(mode="after")
    def _check_days_of_prefixes(self) -> Settings:
        if not parse_days(self.date, dt.datetime.now(dt.UTC).date()):
            return self
        for prefix in self.prefix:
            if found := _ENDS_IN_DAY.search(prefix):
                raise ValueError(
                    f"--prefix {prefix} ends in a day already, and --date {self.date} would add "
                    f"another: write -p {prefix[: found.start()] or 'PREFIX'}, or leave out --date"
                )
        return self

    @property
    def known_layouts(self) -> Mapping[str, Layout]:
        """All layouts by name, the user's own among them."""
        return known_layouts(tuple(self.layouts.items()))

    @property
    def chosen_layout(self) -> Layout:
        """How sources and outputs are named."""
        return self.known_layouts[self.layout]

    @property
    def has_goal(self) -> bool:
        """Whether it is a goal that says how large outputs are."""
        return self.max_objects is not None or self.max_path_list is not None

    @property
    def gzip_mode(self) -> GzipMode:
        """How outputs of gzip members are made: without the check, of the members as they are."""
        return self.gzip if self.check else "members"

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
        return outermost(dated) if days else self.roots

    @property
    def roots(self) -> tuple[str, ...]:
        """The prefixes without dates, each with a slash at its end, none inside another."""
        return outermost(map(as_directory, self.prefix)) or ("",)


def outermost(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The same prefixes in order, without those that begin with another of them."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):  # one that others begin with stands right before them
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def format_value(field: FieldInfo, value: Any) -> str:
    """A value of a model's field as a user writes it: 128MB, 5m, 1,000,000, corporate."""
    unit = _unit_of(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if unit:
        return unit.format(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _unit_of(field: FieldInfo) -> Unit | None:
    found = [*field.metadata]
    for inner in get_args(field.annotation):  # of `Bytes | None`
        found += get_args(inner)[1:]
    return next((entry for entry in found if isinstance(entry, Unit)), None)
