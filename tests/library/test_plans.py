"""A plan is made once, saved, and executed by shards that need not know of each other."""

from pathlib import Path

import pytest

import coalesce
from coalesce.errors import ListingError
from coalesce.storage.memory import MemoryBucket
from support.buckets import check_finished, contents, data_in, filled, records_in
from support.library import chosen, opening


@pytest.mark.parametrize("place", ["plan.jsonl", "s3://plans/night.jsonl"])
def test_the_shards_of_a_saved_plan_do_together_what_was_planned(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bucket = filled(5, 4)
    before = records_in(contents(bucket))
    with opening({"b": bucket, "plans": MemoryBucket()}):
        planned = coalesce.plan(chosen(max_files=2), save=place)
        bucket.store("data/t_9_0-0.jsonl.gz", b"later")
        reports = [
            coalesce.run(chosen(max_files=2, shard=f"{index}/3"), plan=place) for index in range(3)
        ]
    assert planned.plan is not None
    assert [report.exit_code for report in reports] == [0, 0, 0]
    assert sum(report.outputs.written for report in reports) == 10
    merged = coalesce.merge(reports)
    assert isinstance(merged, coalesce.MergedReport)
    assert (merged.exit_code, merged.outputs.written, merged.sources.deleted) == (0, 10, 20)
    late = bucket.objects.pop("data/t_9_0-0.jsonl.gz")
    assert late.data == b"later"
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)


def test_other_rules_beside_a_plan_are_refused(tmp_path: Path) -> None:
    place, bucket = str(tmp_path / "plan.jsonl"), filled()
    before = data_in(contents(bucket))
    with opening({"b": bucket}):
        coalesce.plan(chosen(), save=place)
        for other in ({"max_files": 2}, {"prefix": ["more"]}, {"check": False}):
            with pytest.raises(coalesce.ConfigurationError):
                coalesce.run(chosen(**other), plan=place)
    assert data_in(contents(bucket)) == before


def test_a_plan_that_is_not_there_or_damaged_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "plan.jsonl"
    damaged.write_text("{}\n")
    with opening({"b": filled()}):
        for place in (str(damaged), str(tmp_path / "other"), "s3://b/none"):
            with pytest.raises(coalesce.ConfigurationError):
                coalesce.run(chosen(), plan=place)


def test_a_plan_of_one_shard_is_not_saved(tmp_path: Path) -> None:
    place = tmp_path / "plan.jsonl"
    with opening({"b": filled()}), pytest.raises(coalesce.ConfigurationError, match="all shards"):
        coalesce.plan(chosen(shard="0/2"), save=str(place))
    assert not place.exists()


def test_a_plan_that_failed_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would leave out what was not seen, and the run would be none the wiser."""
    listed = MemoryBucket.list_page

    def list_page(bucket: MemoryBucket, prefix: str, *rest: object) -> object:
        if prefix.startswith("more/"):
            raise ListingError("no", key=prefix)
        return listed(bucket, prefix, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryBucket, "list_page", list_page)
    place = tmp_path / "plan.jsonl"
    with opening({"b": filled()}):
        report = coalesce.plan(chosen(prefix=["data", "more"]), save=str(place))
    assert report.exit_code == 1
    assert not place.exists()


def test_a_plan_holds_the_size_that_its_goal_needed(tmp_path: Path) -> None:
    place, bucket = str(tmp_path / "plan.jsonl"), filled(2, 40)
    with opening({"b": bucket}):
        with pytest.raises(coalesce.ConfigurationError, match="2 objects"):
            coalesce.plan(chosen(max_objects=1), save=place)
        planned = coalesce.plan(chosen(max_objects=2), save=place)
        report = coalesce.run(chosen(max_objects=2), plan=place)
    assert planned.plan is not None
    assert planned.plan.max_size == chosen().max_size
    assert (report.exit_code, len(data_in(bucket.objects))) == (0, 2)
