"""A model of EventBridge: which rules take an event of Batch, and what they tell."""

from collections.abc import Iterable
from typing import Any


def matches(pattern: Any, event: Any) -> bool:
    """Whether EventBridge sends an event to a rule, for the kinds of conditions that stand here."""
    for name, wanted in pattern.items():
        found = event.get(name)
        if isinstance(wanted, dict):
            if not matches(wanted, found or {}):
                return False
        elif isinstance(wanted[0], dict):
            if (name in event) != wanted[0]["exists"]:
                return False
        elif found not in wanted:
            return False
    return True


def failed(queue: str, detail: dict[str, Any]) -> dict[str, Any]:
    """The event that a job has failed; the detail says of which job, and how."""
    return {
        "source": "aws.batch",
        "detail-type": "Batch Job State Change",
        "detail": {"status": "FAILED", "jobQueue": queue, **detail},
    }


def messages(rules: Iterable[Any], event: Any) -> list[str]:
    """What the rules that take the event tell the topic."""
    return [_message(rule, event) for rule in rules if matches(rule["EventPattern"], event)]


def _message(rule: Any, event: Any) -> str:
    transformer = rule["Targets"][0]["InputTransformer"]
    text = str(transformer["InputTemplate"]).strip('"')
    for name, path in transformer["InputPathsMap"].items():
        value: Any = event
        for step in path.split(".")[1:]:
            value = value[step]
        text = text.replace(f"<{name}>", str(value))
    return text
