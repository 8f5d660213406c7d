"""`coalesce config show`: every setting with its value, and where that came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coalesce.cli.columns import Pairs
from coalesce.cli.options import Values
from coalesce.cli.origins import Gathered, Origin
from coalesce.cli.output import on_stdout, print_line
from coalesce.cli.request import JobOptions, OutputOptions, StoreOptions, parse
from coalesce.settings import Settings, format_value

_DEFAULT = Origin("default", "")
_MODELS: tuple[type[BaseModel], ...] = (Settings, StoreOptions, OutputOptions, JobOptions)
_VALUE_WIDTH = 40
_WITHOUT_EFFECT = frozenset({"summaries", "parallelise"})


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting: its value as JSON, the same as a person writes it, and its origin."""

    name: str
    value: Any
    text: str
    origin: Origin


def show_settings(values: Gathered) -> int:
    """Prints the settings that a run with these values would have; the exit code.

    Raises UsageError for what a run would refuse; a bucket and a prefix may be missing.
    """
    settings = list(_settings(values))
    if parse(OutputOptions, values).as_json:
        found = {
            setting.name: {
                "value": setting.value,
                "origin": setting.origin.kind,
                "from": setting.origin.name,
            }
            for setting in settings
        }
        print_line(json.dumps({"type": "settings", "settings": found}))
        return 0
    from coalesce.cli.tables import print_table

    with on_stdout():
        print_table(_table(settings))
    return 0


def _settings(values: Gathered) -> Iterator[_Setting]:
    for model in _MODELS:
        absent = _absent(values) if model is Settings else {}
        parsed = parse(model, {**absent, **values})
        as_json = parsed.model_dump(mode="json")
        for name, field in model.model_fields.items():
            if name in _WITHOUT_EFFECT:
                continue
            value = None if name in absent else _without_secrets(name, as_json[name])
            yield _Setting(
                name.replace("_", "-"),
                value,
                "" if value is None else _as_text(field, value),
                values.origins.get(name, _DEFAULT),
            )


def _absent(values: Values) -> Values:
    """Stands for what a run cannot do without, so that all else is shown."""
    needed: dict[str, object] = {"bucket": "bucket", "prefix": ["prefix"]}
    if values.get("whole_bucket"):
        del needed["prefix"]
    return {name: value for name, value in needed.items() if name not in values}


def _without_secrets(name: str, value: Any) -> Any:
    """A URL without its user and password; of one that is called to tell of a run the host alone,
    since whoever knows its path may call it.
    """
    if not isinstance(value, str):
        return value
    if name == "ping_url" and value:
        parts = urlsplit(value)
        return f"{parts.scheme}://{parts.hostname}/…"
    from coalesce.storage.s3.origin import strip_userinfo

    return strip_userinfo(value)


def _as_text(field: FieldInfo, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return ", ".join(map(str, value))
    return format_value(field, value)


def _table(settings: list[_Setting]) -> Pairs:
    """A line for each setting: its value and where that comes from."""
    width = min(_VALUE_WIDTH, max(len(setting.text) for setting in settings))
    return Pairs(
        [
            (setting.name, f"{setting.text:{width}}  {' '.join(filter(None, setting.origin))}")
            for setting in settings
        ]
    )
