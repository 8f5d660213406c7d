"""What a command was asked to do: validated, typed and frozen before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.fields import FieldInfo

from coalesce.cli.options import Values
from coalesce.library.refusal import parse as parse
from coalesce.naming.layouts import Layout
from coalesce.naming.own_layouts import OwnLayout, known_layouts
from coalesce.settings import Bucket, Prefix, Seconds, Settings, as_directory

if TYPE_CHECKING:
    from coalesce.storage.s3 import S3Options

_LOCALSTACK = {
    "endpoint_url": "http://localstack:4566",
    "region": "eu-west-2",
    "access_key": "test",
    "secret_key": "test",
}


class Options(BaseModel):
    """Options that are not settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreOptions(Options):
    """How the store is reached.

    Empty texts leave the matter to the environment and the files of the AWS tools.
    """

    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    no_sign_request: bool = False
    ca_bundle: str = ""
    no_verify_ssl: bool = False
    expected_bucket_owner: str = ""
    request_payer: bool = False
    addressing: Literal["path", "virtual", "auto"] = "auto"
    localstack: bool = False

    @model_validator(mode="after")
    def _check_certificates(self) -> StoreOptions:
        if self.no_verify_ssl and self.ca_bundle:
            raise ValueError("--no-verify-ssl and --ca-bundle contradict each other")
        return self

    def reach(self, bucket: str = "") -> S3Options:
        """The way to a bucket. What is given by itself goes before --localstack."""
        from coalesce.storage.s3 import S3Options

        chosen: dict[str, Any] = dict(_LOCALSTACK) if self.localstack else {}
        for name in ("endpoint_url", "region", "profile", "ca_bundle", "expected_bucket_owner"):
            if value := getattr(self, name):
                chosen[name] = value
        return S3Options(
            bucket,
            **chosen,
            sign=not self.no_sign_request,
            verify_ssl=not self.no_verify_ssl,
            request_payer=self.request_payer,
            addressing=self.addressing,
        )


def _check_metrics_file(path: str) -> str:
    if path.startswith("s3://"):
        raise ValueError("takes a file: Prometheus collects it from a folder of this machine")
    return path


def _check_ping_url(url: str) -> str:
    if url and not url.startswith(("http://", "https://")):
        raise ValueError("not a URL that begins with https:// or http://")
    return url


