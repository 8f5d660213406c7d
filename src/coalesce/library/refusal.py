"""What is wrong with a value, in the user's words: pydantic's are for programmers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from coalesce.errors import UsageError
from coalesce.settings import BUCKET_REQUIRED, Settings, format_value

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_Model = TypeVar("_Model", bound=BaseModel)

_LONGEST = 60

_REASONS = {
    "int_parsing": "not a whole number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "int_parsing_size": "too large a number",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "finite_number": "not a number",
    "bool_parsing": "neither true nor false",
    "bool_type": "neither true nor false",
    "string_type": "not text",
    "extra_forbidden": "there is no such setting",
    "tuple_type": 'not a list; write it as ["a", "b"]',
}
_OF_NAMES = {"missing": "is required", "extra_forbidden": "is not known"}
_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least"),
    "greater_than": ("gt", "must be more than"),
    "less_than_equal": ("le", "must be at most"),
}


def parse(model: type[_Model], values: Mapping[str, object]) -> _Model:
    """The part of the values that a model takes.

    Raises UsageError, which says of every option that is wrong what it should be.
    """
    chosen = {name: value for name, value in values.items() if name in model.model_fields}
    for name, value in chosen.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not _is_sendable(text):
                from coalesce.storage.s3.origin import strip_userinfo

                shown = strip_userinfo(text)
                raise UsageError(f"--{name.replace('_', '-')} {shown!r}: not text in UTF-8")
    try:
        return model.model_validate(chosen)
    except ValidationError as error:
        raise UsageError(refusals_of(model, error.errors())) from error


def _is_sendable(text: str) -> bool:
    return "\0" not in text and text.encode(errors="ignore").decode() == text


def refusals_of(model: type[BaseModel], errors: Iterable[ErrorDetails]) -> str:
    """All of pydantic's errors in one line, each once."""
    return "; ".join(dict.fromkeys(refusal_of(model, error) for error in errors))


def refusal_of(model: type[BaseModel], error: ErrorDetails) -> str:
    """One sentence for one of pydantic's errors: the option, its value, what it should be."""
    kind, context = error["type"], error.get("ctx", {})
    reason = _REASONS.get(kind, error["msg"])
    if kind == "value_error":
        reason = str(context["error"])
    if not error["loc"] or reason.startswith("--"):
        return reason
    if error["loc"][0] == "layouts":
        return _refusal_of_layout(error, reason)
    name = str(error["loc"][0])
    option = f"--{name.replace('_', '-')}"
    if kind == "missing":
        url = name == "bucket" and issubclass(model, Settings)  # no other takes an s3:// URL
        return BUCKET_REQUIRED if url else f"{option} is required"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{option} {words} {format_value(model.model_fields[name], context[bound])}"
    if kind == "literal_error":
        reason = f"choose {context['expected'].replace(chr(39), '')}"
    if reason.startswith(repr(error["input"])):
        return f"{option} {reason}"
    return f"{option} {quote(error['input'])}: {reason}"


def _refusal_of_layout(error: ErrorDetails, reason: str) -> str:
    """One sentence for what is wrong in a `[layout.NAME]` of the configuration file."""
    _, name, *fields = map(str, error["loc"])
    if error["type"] in _OF_NAMES:
        reason = _OF_NAMES[error["type"]]
    return f"[layout.{name}] {'.'.join(fields)}: {reason}"


def quote(value: object) -> str:
    """A value for a message: as it is typed if that is clear, else as Python writes it."""
    plain = isinstance(value, str) and value.isprintable() and value and " " not in value
    text = str(value) if plain else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
