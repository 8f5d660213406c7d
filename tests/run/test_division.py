"""How many processes a run takes, and which groups they share."""

import pickle
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Batch, Group, GroupId, Plan, Source
from coalesce.naming.sources import Sources
from coalesce.run.division import is_shared, most_processes, processes_worth, work_of
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import filled
from support.buckets import sources as named_sources
from support.crew import Crew, in_this_process
from support.settings import settings

MIB = 1024**2


class Alike(Sequence[Source]):
    """As many sources as one likes, all of one size."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._source = Source("d/t_0_0-0.jsonl.gz", size, '"e"', 0.0, "STANDARD", 0, 0)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: object) -> Source:  # type: ignore[override]
        if isinstance(at, int) and at >= self._count:
            raise IndexError
        return self._source


def group(count: int, size: int) -> Group:
    return Group(GroupId("d/", "t", 0), Alike(count, size), (), 0.0)


def plan(batches: int, sources: int, size: int) -> Plan:
    """A plan of so many batches, each of so many sources of that size."""
    batch = Batch("d/t_0_0_0.jsonl.gz", Alike(sources, size), sources * size, "digest")
    return Plan(GroupId("d/", "t", 0), (batch,) * batches, ())


@pytest.mark.parametrize(
    ("sources", "size", "processes"),
    [
        (0, 0, 1),
        (3_000, 1_000, 1),
        (1_000, 100_000, 1),
        (10_000, 1_000, 2),
        (10_000, 100_000, 8),
        (1_000_000, 300, 16),
        (2, 512 * MIB, 6),
    ],
)
def test_a_small_job_stays_in_one_process_and_a_large_one_takes_what_it_is_worth(
    sources: int, size: int, processes: int
) -> None:
    assert processes_worth(work_of(group(sources, size)), 16) == processes


def test_many_small_groups_are_work_too() -> None:
    assert processes_worth(1_000 * work_of(group(2, 1_000)), 16) == 3


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 64))
def test_more_work_is_never_worth_fewer_processes(some: float, more: float, most: int) -> None:
    few = processes_worth(some, most)
    assert 1 <= few <= processes_worth(some + more, most) <= most


@given(st.integers(0, 64), st.integers(32 * MIB, 4096 * MIB))
def test_every_process_has_the_memory_that_it_needs(wanted: int, memory: int) -> None:
    processes = most_processes(wanted, memory)
    assert processes == 1 or memory // processes >= 32 * MIB
    assert not wanted or processes <= wanted


@given(st.integers(2, 64), st.integers(1, 20), st.integers(0, 200_000), st.integers(2, 64))
def test_all_processes_share_the_only_group(
    batches: int, sources: int, size: int, processes: int
) -> None:
    only = plan(batches, sources, size)
    assert is_shared(only, work_of(group(batches * sources, size)), processes)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.integers(2, 16))
def test_no_process_ends_much_later_than_the_others(sizes: list[int], processes: int) -> None:
    """Groups that are not shared are at most a quarter of a process's share each: wherever the last
    one goes, it delays the end by no more than that.
    """
    works = [work_of(group(sources, 1_000)) for sources in sizes]
    for sources, work in zip(sizes, works, strict=True):
        if not is_shared(plan(2, sources // 2, 1_000), sum(works), processes):
            assert work <= sum(works) / processes / 4 + 0.01


def test_a_group_of_one_output_is_one_process_s() -> None:
    assert not is_shared(plan(1, 10_000, 100_000), 0.0, 16)


@given(st.lists(st.integers(0, 10**12), unique=True, max_size=60), st.data())
def test_a_batch_is_sent_with_its_own_sources_and_no_others(
    offsets: list[int], data: st.DataObject
) -> None:
    """A view of a group's sources shares their table: of millions, perhaps."""
    sources = [
        Source(
            f"d/t_0_{n}-{n + 1}{'' if n % 5 else '-odd'}.jsonl.gz",
            n % 97,
            f'"{n:032x}"' if n % 3 else f'"other-{n}"',
            float(n % 11),
            "STANDARD" if n % 2 else "GLACIER_IR",
            n,
            n + 1,
        )
        for n in offsets
    ]
    packed = Sources.of("d/t_0_", sources)
    places = data.draw(st.lists(st.sampled_from(range(len(sources))))) if sources else []
    chosen = packed.take(places)
    sent = pickle.dumps(chosen)
    arrived = pickle.loads(sent)
    assert list(arrived) == list(chosen)
    assert list(arrived.sizes()) == list(chosen.sizes())
    assert arrived.by_offset().duplicate_key() == chosen.by_offset().duplicate_key()
    assert len(arrived._table) == len(places)


