"""What a listener is told, as objects."""

import copy
from collections import Counter
from typing import get_args

import pytest

import coalesce
from coalesce.exits import ExitCode
from coalesce.library.events import event_of
from coalesce.report.events import WarningEvent, WarningKind
from support import lakes
from support.buckets import contents, data_in, filled
from support.library import chosen, opening


def test_a_run_tells_of_every_output_and_of_every_source_that_it_left() -> None:
    bucket, heard = copy.deepcopy(lakes.spoilt()), list[coalesce.Event]()
    with opening({"b": bucket}):
        report = coalesce.run(chosen(), on_event=heard.append)
    outputs = [event for event in heard if isinstance(event, coalesce.OutputWritten)]
    left = [event for event in heard if isinstance(event, coalesce.SourceLeft)]
    failures = [event for event in heard if isinstance(event, coalesce.Failure)]
    assert [(one.key, one.sources, one.records) for one in outputs] == [
        ("data/t_0_0_3.jsonl.gz", 4, 4)
    ]
    assert outputs[0].bytes == len(bucket.objects[outputs[0].key].data)
    assert left == [coalesce.SourceLeft("data/t_0_4-4.jsonl.gz", "corrupt")]
    assert failures == report.failures


def test_a_plan_tells_of_every_output_that_would_be_written() -> None:
    heard: list[coalesce.Event] = []
    with opening({"b": filled(2, 4)}):
        coalesce.plan(chosen(max_files=2), on_event=heard.append)
    assert all(isinstance(event, coalesce.OutputPlanned) for event in heard)
    assert {event.key for event in heard} == {
        f"data/t_{group}_{first}_{first + 1}.jsonl.gz" for group in (0, 1) for first in (0, 2)
    }


def test_verify_tells_of_every_output_that_is_proven() -> None:
    heard: list[coalesce.Event] = []
    bucket = copy.deepcopy(lakes.joined())
    with opening({"b": bucket}):
        found = coalesce.verify(chosen(), deep=True, on_event=heard.append)
    assert Counter(map(type, heard)) == {coalesce.OutputVerified: found.proven}
    assert {event.key for event in heard} <= data_in(contents(bucket)).keys()


def test_what_a_listener_of_verify_raises_is_raised() -> None:
    def refuse(_: coalesce.Event) -> None:
        raise LookupError("mine")

    with opening({"b": copy.deepcopy(lakes.joined())}), pytest.raises(LookupError, match="mine"):
        coalesce.verify(chosen(), on_event=refuse)


def test_what_somebody_should_know_is_a_notice() -> None:
    heard: list[coalesce.Event] = []
    with opening({"b": filled()}):
        report = coalesce.run(chosen(prefix=["nothing"]), on_event=heard.append)
    assert report.exit_code == ExitCode.DONE
    assert [(one.kind, one.key) for one in heard if isinstance(one, coalesce.Notice)] == [
        ("empty", "nothing/")
    ]


@pytest.mark.parametrize("kind", get_args(WarningKind))
def test_a_warning_of_any_kind_is_a_notice(kind: WarningKind) -> None:
    told: WarningEvent = {"type": kind, "key": "k", "message": "m", "hint": "h"}
    assert event_of(told) == coalesce.Notice(kind, "k", "m", "h")
