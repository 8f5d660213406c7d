"""docs/ledger.md: the schema is that of the entries that runs write, and its queries answer."""

import gzip
import json
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from jsonschema import Draft202012Validator, ValidationError

from coalesce.protocol.entry_reader import SourceLine
from coalesce.protocol.ledger import EntryHeader
from coalesce.storage.memory import MemoryBucket
from support.nights import night
from support.scenarios import corporate, is_entry, manifests

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ledger.md").read_text("utf-8")
SCHEMA = ROOT / "docs" / "ledger.schema.json"
DAY = "storage/2026/11/22/"


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))


def test_the_schema_is_current() -> None:
    """If not: `make docs`."""
    assert runpy.run_path(str(ROOT / "ci" / "ledger.py"))["render"]() == SCHEMA.read_text("utf-8")


def test_the_page_names_every_field_of_the_header_and_of_a_line() -> None:
    header, _, line = PAGE.partition("Each line after it is a list")
    assert {name for name in EntryHeader.model_fields if f"`{name}`" not in header} == set()
    for at, name in enumerate(SourceLine._fields):
        assert f"| {at} | `{name}` |" in line


def lines_of(bucket: MemoryBucket) -> list[Any]:
    return [
        json.loads(line)
        for key, stored in bucket.objects.items()
        if is_entry(key)
        for line in gzip.decompress(stored.data).splitlines()
    ]


@pytest.mark.parametrize(
    "more", [{}, {"gzip": "members"}, {"check": False}, {"layout": "manifest"}]
)
async def test_every_line_that_a_run_writes_fits_the_schema(more: dict[str, Any]) -> None:
    bucket = MemoryBucket()
    corporate(bucket)
    manifests(bucket)
    key = "data/db.core.topic_0_10-19.jsonl.gz"
    bucket.store(key, bucket.objects[key].data, {"team": "b"}, tags={"a": "b"})
    await night(bucket, **more)
    lines = lines_of(bucket)
    assert len(lines) > 3
    for line in lines:
        validator().validate(line)


async def test_what_is_no_line_does_not_fit_the_schema() -> None:
    bucket = MemoryBucket()
    corporate(bucket)
    await night(bucket)
    header, row, *_ = lines_of(bucket)
    validator().validate(header | {"added": 1})
    validator().validate([*row, None, "added"])
    for wrong in (
        {**header, "schema_version": 2},
        {name: value for name, value in header.items() if name != "digest"},
        {**header, "size": -1},
        row[:8],
        ["", *row[1:]],
        [*row[:7], 2**64, row[8]],
        [*row, {"content-type": 1}],
        "text",
    ):
        with pytest.raises(ValidationError):
            validator().validate(wrong)


@pytest.fixture
async def ledger(tmp_path: Path) -> str:
    """The ledger of two runs as files, as `aws s3 sync` would make them; the pattern of a month."""
    bucket = MemoryBucket()
    for n in range(6):
        for topic in ("db.core.claims_3", "db.core.other_0"):
            text = b"%d of %b\n" % (n, topic.encode()) * 3
            first = n * 60
            key = f"{DAY}{topic}_{first}-{first + 60}.jsonl.gz"
            bucket.store(key, gzip.compress(text if n != 4 else b"the same\n", mtime=0))
    await night(bucket, prefix=["storage"], partition=[3], max_files=4)
    await night(bucket, prefix=["storage"])
    for key, stored in bucket.objects.items():
        if is_entry(key):
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stored.data)
    return f"{tmp_path}/_coalesce/ledger/**/2026/11/*/*.jsonl.gz"


def test_the_queries_of_the_page_answer(ledger: str) -> None:
    views, runs, same, where = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    pattern = "s3://my-bucket/_coalesce/ledger/**/2026/11/*/*.jsonl.gz"
    assert pattern in views
    with duckdb.connect() as base:
        base.execute(views.replace(pattern, ledger))
        found = base.execute(runs).fetchall()
        assert [row[1:] for row in found] == [(2, 6, 16, 3.0), (1, 6, 16, 6.0)]
        (twice,) = base.execute(same).fetchall()
        assert twice[1:] == (
            2,
            f"{DAY}db.core.claims_3_240-300.jsonl.gz",
            f"{DAY}db.core.other_0_240-300.jsonl.gz",
        )
        (place,) = base.execute(where).fetchall()
        assert place[1] == f"{DAY}db.core.claims_3_0_180.jsonl.gz"
        (counted,) = base.execute("SELECT count(*), count(DISTINCT etag) FROM sources").fetchall()
        assert counted == (12, 11)
