"""A name that nobody would recognise as an output's is given to none."""

from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import contents, data_in
from support.runs import new_run
from support.settings import settings


async def test_sources_whose_output_could_be_read_as_another_topics_stay() -> None:
    """`t_0_5_9_a_1_7.txt` is of the topic `t` or of `t_0`, and no run could say of which."""
    bucket = MemoryBucket()
    for n in range(4):
        bucket.store(f"data/t_0_{n}-9_a_1_{n}.txt", b"%d\n" % n)
    bucket.now += 1000
    before = data_in(contents(bucket))
    report = await new_run(MemoryStore(bucket), settings(layout="manifest")).coalesce()
    assert report.failures == []
    assert data_in(contents(bucket)) == before
    assert report.sources.left["single"] == 4
