"""The examples of docs/library.md, each run as it stands there."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import coalesce
from coalesce.storage.memory import MemoryBucket
from support.buckets import check_finished, contents, records_in, sources
from support.library import opening

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
DAYS = ("", "2026/11/21/", "2026/11/22/")


def lake() -> MemoryBucket:
    """Small objects with and without days, all of them old enough."""
    bucket = MemoryBucket()
    for root in ("storage/events/", "storage/audit/"):
        for day in DAYS:
            for key, body in sources(3, 4).items():
                bucket.store(f"{root}{day}{key.removeprefix('data/')}", body)
    bucket.now += 3600
    return bucket


class _Task:
    """A task of Airflow, as far as the example uses it: called when it is."""

    def __init__(self, function: Callable[..., Any], day: str) -> None:
        self._function = function
        self._more = {"ds": day} if "ds" in function.__annotations__ else {}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._function(*arguments, **named, **self._more)

    def partial(self, **fixed: Any) -> Any:
        def expand(**lists: list[Any]) -> list[Any]:
            ((name, values),) = lists.items()
            return [self(**fixed, **{name: value}) for value in values]

        return SimpleNamespace(expand=expand)


def engines(day: str) -> dict[str, ModuleType]:
    """What the recipes import of Airflow and Dagster, without these packages."""

    def task(*function: Callable[..., Any], **_: Any) -> Any:
        return _Task(function[0], day) if function else lambda found: _Task(found, day)

    def asset(**_: Any) -> Any:
        context = SimpleNamespace(partition_key=day, log=SimpleNamespace(info=lambda _: None))
        return lambda function: function(context)

    airflow, sdk, dagster = ModuleType("airflow"), ModuleType("airflow.sdk"), ModuleType("dagster")
    sdk.task, sdk.dag = task, lambda **_: lambda function: function  # type: ignore[attr-defined]
    dagster.asset = asset  # type: ignore[attr-defined]
    dagster.DailyPartitionsDefinition = SimpleNamespace  # type: ignore[attr-defined]
    dagster.AssetExecutionContext = SimpleNamespace  # type: ignore[attr-defined]
    dagster.MaterializeResult = SimpleNamespace  # type: ignore[attr-defined]
    dagster.Failure = RuntimeError  # type: ignore[attr-defined]
    return {"airflow": airflow, "airflow.sdk": sdk, "dagster": dagster}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands_there(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And joins what it says: every record is there once, and nothing is left half done."""
    example, bucket = EXAMPLES[number], lake()
    before, keys = records_in(contents(bucket)), set(bucket.objects)
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "0")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_SIZE", "1")
    for name, module in engines("2026-11-22").items():
        monkeypatch.setitem(sys.modules, name, module)
    with opening({"lake": bucket, "lake-plans": MemoryBucket()}):
        ended: list[object] = []
        try:
            exec(compile(example, f"{PAGE.name}[{number}]", "exec"), {"__name__": "example"})
        except SystemExit as end:
            ended = [end.code]
    assert ended in ([], [0])
    assert records_in(contents(bucket)) == before
    check_finished(bucket.objects)
    joins = ("coalesce.run(", "coalesce.arun(")
    today = 'date="yesterday"' in example  # a day of which there is nothing here
    if any(join in example for join in joins) and "no-such" not in example and not today:
        assert set(bucket.objects) - keys


def test_the_page_names_everything_that_there_is() -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"\b\w+\b", text))
    assert set(coalesce.__all__) - named <= {"StopSign", "MergedReport"}
