"""A group whose sources change while it is worked on is listed and planned once more."""

import gzip
from collections import Counter
from collections.abc import Callable

import pytest

from coalesce.errors import Archived
from coalesce.protocol.outcome import GroupOutcome
from coalesce.report.report import Report
from coalesce.run.groups import complete_outcome
from coalesce.run.pipeline import Run
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, data_in, filled, records_in, sources
from support.settings import settings

SOURCES = list(sources(count=8))


def body(text: str) -> bytes:
    return gzip.compress(text.encode() + b"\n", mtime=0)


async def run_while(
    bucket: MemoryBucket, act: Callable[[Request], None], **more: object
) -> tuple[Report, Counter[str]]:
    """A run at whose requests somebody acts; and how often it has listed each prefix."""
    store, listings = MemoryStore(bucket), Counter[str]()

    async def before(request: Request) -> None:
        listings[request.key] += request.operation == "ListObjectsV2"
        act(request)

    store.before = before
    return await Run(store, settings(**more)).coalesce(), listings


def once(key: str, act: Callable[[], object]) -> Callable[[Request], None]:
    """Acts right before the first read of a source."""
    reads = 0

    def before(request: Request) -> None:
        nonlocal reads
        if request.operation == "GetObject" and request.key == key:
            reads += 1
            if reads == 1:
                act()

    return before


async def test_a_source_that_is_replaced_after_the_listing_is_joined_in_its_new_version() -> None:
    bucket = filled(count=8)
    overwrite = once(SOURCES[3], lambda: bucket.store(SOURCES[3], body("new")))
    report, listings = await run_while(bucket, overwrite)
    assert (report.exit_code, report.failures) == (0, [])
    assert set(data_in(bucket.objects)) == {"data/t_0_0_7.jsonl.gz"}
    others = {key: body for key, body in sources(count=8).items() if key != SOURCES[3]}
    assert records_in(contents(bucket)) == records_in(others) + Counter([b"new"])
    assert listings["data/t_0_"] == 1
    assert (report.sources.seen, report.sources.joined, report.groups.coalesced) == (8, 8, 1)


async def test_batches_that_were_joined_before_are_not_touched_by_the_second_plan() -> None:
    """Their sources are gone when the group is listed again."""
    bucket = filled(count=8)
    overwrite = once(SOURCES[7], lambda: bucket.store(SOURCES[7], body("new")))
    report, _ = await run_while(bucket, overwrite, max_files=4)
    assert set(data_in(bucket.objects)) == {
        "data/t_0_0_3.jsonl.gz",
        "data/t_0_4_7.jsonl.gz",
    }
    assert (report.outputs.written, report.sources.joined) == (2, 8)
    assert (report.groups.coalesced, report.groups.left) == (1, 0)


async def test_what_the_first_plan_has_found_of_other_sources_counts_once() -> None:
    """The second plan meets spoilt sources again, and those between them."""
    bucket = filled(count=8)
    bucket.store(SOURCES[0], bucket.objects[SOURCES[0]].data[:-3])
    bucket.store(SOURCES[2], bucket.objects[SOURCES[2]].data[:-3])
    overwrite = once(SOURCES[7], lambda: bucket.store(SOURCES[7], body("new")))
    report, listings = await run_while(bucket, overwrite, max_files=4)
    assert listings["data/t_0_"] == 1
    assert sorted(failure.key for failure in report.failures) == [SOURCES[0], SOURCES[2]]
    left = {why: count for why, count in report.sources.left.items() if count}
    assert left == {"corrupt": 2, "single": 2}
    assert set(data_in(bucket.objects)) == {
        *SOURCES[:4],
        "data/t_0_4_7.jsonl.gz",
    }
    assert report.groups.failed == 1


@pytest.mark.parametrize("key", SOURCES[::4])
async def test_a_source_that_changes_all_the_time_costs_no_more_than_one_new_listing(
    key: str,
) -> None:
    bucket = filled(count=8)
    versions = 0

    def overwrite(request: Request) -> None:
        nonlocal versions
        if request.operation == "GetObject" and request.key == key:
            versions += 1
            bucket.store(key, body(f"version {versions}"))

    report, listings = await run_while(bucket, overwrite)
    assert listings["data/t_0_"] == 1
    assert report.exit_code == 0
    assert {why: n for why, n in report.sources.left.items() if n} == {"changed": 8}
    assert set(SOURCES) <= set(bucket.objects)
    assert not bucket.uploads