async def taken(chosen: Settings, monkeypatch: pytest.MonkeyPatch, worth: float) -> tuple[int, int]:
    """How many workers a run of six groups takes, and how many processes its report names, if a
    group is so many seconds of work.
    """
    monkeypatch.setattr("coalesce.run.groups.work_of", lambda _: worth)
    bucket = filled(6, 4)
    crew = Crew(3, bucket)
    with in_this_process(), crew:
        report = await Run(MemoryStore(bucket), chosen, workers=crew).coalesce()
    await crew.end()
    assert (report.exit_code, report.outputs.written) == (0, 6)
    return crew.taken, report.processes


@pytest.mark.parametrize(
    ("wanted", "worth", "workers"),
    [(0, 0.1, 0), (0, 0.33, 0), (0, 0.35, 2), (0, 0.4, 2), (0, 0.7, 3), (0, 9.0, 3), (3, 0.1, 3)],
)
async def test_a_run_takes_the_workers_that_its_listing_is_worth(
    monkeypatch: pytest.MonkeyPatch, wanted: int, worth: float, workers: int
) -> None:
    """Unless it is told how many."""
    found = await taken(settings(processes=wanted), monkeypatch, worth)
    assert found == (workers, max(1, workers))


async def test_nothing_is_joined_before_it_is_known_how_many_processes_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of several prefixes does not say it; and what the run itself had begun would hold
    memory that the workers share.
    """
    monkeypatch.setattr("coalesce.run.groups.work_of", lambda _: 0.4)
    bucket = MemoryBucket()
    for n in range(6):
        for key, body in named_sources(1, 4).items():
            bucket.store(key.replace("data/", f"data/{n}/"), body)
    bucket.now += 1000
    crew = Crew(3, bucket)
    with in_this_process(), crew:
        chosen = settings(processes=0, prefix=[f"data/{n}/" for n in range(6)])
        report = await Run(MemoryStore(bucket), chosen, workers=crew).coalesce()
    await crew.end()
    assert (report.exit_code, crew.taken) == (0, 2)
    completed = [store.usage.requests["CompleteMultipartUpload"] for store in crew.stores]
    assert sum(completed) == report.outputs.written == 6


async def test_a_run_that_finds_nothing_takes_no_workers() -> None:
    bucket = filled(0)
    crew = Crew(2, bucket)
    with in_this_process(), crew:
        report = await Run(MemoryStore(bucket), settings(processes=2), workers=crew).coalesce()
    await crew.end()
    assert (crew.taken, report.processes) == (0, 1)


async def test_processes_share_the_memory_and_the_requests_of_the_run() -> None:
    bucket = filled(6, 4)
    crew = Crew(3, bucket)
    with in_this_process(), crew:
        chosen, store = settings(processes=3, concurrency=6), MemoryStore(bucket)
        report = await Run(store, chosen, workers=crew).coalesce()
    await crew.end()
    assert report.concurrency.reads == 6
    sent = sum((store.usage.requests for store in (store, *crew.stores)), Counter[str]())
    assert report.requests == sent
    counts = Counter(store.usage.requests["GetObject"] > 0 for store in crew.stores)
    assert counts[True] >= 2
