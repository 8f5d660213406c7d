"""A run by an inventory looks where that shows something to join, and believes nothing else."""

import pytest

import coalesce
from coalesce.storage.memory import Request
from support.buckets import check_finished, contents, data_in, filled, records_in
from support.inventories import MANIFEST, inventory_of
from support.library import chosen, opening

URL = f"s3://lists/{MANIFEST}"


def test_only_groups_that_the_inventory_shows_are_listed_and_joined() -> None:
    bucket = filled(5, 4)
    for n in range(5000):
        bucket.store(f"data/u_{n}_0_9.jsonl.gz", b"")
    lists, listed = inventory_of(bucket), list[str]()

    async def note(request: Request) -> None:
        if request.operation == "ListObjectsV2":
            listed.append(request.key)

    with opening({"b": bucket, "lists": lists}, note):
        planned = coalesce.plan(chosen(), inventory=URL)
        report = coalesce.run(chosen(), inventory=URL)
    assert planned.plan is not None
    assert [topic.joined for topic in planned.plan.topics] == [20]
    assert (report.exit_code, report.outputs.written, report.sources.deleted) == (0, 5, 20)
    seen = {prefix for prefix in listed if not prefix.startswith("_coalesce/")}
    assert seen <= {f"data/t_{number}_" for number in range(5)} | {"data/"}
    assert "data/" not in seen


def test_every_record_is_there_once_whatever_has_changed_since() -> None:
    """A source that was replaced, one that has come, one that is gone, one that is an output's."""
    bucket = filled(3, 4)
    lists = inventory_of(bucket)
    with opening({"b": bucket}):
        coalesce.run(chosen(include=["*t_2_*"]))
    again = bucket.objects["data/t_0_0-0.jsonl.gz"].data
    bucket.store("data/t_1_2-2.jsonl.gz", again)
    bucket.store("data/t_1_4-4.jsonl.gz", again)
    bucket.store("data/t_2_1-1.jsonl.gz", again)
    bucket.remove("data/t_1_0-0.jsonl.gz")
    bucket.now += 1000
    before = records_in(contents(bucket))
    with opening({"b": bucket, "lists": lists}):
        report = coalesce.run(chosen(), inventory=URL)
    assert (report.exit_code, report.outputs.written) == (0, 2)
    assert report.sources.left["covered"] == 1
    assert records_in(contents(bucket)) == before
    assert sorted(data_in(bucket.objects)) == [
        "data/t_0_0_3.jsonl.gz",
        "data/t_1_1_4.jsonl.gz",
        "data/t_2_0_3.jsonl.gz",
        "data/t_2_1-1.jsonl.gz",
    ]


def test_an_inventory_from_before_the_last_run_repeats_nothing() -> None:
    bucket = filled(3, 4)
    lists = inventory_of(bucket)
    with opening({"b": bucket, "lists": lists}):
        assert coalesce.run(chosen()).outputs.written == 3
        after = data_in(contents(bucket))
        report = coalesce.run(chosen(), inventory=URL)
    assert (report.exit_code, report.outputs.written) == (0, 0)
    assert data_in(contents(bucket)) == after
    check_finished(bucket.objects)


def test_what_is_young_in_the_bucket_is_left_however_old_the_inventory_is() -> None:
    bucket = filled(1, 4)
    lists = inventory_of(bucket)
    bucket.store("data/t_0_9-9.jsonl.gz", bucket.objects["data/t_0_0-0.jsonl.gz"].data)
    with opening({"b": bucket, "lists": lists}):
        report = coalesce.run(chosen(min_age="5m"), inventory=URL)
    assert (report.sources.joined, report.sources.left["young"]) == (4, 1)
    assert "data/t_0_9-9.jsonl.gz" in bucket.objects


def test_a_damaged_inventory_joins_nothing() -> None:
    bucket = filled(2, 4)
    before, lists = contents(bucket), inventory_of(bucket)
    lists.store("inv/b/daily/data/0.csv.gz", b"nothing")
    with opening({"b": bucket, "lists": lists}):
        for call in (coalesce.run, coalesce.plan):
            with pytest.raises(coalesce.CoalesceError, match=r"0\.csv\.gz"):
                call(chosen(), inventory=URL)
    assert contents(bucket) == before


@pytest.mark.parametrize(
    "more",
    [
        {"inventory": "manifest.json"},
        {"inventory": "s3://lists/other.json"},
        {"inventory": f"s3://none/{MANIFEST}"},
        {"inventory": URL, "keys": ["data/t_0_0-0.jsonl.gz"]},
        {"inventory": URL.replace("inv/", "other/")},
    ],
)
def test_an_inventory_that_cannot_be_used_is_refused(more: dict[str, str]) -> None:
    bucket = filled()
    before = contents(bucket)
    with opening({"b": bucket, "lists": inventory_of(bucket)}):
        for call in (coalesce.run, coalesce.plan):
            with pytest.raises(coalesce.ConfigurationError):
                call(chosen(), **more)  # type: ignore[arg-type]
    assert contents(bucket) == before
