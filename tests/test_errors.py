"""What is promised of failures."""

import pickle

import pytest

from coalesce import errors
from coalesce.errors import CoalesceError, SourceUnusable, first_failure
from coalesce.model import Source, Why

SOURCE = Source("a/t_0_1-2.jsonl.gz", 10, '"e"', 0.0, "STANDARD", 1, 2)

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CoalesceError) and kind is not SourceUnusable
]
SAID = {"key": "k", "code": "C", "request_id": "R", "hint": "Do it.", "operation": "GetObject"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_of_a_worker_reaches_the_main_process_whole(kind: type[CoalesceError]) -> None:
    sent = kind("it failed", **SAID)
    sent.repeated = True
    error = pickle.loads(pickle.dumps(sent))
    assert type(error) is kind
    assert vars(error) == {"message": "it failed", **SAID, "repeated": True}


def test_an_unusable_source_reaches_the_main_process_with_its_reason() -> None:
    cause = errors.ContentError("it is cut short", key=SOURCE.key, code="TruncatedGzip")
    error = pickle.loads(pickle.dumps(SourceUnusable(SOURCE, Why.CORRUPT, cause)))
    assert (error.source, error.why) == (SOURCE, Why.CORRUPT)
    assert (error.message, error.code, error.hint) == (cause.message, cause.code, cause.hint)
    assert vars(error.cause) == vars(cause)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hint_is_made_of_sentences(kind: type[CoalesceError]) -> None:
    """It follows the message on the same line."""
    assert not kind.hint or (kind.hint[0].isupper() and kind.hint.endswith("."))


def test_the_first_failure_of_nested_task_groups_is_the_one_reported() -> None:
    first, second = ValueError("first"), ValueError("second")
    nested = BaseExceptionGroup("", [BaseExceptionGroup("", [first]), second])
    assert first_failure(nested) is first
