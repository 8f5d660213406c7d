"""When a run stops: reading that changes nothing, asking counts."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.exits import ExitCode
from coalesce.model import Batch, Source
from coalesce.stop import RunLimits, Stop
from support.settings import settings


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def batch(sources: int = 1, size: int = 1) -> Batch:
    source = Source("d/t_0_0-0.jsonl.gz", 1, '"e"', 0.0, "STANDARD", 0, 0)
    return Batch("d/t_0_0_0.jsonl.gz", [source] * sources, size, "digest")


def test_a_run_that_finishes_after_its_deadline_was_not_stopped_by_it() -> None:
    """However often somebody looks whether it is stopping."""
    clock = Clock()
    stop = Stop(RunLimits(deadline=10), clock)
    assert stop.try_start_output(batch())
    clock.now = 11
    assert stop.stopping
    assert stop.seconds_left == -1
    assert stop.code == 0


@pytest.mark.parametrize("ask", ["plan a group", "start a group", "start an output", "continue"])
def test_whoever_is_refused_after_the_deadline_makes_it_the_exit_code(ask: str) -> None:
    clock = Clock(now=5)
    stop = Stop(RunLimits(deadline=10), clock)
    asks = {
        "plan a group": stop.try_plan_group,
        "start a group": stop.try_start_group,
        "start an output": lambda: stop.try_start_output(batch()),
        "continue": stop.try_continue,
    }
    clock.now = 14.9
    assert asks[ask]()
    assert stop.code == 0
    clock.now = 15
    assert not asks[ask]()
    assert stop.code == ExitCode.LIMIT


def test_the_first_reason_to_stop_stays() -> None:
    clock = Clock()
    stop = Stop(RunLimits(deadline=10), clock)
    stop.request(ExitCode.TERMINATED)
    stop.request(ExitCode.INTERRUPTED)
    clock.now = 11
    assert not stop.try_start_group()
    assert stop.code == ExitCode.TERMINATED


@pytest.mark.parametrize(
    ("limits", "granted"),
    [
        (RunLimits(), 5),
        (RunLimits(sources=6), 3),
        (RunLimits(sources=7), 3),
        (RunLimits(bytes=20), 2),
        (RunLimits(sources=1), 0),
    ],
)
def test_outputs_count_until_the_first_that_would_exceed_a_limit(
    limits: RunLimits, granted: int
) -> None:
    stop = Stop(limits, Clock())
    assert [stop.try_start_output(batch(2, 10)) for _ in range(5)] == [True] * granted + [False] * (
        5 - granted
    )
    assert stop.code == (0 if granted == 5 else ExitCode.LIMIT)


def test_planning_a_group_does_not_count_and_starting_one_does() -> None:
    stop = Stop(RunLimits(groups=1), Clock())
    assert stop.try_plan_group()
    assert stop.try_plan_group()
    assert stop.try_start_group()
    assert not stop.try_start_group()
    assert not stop.try_plan_group()


def test_a_limit_ends_what_comes_after_it_and_a_signal_also_what_was_granted() -> None:
    stop = Stop(RunLimits(groups=0), Clock())
    assert not stop.try_start_group()
    assert stop.try_continue()
    signalled = Stop(RunLimits(), Clock())
    signalled.request(ExitCode.INTERRUPTED)
    assert not signalled.try_continue()


ASKS = st.sampled_from(["plan", "start", "output", "continue", "signal", "time"])


@given(st.lists(ASKS, max_size=30), st.integers(0, 4), st.integers(0, 8), st.integers(1, 9))
def test_reading_changes_nothing(asks: list[str], groups: int, sources: int, deadline: int) -> None:
    """Whatever is asked: with everything read in between, the answers are the same."""

    def answers(*, read: bool) -> list[object]:
        clock = Clock()
        stop = Stop(RunLimits(groups=groups, sources=sources, deadline=deadline), clock)
        given: list[object] = []
        for ask in asks:
            if read:
                _ = (stop.stopping, stop.code, stop.seconds_left)
            match ask:
                case "plan":
                    given.append(stop.try_plan_group())
                case "start":
                    given.append(stop.try_start_group())
                case "output":
                    given.append(stop.try_start_output(batch()))
                case "continue":
                    given.append(stop.try_continue())
                case "signal":
                    stop.request(ExitCode.TERMINATED)
                case "time":
                    clock.now += 1
        return [*given, stop.code]

    assert answers(read=True) == answers(read=False)


def test_the_limits_are_those_of_the_settings() -> None:
    chosen = settings(max_groups=1, max_bytes="2KB", max_delete=3, deadline="4m")
    assert RunLimits.of(chosen) == RunLimits(groups=1, bytes=2000, sources=3, deadline=240)
    assert RunLimits.of(settings()) == RunLimits()


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (RunLimits(groups=0), "--max-groups"),
        (RunLimits(bytes=1), "--max-bytes"),
        (RunLimits(sources=1), "--max-delete"),
        (RunLimits(deadline=0), "--deadline"),
        (RunLimits(), ""),
    ],
)
def test_a_run_names_the_limit_that_stopped_it(limits: RunLimits, name: str) -> None:
    """The first one, whatever it runs into later."""
    stop = Stop(limits, Clock())
    if limits.groups is None:
        stop.try_start_output(batch(sources=2, size=2))
    stop.try_start_group()
    assert stop.limit == name
    stop.try_start_output(batch(sources=9, size=9))
    assert stop.limit == name


def test_the_limit_that_stopped_another_process_of_the_run_is_the_deadline() -> None:
    stop = Stop(RunLimits(), Clock())
    stop.request(ExitCode.LIMIT)
    assert stop.limit == "--deadline"
    stopped = Stop(RunLimits(), Clock())
    stopped.request(ExitCode.TERMINATED)
    assert stopped.limit == ""