async def test_a_group_that_is_gone_is_not_taken_for_another_below_its_prefix() -> None:
    """`t_0_5` is listed with `t_0`, but is not in this run's scope."""
    bucket = filled(count=8)
    others = [f"data/t_0_5_{n}-{n}.jsonl.gz" for n in range(3)]
    for key in others:
        bucket.store(key, body(key))

    def remove_all() -> None:
        for key in SOURCES:
            bucket.remove(key)

    report, listings = await run_while(bucket, once(SOURCES[0], remove_all), partition=[0])
    assert listings["data/t_0_"] == 1
    assert set(data_in(bucket.objects)) == set(others)
    assert (report.outputs.written, report.sources.left["changed"]) == (0, 8)


async def test_a_group_whose_record_has_to_stay_is_not_planned_again() -> None:
    """There is room for one record only: the next run settles it first."""
    bucket = filled(count=8)
    overwrite = once(SOURCES[7], lambda: bucket.store(SOURCES[7], body("new")))
    report, listings = await run_while(bucket, overwrite, max_files=4, delete=False)
    assert listings["data/t_0_"] == 0
    assert report.outputs.written == 1
    assert set(SOURCES) <= set(bucket.objects)


@pytest.mark.parametrize(
    ("added", "taken", "seen", "bounds"),
    [
        ((8,), (), 9, "0_8"),
        ((), (5,), 7, "0_7"),
        ((8, 9), (0, 5), 8, "1_9"),
        ((), tuple(range(8)), 8, ""),
    ],
)
async def test_what_others_add_or_take_away_before_the_second_listing_is_counted(
    added: tuple[int, ...], taken: tuple[int, ...], seen: int, bounds: str
) -> None:
    """Every source that was seen was either joined or left, and none has failed."""
    bucket = filled(count=8)

    def act() -> None:
        bucket.store(SOURCES[3], body("new"))
        for n in added:
            bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body(f"added {n}"))
        for n in taken:
            bucket.remove(SOURCES[n])

    report, _ = await run_while(bucket, once(SOURCES[3], act))
    left = {why: count for why, count in report.sources.left.items() if count}
    assert (report.exit_code, report.failures) == (0, [])
    assert (report.sources.seen, report.topics[0].sources) == (seen, seen)
    if not bounds:
        assert (report.sources.joined, left) == (0, {"changed": 8})
        return
    output = f"data/t_0_{bounds}.jsonl.gz"
    assert list(data_in(bucket.objects)) == [output]
    assert (report.sources.joined, left) == (seen, {})
    assert report.path_list.after == len(f"s3://b/{output},")


async def test_what_the_patterns_leave_out_of_the_second_listing_has_not_failed() -> None:
    bucket = filled(count=8)

    def act() -> None:
        bucket.store(SOURCES[3], body("new"))
        bucket.store("data/t_0_8-8.jsonl.gz", body("left out"))

    report, _ = await run_while(bucket, once(SOURCES[3], act), max_files=4, exclude=["*_8-8*"])
    left = {why: count for why, count in report.sources.left.items() if count}
    assert (report.sources.seen, report.sources.joined, left) == (9, 8, {"excluded": 1})


def test_a_second_plan_that_met_no_change_leaves_none_to_tell() -> None:
    first, second = (GroupOutcome(lambda _: None, stale=stale) for stale in (True, False))
    complete_outcome(first, second)
    assert not first.stale


def test_a_second_plan_whose_record_has_to_stay_says_so() -> None:
    """And what keeps a source from its neighbours, which only one of the two may have met."""
    first, second = (GroupOutcome(lambda _: None, unsettled=stays) for stays in (False, True))
    second.unlike = "k: content-type is text/odd"
    complete_outcome(first, second)
    assert (first.unsettled, first.unlike) == (True, second.unlike)


async def test_what_is_planned_again_does_not_take_the_name_of_an_output_that_was_there() -> None:
    """Offsets of manifests are not compared, so those sources are joined."""
    bucket, there = MemoryBucket(), "data/t_0_5_u_1_6.txt"
    bucket.store(there, b"before\n")
    for n in (5, 6, 7):
        bucket.store(f"data/t_0_{n}-u_1_{n}.txt", b"%d\n" % n)
    bucket.now += 1000
    store = MemoryStore(bucket)

    async def before(request: Request) -> None:
        if request.operation == "GetObject" and request.key == "data/t_0_7-u_1_7.txt":
            raise Archived("made up", key=request.key)

    store.before = before
    report = await Run(store, settings(layout="manifest")).coalesce()
    assert [failure.key for failure in report.failures] == ["data/t_0_7-u_1_7.txt"]
    assert bucket.objects[there].data == b"before\n"
    assert bucket.objects["data/t_0_5_u_1_06.txt"].data == b"5\n6\n"
