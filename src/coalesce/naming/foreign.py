"""Objects that are known by their names and cannot be joined: what they are, and which tool can."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of objects that are left alone: what it is, why, and what to do instead."""

    what: str
    why: str
    instead: str
    pattern: re.Pattern[str]


def _foreign(what: str, why: str, instead: str, pattern: str) -> Foreign:
    return Foreign(what, why, instead, re.compile(pattern, re.ASCII))


# With the compression in front of the ending, as some writers put it, or behind.
_PACKED = r"(?:\.(?:gz|gzip|zst|zstd|snappy|lz4|bz2))?"

_COLUMNS = "its schema and its index stand in each file, so that two files make no third."

_KINDS = (
    _foreign(
        "a log of CloudTrail",
        "each object is one JSON document.",
        "CloudTrail Lake, or an Athena query that writes a table anew, makes fewer of them.",
        r"(?:^|/)\d{12}_CloudTrail(?:-[A-Za-z]+)?_[a-z0-9-]+_\d{8}T\d{4}Z_\w+\.json\.gz$",
    ),
    _foreign(
        "Parquet",
        _COLUMNS,
        "Spark, or the compaction of Iceberg, Delta or Hudi, makes larger files.",
        rf"\.(?:parquet|parq|pq){_PACKED}$",
    ),
    _foreign(
        "ORC",
        _COLUMNS,
        "Hive's CONCATENATE, Spark, or the compaction of Iceberg makes larger files.",
        rf"\.orc{_PACKED}$",
    ),
    _foreign(
        "Avro",
        "a header with the schema and a mark of its own stands in each file.",
        "`avro-tools concat`, or Spark, makes larger files.",
        rf"\.avro{_PACKED}$",
    ),
    _foreign(
        "one of Kafka Connect's files of keys or headers",
        "its lines belong to those of the file of values with the same name.",
        "Have the connector write keys and headers into the records.",
        r"\.(?:keys|headers)\.\w+(?:\.gz)?$",
    ),
    _foreign(
        "an archive or a compression whose pieces cannot be joined",
        "what is behind the first piece would not be read.",
        "Have its writer use gzip.",
        r"\.(?:zip|snappy|lz4|7z|tar|tgz|tar\.gz)$",
    ),
    _foreign(
        "a sequence file of Secor",
        "a header stands in each file.",
        "Have Secor write delimited text, compressed by GzipCodec.",
        r"(?:^|/)\d+_\d+_\d{20}$",
    ),
)


def foreign(key: str) -> Foreign | None:
    """Returns what an object is by its name, if it is of a kind that cannot be joined."""
    return next((kind for kind in _KINDS if kind.pattern.search(key)), None)
