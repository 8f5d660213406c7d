"""The model of a job's size says what a run of that size does."""

from types import ModuleType

import pytest
from bench.markdown import between, duration
from bench.model import DELETES_PER_SECOND, OUTPUT_BYTES, estimate
from hypothesis import given
from hypothesis import strategies as st

from bench import backfill, scale
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.runs import new_run
from support.settings import settings

objects = st.integers(1, 10**9)
vcpus = st.integers(1, 10_000)
sizes = st.sampled_from([1_000_000, 10_000_000, 127_000_000])


@pytest.mark.parametrize("page", [scale, backfill], ids=["scale", "backfill"])
def test_a_page_holds_what_the_model_says(page: ModuleType) -> None:
    """If not: `make docs`."""
    assert page.written(page.PAGE.read_text("utf-8")) == page.PAGE.read_text("utf-8")


def test_the_pages_between_their_markers_are_written_again_and_nothing_else() -> None:
    page = "before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n"
    assert between(between(page, "older"), "new") == page.replace("old", "\nnew\n")


async def test_the_model_counts_the_requests_that_a_run_sends() -> None:
    """Of one output; the run's own probe and lease are left out, and so are its listings."""
    count, size = 600, 100
    bucket, chosen = MemoryBucket(), settings(layout="manifest")
    for n in range(count):
        bucket.store(f"data/m_0_{n}-m_0_{n}.txt", b"x" * (size - 1) + b"\n")
    bucket.now += 1000
    report = await new_run(MemoryStore(bucket), chosen).coalesce()
    own = (await new_run(MemoryStore(MemoryBucket()), chosen).coalesce()).requests
    found = dict(estimate(count, size, 1, 0.001).requests)
    assert found.pop("ListObjectsV2") == 1
    assert report.sources.joined == count
    assert found == {name: report.requests.get(name, 0) - own.get(name, 0) for name in found}


@given(objects, sizes, vcpus)
def test_more_cpus_never_take_longer_and_never_beat_the_store(n: int, size: int, v: int) -> None:
    slow, fast = estimate(n, size, v, 0.001), estimate(n, size, 2 * v, 0.001)
    assert fast.seconds <= slow.seconds
    assert fast.seconds >= n / DELETES_PER_SECOND
    assert fast.requests == slow.requests
    assert fast.request_usd == slow.request_usd


@given(objects, sizes)
def test_every_source_is_read_at_least_once_and_outputs_are_full(n: int, size: int) -> None:
    found = estimate(n, size, 1, 0.001)
    assert found.requests["GetObject"] >= n
    assert found.requests["CreateMultipartUpload"] == found.outputs
    assert (found.outputs - 1) * size * (OUTPUT_BYTES // size) < n * size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (3600, "60 min"),
        (7200, "2.0 h"),
        (10**7, "116 days"),
    ],
)
def test_a_duration_is_said_as_a_person_would(seconds: float, words: str) -> None:
    assert duration(seconds) == words
