"""What was typed, stands in the environment or in a file, as settings: option, else environment,
else file, else default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coalesce.errors import UsageError
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options

_STORE = frozenset(
    {
        "endpoint_url",
        "region",
        "profile",
        "no_sign_request",
        "ca_bundle",
        "no_verify_ssl",
        "expected_bucket_owner",
        "request_payer",
        "addressing",
    }
)
_LOCALSTACK = {
    "endpoint_url": "http://localstack:4566",
    "region": "eu-west-2",
    "access_key": "test",
    "secret_key": "test",
}
_OUTPUT = frozenset(
    {
        "report",
        "output",
        "log_level",
        "log_format",
        "quiet",
        "verbose",
        "no_progress",
        "stats_interval",
    }
)
_SWITCHES = frozenset(
    {"no_sign_request", "no_verify_ssl", "request_payer", "quiet", "verbose", "no_progress"}
)

# Where schedulers say which of how many jobs this is: AWS Batch array jobs; Kubernetes Indexed
# Jobs, whose number somebody has to pass on.
_ARRAYS = (
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("JOB_COMPLETION_INDEX", "COALESCE_SHARDS"),
)


def gathered(given: dict[str, Any]) -> dict[str, Any]:
    """What was typed or stands in the environment, over what stands in the file.

    Raises UsageError for a file with unknown names.
    """
    values = _from_file(given.get("config"))
    unknown = sorted(values.keys() - Settings.model_fields.keys() - _STORE - _OUTPUT)
    if unknown:
        raise UsageError(
            f"the configuration file has unknown names: {', '.join(unknown)}",
            hint="Names are those of the options, such as max_size.",
        )
    values |= {name: value for name, value in given.items() if value is not None and value != []}
    for name, value in values.items():
        _check(name, value)
    for target in values.pop("targets", ()):
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        if not target.startswith("s3://") or values.setdefault("bucket", bucket) != bucket:
            raise UsageError(
                f"{target!r} is not s3://bucket/prefix of the one bucket",
                hint="All targets of a run lie in one bucket.",
            )
        values["prefix"] = [*values.get("prefix", ()), prefix]
    return values


def settings_of(values: dict[str, Any]) -> Settings:
    """The settings among gathered values. Raises UsageError."""
    chosen = {name: value for name, value in values.items() if name in Settings.model_fields}
    if values.get("manifests"):
        chosen["layout"] = "manifest"
    if values.get("multiprocessor"):
        chosen["processes"] = 0
    if values.get("no_delete"):
        chosen["delete"] = False
    chosen.setdefault("bucket", "")
    chosen.setdefault("shard", _scheduled_shard(os.environ) or "0/1")
    try:
        return Settings.model_validate(chosen)
    except ValidationError as error:
        raise UsageError("; ".join(map(_told, error.errors()))) from error


def store_options_of(values: dict[str, Any]) -> S3Options:
    """How the store is reached, among gathered values. Raises UsageError."""
    if not values.get("bucket"):
        raise UsageError("a bucket is required: --bucket NAME")
    if values.get("addressing", "auto") not in ("path", "virtual", "auto"):
        raise UsageError(f"--addressing {values['addressing']!r} is none of path, virtual, auto")
    local = _LOCALSTACK if values.get("localstack") else {}
    names = (
        "bucket",
        "endpoint_url",
        "region",
        "profile",
        "ca_bundle",
        "expected_bucket_owner",
        "request_payer",
        "addressing",
    )
    chosen = {name: values[name] for name in names if values.get(name)}
    return S3Options(
        **{
            **local,
            **chosen,
            "sign": not values.get("no_sign_request"),
            "verify_ssl": not values.get("no_verify_ssl"),
        }
    )


def wants_json(values: dict[str, Any]) -> bool:
    """Whether stdout carries JSON, among gathered values. Raises UsageError."""
    output = values.get("output", "text")
    if output not in ("text", "json"):
        raise UsageError(f"--output {output!r} is none of text, json")
    return bool(output == "json")


def _scheduled_shard(environment: Mapping[str, str]) -> str:
    for index, count in _ARRAYS:
        if environment.get(index) and environment.get(count):
            return f"{environment[index]}/{environment[count]}"
    return ""


def _from_file(config: str | None) -> dict[str, Any]:
    path = Path(config or "coalesce.toml")
    if config is None and not path.exists():
        return {}
    try:
        return {
            name.replace("-", "_"): value
            for name, value in tomllib.loads(path.read_text("utf-8")).items()
        }
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the configuration file {str(path)!r} cannot be read: {error}") from error


def _check(name: str, value: Any) -> None:
    """That a value is of its kind, as far as the settings do not see to it, and that its text can
    be sent and opened. Raises UsageError.
    """
    where = f"--{name.replace('_', '-')}"
    if name in _STORE | _OUTPUT and not isinstance(value, bool if name in _SWITCHES else str):
        raise UsageError(
            f"{where} {value!r} is not {'true or false' if name in _SWITCHES else 'text'}"
        )
    if name == "prefix" and not isinstance(value, list):
        raise UsageError(f'{where} {value!r} is not a list of prefixes, such as ["a", "b"]')
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (
            "\0" in text or text.encode(errors="ignore").decode() != text
        ):
            raise UsageError(f"{where} {text!r} is not text in UTF-8")


def _told(error: Any) -> str:
    where = f"--{str(error['loc'][0]).replace('_', '-')}: " if error["loc"] else ""
    return f"{where}{error['msg'].removeprefix('Value error, ')}"
