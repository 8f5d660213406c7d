"""The whole job on a real server: checked in the bucket, not by the program's word."""

import gzip

import pytest

from coalesce.demo.dataset import Shape
from coalesce.demo.proof import fill, read_records
from coalesce.run.pipeline import Run
from coalesce.run.undoing import Wanted
from coalesce.storage.base import ObjectStore
from support.buckets import check_finished, look
from support.servers import ACCEPTED
from support.settings import settings


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_every_record_is_there_once_each_output_has_its_entry_and_a_second_run_does_nothing(
    store: ObjectStore, layout: str
) -> None:
    """Both layouts, with gaps and overlaps."""
    chosen = settings(layout=layout, accept_weaker=ACCEPTED)
    await fill(store, Shape("data/", layout, objects=60, gaps=0.1, overlaps=0.1))
    before, _ = await read_records(store, "data/", layout)
    report = await Run(store, chosen).coalesce()
    after, seen = await read_records(store, "data/", layout)
    assert report.exit_code == 0, report.failures
    assert (after, seen.objects) == (before, 6)
    held = await look(store)
    check_finished(held)
    assert (await Run(store, chosen).coalesce()).outputs.written == 0
    assert await look(store) == held
    assert not await store.list_uploads("")


@pytest.mark.parametrize("gzip_mode", ["single", "members"])
@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_a_run_that_is_undone_leaves_every_object_as_it_was(
    store: ObjectStore, layout: str, gzip_mode: str
) -> None:
    """The same names, the same content, and the same bytes unless the text was deflated again."""
    await fill(store, Shape("data/", layout, objects=60))
    before = await look(store)
    said = {key: (await store.head(key)) for key in before}
    chosen = settings(layout=layout, accept_weaker=ACCEPTED, gzip=gzip_mode)
    assert (await Run(store, chosen).coalesce()).outputs.written == 6
    report = await Run(store, settings(accept_weaker=ACCEPTED)).undo(Wanted())
    assert (report.exit_code, report.undone.outputs, report.undone.sources) == (0, 6, 60), (
        report.failures
    )
    after = await look(store)
    assert after.keys() == before.keys()
    for key, data in before.items():
        head, old = await store.head(key), said[key]
        assert head is not None
        assert old is not None
        assert head.attributes == old.attributes
        if layout == "corporate" and gzip_mode == "single":
            assert gzip.decompress(after[key]) == gzip.decompress(data)
        else:
            assert after[key] == data
    assert not await store.list_uploads("")


async def test_a_corrupt_source_stays_and_its_group_is_joined_around_it(store: ObjectStore) -> None:
    """Exit code 4, and the source is left byte for byte."""
    for n in range(5):
        body = gzip.compress(b'{"n": %d}\n' % n)
        await store.put(f"data/t_0_{n}-{n}.jsonl.gz", body[:-3] if n == 2 else body)
    report = await Run(store, settings(accept_weaker=ACCEPTED)).coalesce()
    keys = [entry.key for entry in (await store.list_page("data/")).objects]
    assert report.exit_code == 4
    assert keys == ["data/t_0_0_1.jsonl.gz", "data/t_0_2-2.jsonl.gz", "data/t_0_3_4.jsonl.gz"]
