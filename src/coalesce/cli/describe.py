"""What the help and docs/options.md say of an option; defaults and choices come from the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from coalesce.cli.options import Option
from coalesce.cli.request import field_of
from coalesce.settings import format_value

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def help_of(command: str, option: Option) -> str:
    """The option's help, with its choices and its default."""
    default = default_of(command, option)
    return meaning_of(command, option) + (f" (default {default})" if default else "")


def meaning_of(command: str, option: Option) -> str:
    """The option's help without its default."""
    *others, last = choices_of(command, option) or ("",)
    return option.help.replace("{choices}", f"{', '.join(others)} or {last}" if others else last)


def default_of(command: str, option: Option) -> str:
    """An option's default as a person reads it, empty where there is nothing to say."""
    field = field_of(command, option.name)
    default = None if field is None or field.is_required() else field.default
    if field is None or default is None or default is False or default in ("", ()):
        return ""
    return option.names[0].partition("/")[0] if default is True else format_value(field, default)


def choices_of(command: str, option: Option) -> tuple[str, ...]:
    """The values that an option may take, empty if there is no list of them."""
    field = field_of(command, option.name)
    return _choices(field) if field else ()


def _choices(field: FieldInfo) -> tuple[str, ...]:
    if field.examples:
        return tuple(map(str, field.examples))
    found: list[Any] = [field.annotation]
    for annotation in found:  # also inside a tuple
        if get_origin(annotation) is Literal:
            return get_args(annotation)
        found += get_args(annotation)
    return ()
