"""The whole job on a real server: checked in the bucket, not by the program's word."""

import gzip
import os

import pytest

from coalesce.demo.dataset import Shape
from coalesce.demo.proof import fill, read_records
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore


def settings(**more: object) -> Settings:
    weaker = os.environ.get("COALESCE_ACCEPT_WEAKER", "").split()
    return Settings.model_validate(
        {"bucket": "b", "prefix": ["data"], "min_age": 0, "accept_weaker": weaker, **more}
    )


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_every_record_is_there_exactly_once_and_a_second_run_does_nothing(
    store: ObjectStore, layout: str
) -> None:
    """Both layouts, with gaps and overlaps."""
    await fill(store, Shape("data/", layout, objects=60, gaps=0.1, overlaps=0.1))
    before, _ = await read_records(store, "data/", layout)
    report = await Run(store, settings(layout=layout)).coalesce()
    after, seen = await read_records(store, "data/", layout)
    assert report.exit_code == 0, report.failures
    assert (after, seen.objects) == (before, 6)
    assert (await Run(store, settings(layout=layout)).coalesce()).outputs.written == 0
    for unfinished in ("runs/", "groups/", "probe/"):
        assert not (await store.list_page(f"_coalesce/{unfinished}")).objects
    assert not await store.list_uploads("")


async def test_a_corrupt_source_stays_and_its_group_is_joined_around_it(store: ObjectStore) -> None:
    """Exit code 4, and the source is left byte for byte."""
    for n in range(5):
        body = gzip.compress(b'{"n": %d}\n' % n)
        await store.put(f"data/t_0_{n}-{n}.jsonl.gz", body[:-3] if n == 2 else body)
    report = await Run(store, settings()).coalesce()
    keys = [entry.key for entry in (await store.list_page("data/")).objects]
    assert report.exit_code == 4
    assert keys == ["data/t_0_0_1.jsonl.gz", "data/t_0_2-2.jsonl.gz", "data/t_0_3_4.jsonl.gz"]
