"""Every option of `report`, `policy`, `probe`, `generate` and `demo`, said in every way, and what
it does; the commands that work on a bucket are in `test_effects.py`.
"""

import gzip
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from coalesce.cli.app import COMMANDS
from coalesce.cli.options import STORE
from coalesce.report.report import Report
from support import lakes
from support.effects import (
    Case,
    Look,
    check_effect,
    code,
    state,
    stdout_has,
    stdout_is_json,
    writes,
)
from support.invoke import Sight
from support.lakes import lake, other

ROLE = "arn:aws:iam::123456789012:role/job"
ARN = "arn:aws:s3:::"


def of_other(look: Look, seen: object, **more: object) -> Case:
    """`--config`, with a file that names another bucket."""
    return Case("other.toml", look, seen, instead=("bucket",), **more)  # type: ignore[arg-type]


POLICY = {
    "targets": Case(
        ["s3://b/more"], stdout_has(f"{ARN}b/more/*"), True, instead=("bucket", "prefix")
    ),
    "bucket": Case("other", stdout_has(f"{ARN}other/data/*"), True),
    "prefix": Case(["more"], stdout_has(f"{ARN}b/more/*"), True),
    "whole_bucket": Case(True, stdout_has(f'"{ARN}b/*"'), True, instead=("prefix",)),
    "kms_key": Case(["arn:aws:kms:1"], stdout_has("arn:aws:kms:1"), True),
    "bucket_policy": Case(True, stdout_has('"Deny"'), True, more={"role": ROLE}),
    "role": Case(ROLE, stdout_has(ROLE), True, more={"bucket_policy": True}),
    "report": Case("s3://reports/r.json", stdout_has(f"{ARN}reports/r.json"), True),
    "output": Case("json", stdout_has(f"{ARN}b/data/*"), same=True),  # JSON it is in any case
    "state": Case("elsewhere", stdout_has("b/elsewhere/"), True),
    "region": Case("cn-north-1", stdout_has("arn:aws-cn:s3:::b"), True),
    "config": of_other(stdout_has(f"{ARN}other/data/*"), True),
}
PROBE = {
    "targets": Case(["s3://other/x"], code, 0, instead=("bucket",), fill=lakes.weak),
    "prefix": Case(["data"], code, same=True),  # what is tried lies under the state prefix
    "output": Case("json", stdout_is_json, True),
    "bucket": Case("other", code, 0, fill=lakes.weak),
    "state": Case("elsewhere", state, True),
    "as_json": Case(True, stdout_is_json, True),
    "config": of_other(code, 0, fill=lakes.weak),
}


def written(sight: Sight) -> dict[str, bytes]:
    """What was put into the bucket `b`, by the keys without directories."""
    return {
        key.rpartition("/")[2]: stored.data
        for key, stored in sight.bucket.objects.items()
        if key not in lake().objects
    }


def parts(place: int) -> Look:
    """How many topics, or partitions of one name, there are."""
    return lambda sight: len({name.split("_")[place] for name in written(sight)})


def added_to_other(sight: Sight) -> int:
    return len(sight.buckets["other"].objects) - len(other().objects)


def lines(sight: Sight) -> set[int]:
    """How many records there are in an object."""
    return {len(gzip.decompress(body).splitlines()) for body in written(sight).values()}


def steps(sight: Sight) -> set[int]:
    """From the last offset of an object to the first of the next one: 1 where nothing is odd."""
    spans: dict[str, list[list[int]]] = {}
    for name in written(sight):
        group, _, offsets = name.removesuffix(".jsonl.gz").rpartition("_")
        spans.setdefault(group, []).append([int(offset) for offset in offsets.split("-")])
    return {b[0] - a[1] for found in spans.values() for a, b in pairwise(sorted(found))}


def seeds(sight: Sight) -> set[str]:
    """The first word of every record."""
    bodies = (gzip.decompress(body) for body in written(sight).values())
    return {json.loads(line)["traceId"][0] for body in bodies for line in body.splitlines()}


def folders(sight: Sight) -> set[str]:
    return {key.split("/")[0] for key in sight.bucket.objects.keys() - lake().objects.keys()}


def cut(sight: Sight) -> int:
    """How many objects cannot be read to their end."""
    count = 0
    for body in written(sight).values():
        try:
            gzip.decompress(body)
        except EOFError:
            count += 1
    return count


def shows_a_bar(sight: Sight) -> bool:
    return "━" in sight.stderr


GENERATE = {
    "targets": Case(["s3://b/new/one"], folders, {"new"}, instead=("prefix", "bucket")),
    "output": Case("json", stdout_is_json, True),
    "quiet": Case(True, stdout_has("objects written"), False),
    "no_progress": Case(True, shows_a_bar, False, terminal=True),
    "bucket": Case("other", added_to_other, 12),
    "prefix": Case("new", folders, {"new"}),
    "layout": Case("manifest", lambda sight: {name[-4:] for name in written(sight)}, {".txt"}),
    "topics": Case(4, parts(0), 4),
    "partitions": Case(1, parts(1), 1),
    "objects": Case(7, lambda sight: len(written(sight)), 7),
    "records": Case(3, lines, {3}),
    "record_bytes": Case(5000, lambda sight: min(map(len, written(sight).values())) > 9000, True),
    "seed": Case(2, seeds, {"2"}),
    "gaps": Case(1, lambda sight: min(steps(sight)) > 1, True),
    "overlaps": Case(1, steps, {0}),
    "spoilt": Case(1, cut, 12),
    "config": of_other(added_to_other, 12),
}


def merged_runs(sight: Sight) -> int:
    return len(sight.last["runs"])


REPORT = {
    "reports": Case(["good.json", "again.json"], merged_runs, 2, more={"output": "json"}),
    "html": Case("r.html", writes("r.html"), True),
    "merged": Case("m.json", writes("m.json"), True),
    "config": Case("json.toml", stdout_is_json, True),
    "output": Case("json", stdout_is_json, True),
}
DEMO = {
    "objects": Case(24, stdout_has("Writing 24 small objects"), True),
    "output": Case("json", stdout_is_json, True),
}
CASES: dict[str, dict[str, Case]] = {
    "report": REPORT,
    "policy": POLICY,
    "probe": PROBE,
    "generate": GENERATE,
    "demo": DEMO,
}
USUAL: dict[str, Mapping[str, object]] = {
    "report": {"reports": ["good.json"]},
    "policy": {"bucket": "b", "prefix": ["data"]},
    "probe": {"bucket": "b"},
    "generate": {"bucket": "b", "prefix": "gen", "objects": 12},
    "demo": {"objects": 6},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands are started: with reports and configuration files."""
    (tmp_path / "other.toml").write_text('bucket = "other"\n')
    (tmp_path / "json.toml").write_text('output = "json"\n')
    scope = {"bucket": "b", "prefixes": ["p/"], "layout": "corporate", "partitions": []}
    for name in ("good", "again"):
        report = Report.model_validate(
            {"version": "1", "run_id": name, "started": "2026-11-22T00:00:00Z", "scope": scope}
        )
        (tmp_path / f"{name}.json").write_text(json.dumps(report.as_json()))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, cases in CASES.items() for name in cases]
)
def test_an_option_has_its_effect_however_it_is_said(command: str, name: str, folder: Path) -> None:
    check_effect(command, name, CASES[command][name], USUAL[command], folder)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() & CASES.keys()))
def test_no_option_is_forgotten(command: str) -> None:
    known = {option.name for option in COMMANDS[command].options}
    stores = {option.name for option in STORE.options} - CASES[command].keys()
    assert CASES[command].keys() == known - stores