class OutputOptions(Options):
    """What goes to stdout, to stderr, into the report and to those who watch. `report`,
    `metrics_file` and `ping_url` are empty for none.
    """

    report: str = ""
    metrics_file: Annotated[str, AfterValidator(_check_metrics_file)] = ""
    emf: bool = False
    ping_url: Annotated[str, AfterValidator(_check_ping_url)] = ""
    output: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    quiet: bool = False
    verbose: bool = False
    no_progress: bool = False
    stats_interval: Seconds = Field(default=60.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_loudness(self) -> OutputOptions:
        if self.quiet and self.verbose:
            raise ValueError("--quiet and --verbose contradict each other; leave one of them out")
        return self

    @property
    def as_json(self) -> bool:
        """Whether stdout carries JSON."""
        return self.output == "json"


class JobOptions(Options):
    """What `run`, `plan` and `recover` are told that is no setting.

    `plan` and `save_plan` are where saved plans lie, `files_from` is where a work list is, and
    `inventory` where an inventory is, all empty for none; the last two have no effect.
    """

    dry_run: bool = False
    plan: str = ""
    save_plan: str = ""
    files_from: str = ""
    inventory: str = ""
    summaries: str = ""
    parallelise: bool = False


class UndoOptions(Options):
    """Options of `undo`; `run` is the id of a run, empty for outputs of all."""

    run: str = ""
    dry_run: bool = False


class WorkListOptions(Options):
    """A work list, and the bucket of its keys."""

    bucket: Bucket
    files_from: str


class VerifyOptions(Options):
    """Options of `verify`."""

    deep: bool = False


class HistoryOptions(Options):
    """Options of `history`: the run, or the offset, that is asked for; empty for none."""

    run: str = ""
    offset: str = ""


class ExtractOptions(Options):
    """Options of `extract`: the file to write, empty for stdout."""

    to_file: str = ""
    force: bool = False


class LayoutOptions(Options):
    """The user's own layouts, for the commands that show layouts."""

    layouts: dict[str, OwnLayout] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_layouts(self) -> LayoutOptions:
        _ = self.known
        return self

    @property
    def known(self) -> Mapping[str, Layout]:
        """All layouts by name."""
        return known_layouts(tuple(self.layouts.items()))


class PolicyOptions(Options):
    """Options of `policy`."""

    kms_key: tuple[str, ...] = ()
    bucket_policy: bool = False
    role: str = ""


class ProbeOptions(Options):
    """Options of `probe`: the bucket, and the prefix to try things under."""

    bucket: Bucket
    state: str = Settings.model_fields["state"].default
    as_json: bool = False


class ReportOptions(Options):
    """Options of `report`: what to read, and where to write the HTML report and the JSON."""

    reports: tuple[str, ...] = ()
    html: str = ""
    merged: str = ""


def _take_one(value: object) -> object:
    """The prefix itself where a configuration file has a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


class DataSetOptions(Options):
    """Options of `generate`: the bucket, and the fields of `coalesce.demo.dataset.Shape`."""

    bucket: Bucket
    prefix: Annotated[Prefix, BeforeValidator(_take_one), AfterValidator(as_directory)] = "data/"
    layout: Literal["corporate", "manifest"] = Settings.model_fields["layout"].default
    topics: Annotated[int, Field(ge=1)] = 2
    partitions: Annotated[int, Field(ge=1)] = 3
    objects: Annotated[int, Field(ge=0)] = 1000
    records: Annotated[int, Field(ge=1)] = 10
    record_bytes: Annotated[int, Field(ge=1)] = 600
    seed: int = 1
    gaps: Annotated[float, Field(ge=0, le=1)] = 0.0
    overlaps: Annotated[float, Field(ge=0, le=1)] = 0.0
    spoilt: Annotated[float, Field(ge=0, le=1)] = 0.0


class DemoOptions(Options):
    """Options of `demo`."""

    objects: Annotated[int, Field(ge=0)] = 5000


_SHARED: tuple[type[BaseModel], ...] = (Settings, StoreOptions, OutputOptions)
_OWN: dict[str, type[BaseModel]] = {
    "run": JobOptions,
    "plan": JobOptions,
    "recover": JobOptions,
    "undo": UndoOptions,
    "verify": VerifyOptions,
    "history": HistoryOptions,
    "extract": ExtractOptions,
    "policy": PolicyOptions,
    "probe": ProbeOptions,
    "report": ReportOptions,
    "generate": DataSetOptions,
    "config show": JobOptions,
    "demo": DemoOptions,
}

FILE_NAMES = frozenset(n for model in _SHARED for n in model.model_fields if n != "layouts")
"""Names of settings, which a configuration file may use beside the names of options."""


def field_of(command: str, name: str) -> FieldInfo | None:
    """The field that takes an option's value, with its default and its choices.

    None if there is none: the option stands for another one, or is no setting.
    """
    models = (_OWN[command], *_SHARED) if command in _OWN else _SHARED
    return next((model.model_fields[name] for model in models if name in model.model_fields), None)


@dataclass(frozen=True, slots=True)
class Request:
    """What most commands need: which part of a bucket, how to reach it, and what to say."""

    settings: Settings
    store: S3Options
    output: OutputOptions

    @classmethod
    def of(cls, values: Values) -> Request:
        """The request that the values make. Raises UsageError."""
        return cls.under(parse(Settings, values), values)

    @classmethod
    def under(cls, settings: Settings, values: Values) -> Request:
        """The same with settings that are known already. Raises UsageError."""
        store = parse(StoreOptions, values).reach(settings.bucket)
        return cls(settings, store, parse(OutputOptions, values))
