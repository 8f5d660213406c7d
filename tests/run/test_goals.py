"""A goal says what is to be left, and the size of outputs follows from it."""

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from coalesce.errors import AccessDenied, CoalesceError, UsageError
from coalesce.run.goals import settings_for_goal
from coalesce.run.pipeline import Run
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import contents, data_in, filled, records_in
from support.settings import settings

PATH = len("s3://b/,")


def at_first(size: int, **goal: int) -> Settings:
    """Settings with a goal, whose outputs are small at first."""
    return settings(**goal).model_copy(update={"max_size": size})


def characters(bucket: MemoryBucket) -> int:
    return sum(len(key) + PATH for key in data_in(bucket.objects))


FEW = tried(max_examples=max(tried.default.max_examples // 5, 10))  # each is a run or two


@FEW
@given(st.integers(1, 3), st.integers(2, 30), st.integers(1, 40))
async def test_a_run_leaves_no_more_objects_than_its_goal_or_refuses_it(
    groups: int, count: int, goal: int
) -> None:
    bucket = filled(groups, count)
    bucket.store("data/readme", b"one that stays")
    before = records_in(contents(bucket))
    store = MemoryStore(bucket)
    if goal < groups + 1:
        with pytest.raises(UsageError, match=f"{groups + 1:,} objects"):
            await settings_for_goal(store, at_first(60, max_objects=goal))
        return
    chosen = await settings_for_goal(store, at_first(60, max_objects=goal))
    report = await Run(store, chosen).coalesce()
    assert report.exit_code == 0
    assert len(data_in(bucket.objects)) <= goal
    assert records_in(contents(bucket)) == before
    assert chosen.max_size // 60 in [2**n for n in range(12)]


@FEW
@given(st.integers(2, 30), st.integers(30, 1100))
async def test_a_run_leaves_no_longer_path_list_than_its_goal_or_refuses_it(
    count: int, goal: int
) -> None:
    bucket = filled(1, count)
    store = MemoryStore(bucket)
    least = len(f"data/t_0_0_{count - 1}.jsonl.gz") + PATH
    if goal < least:
        with pytest.raises(UsageError, match=f"path list of {least:,}"):
            await settings_for_goal(store, at_first(60, max_path_list=goal))
        return
    chosen = await settings_for_goal(store, at_first(60, max_path_list=goal))
    await Run(store, chosen).coalesce()
    assert characters(bucket) <= goal


async def test_outputs_are_no_larger_than_the_goal_needs() -> None:
    store = MemoryStore(filled(1, 40))
    whole = await settings_for_goal(store, at_first(60, max_objects=1))
    half = await settings_for_goal(store, at_first(60, max_objects=2))
    enough = await settings_for_goal(store, at_first(60, max_objects=40))
    assert whole.max_size > half.max_size > enough.max_size == 60


async def test_without_a_goal_nothing_is_asked() -> None:
    store = MemoryStore(filled())
    assert await settings_for_goal(store, settings()) == settings()
    assert not store.usage.requests


async def test_a_goal_is_not_decided_on_what_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise AccessDenied("no", code="AccessDenied")

    monkeypatch.setattr(MemoryBucket, "list_page", denied)
    with pytest.raises(CoalesceError):
        await settings_for_goal(MemoryStore(filled()), settings(max_objects=5))


@pytest.mark.parametrize(
    "said", [{"max_size": 10}, {"max_path_list": 10}, {"max_size": 10, "max_path_list": 10}]
)
def test_a_goal_beside_a_size_or_another_goal_is_refused(said: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="contradict"):
        settings(max_objects=10, **said)
