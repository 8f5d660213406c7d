"""The report of a run: one JSON object, added up as the run goes."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from coalesce.errors import CoalesceError
from coalesce.exits import exit_code_of, worst
from coalesce.model import CommittedOutput, Why
from coalesce.report.undone import UndonePart
from coalesce.settings import Settings

PATH_LIST_LIMIT = 2**31 - 1

# Failures that a report holds: more of them nobody reads, and each takes about a kilobyte.
MOST_FAILURES = 1000

# Locations and days that a report tells apart.
MOST_LOCATIONS = 1000

# Plan records that a report holds: enough for those of a few hundred processes that were killed.
MOST_PLAN_RECORDS = 1000

# What a plan record of an earlier run may have become.
Became = Literal["settled", "unsettled", "stopped"]

# The stages of a run, in their order, and their requests. The few GETs of the probe, of records and
# of small read-backs count as GETs.
_STAGES = {
    "list": ("ListObjectsV2",),
    "get": ("GetObject", "GetObjectTagging"),
    "check": (),
    "upload": ("UploadPart", "UploadPartCopy"),
    "commit": (
        "CreateMultipartUpload",
        "PutObject",
        "CompleteMultipartUpload",
        "HeadObject",
        "AbortMultipartUpload",
        "ListMultipartUploads",
    ),
    "delete": ("DeleteObjects", "DeleteObject"),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)  # a later version may say more


class ScopePart(_Part):
    """What a command worked on: one bucket, and which keys of it."""

    bucket: str
    prefixes: list[str]
    layout: str
    partitions: list[int]
    shard: str = "0/1"

    @classmethod
    def of(cls, settings: Settings, prefixes: Iterable[str]) -> ScopePart:
        """The scope that these settings describe.

        Args:
            settings: what the command was told.
            prefixes: `settings.prefixes(today)`: they depend on the day.
        """
        return cls(
            bucket=settings.bucket,
            prefixes=list(prefixes),
            layout=settings.layout,
            partitions=list(settings.partition),
            shard=str(settings.shard),
        )


class StorePart(_Part):
    """Which guarantees the store was seen to keep, and the mode that the run chose by them."""

    endpoint: str = ""
    capabilities: dict[str, bool | str] = Field(default_factory=dict)
    mode: str = ""


class GroupsPart(_Part):
    """Groups by what became of them."""

    seen: int = 0
    coalesced: int = 0
    left: int = 0
    leased: int = 0
    failed: int = 0


class SourcesPart(_Part):
    """Sources by what became of them: those seen are joined, or left for one of the reasons.

    A key that is no source counts as seen too, and as left because it is `unparsed`. Joined are
    those whose output is proven and that are deleted, or kept with `--no-delete`. `outputs` of
    those seen are outputs of earlier runs: see `--grow`.
    """

    seen: int = 0
    outputs: int = 0
    joined: int = 0
    deleted: int = 0
    left: dict[str, int] = Field(default_factory=lambda: {why.value: 0 for why in Why})


class OutputsPart(_Part):
    """Outputs written by this run, and those of earlier runs that it recognised.

    `oversized` ones are larger than `--max-size`: what is deflated again can come out longer.
    """

    written: int = 0
    oversized: int = 0
    recovered: int = 0
    bytes: int = 0
    records: int = 0


class PlanRecordPart(_Part):
    """An earlier run's plan record that this run dealt with: the group, that run's id (empty where
    it is unknown), the outputs that were found proven, and what became of the record. It may have
    been settled, or still stand because something failed, or because this run was stopped.
    """

    group: str
    run_id: str
    outputs: int
    became: Became


class RecoveredPart(_Part):
    """What this run finished or undid for earlier ones: plan records that it settled, outputs that
    it found proven and the sources that it deleted for them. `unsettled_groups` are those whose
    records stand, and for which the exit code is 75 at least. `plan_records` are the first of all
    these records by name: several runs may settle the same one.
    """

    groups: int = 0
    outputs: int = 0
    sources_deleted: int = 0
    unsettled_groups: int = 0
    plan_records: list[PlanRecordPart] = Field(default_factory=list)

    def add_record(self, record: PlanRecordPart) -> None:
        """Adds a plan record, and keeps a bounded number of them: in all reports of a night the
        same ones.
        """
        insort(self.plan_records, record, key=lambda one: (one.group, one.run_id))
        del self.plan_records[MOST_PLAN_RECORDS:]


class OffsetsPart(_Part):
    """Neighbouring sources whose offsets do not meet. Of groups whose names do not say where a
    source ends nothing is known: they are counted as `unknown`.
    """

    gaps: int = 0
    overlaps: int = 0
    unknown: int = 0

    def add(self, gaps: int | None, overlaps: int | None) -> None:
        """Adds those of a group; None is unknown."""
        if gaps is None or overlaps is None:
            self.unknown += 1
        else:
            self.gaps += gaps
            self.overlaps += overlaps


class AttributesPart(_Part):
    """Sources that say something else of themselves than their output, outputs whose store did not
    keep what they were to say, and the first of either, or of sources left because of it.
    """

    differing: int = 0
    not_kept: int = 0
    example: str = ""


class PathListPart(_Part):
    """Characters of the comma-joined list of all paths under the prefixes, against Java's limit."""

    before: int = 0
    after: int = 0
    limit: int = PATH_LIST_LIMIT


class SharePart(_Part):
    """A share of the sources, and what became of them.

    In a dry run: what would become of them; the bytes of outputs are then those of their sources.
    """

    sources: int = 0
    bytes: int = 0
    joined: int = 0
    outputs: int = 0
    output_bytes: int = 0


class TopicPart(SharePart):
    """The sources of one topic."""

    topic: str


class LocationPart(SharePart):
    """The sources under one prefix that are of one day, as `yyyy/MM/dd`; empty without a date."""

    location: str
    date: str = ""


class PlanPart(_Part):
    """What a dry run expects of the real one: requests by S3 operation, bytes read, US dollars at
    list price, seconds of one process, bytes of memory. Outputs have at most `max_size` bytes, as
    the settings say or as a goal needs; 0 where a plan of an earlier version does not say it.
    """

    topics: list[TopicPart]
    requests: dict[str, int]
    bytes: int
    cost_usd: float
    seconds: float
    memory_bytes: int
    max_size: int = 0


class ConcurrencyPart(_Part):
    """The most requests in flight, over all processes, that the run allowed itself at its end."""

    reads: int = 0
    writes: int = 0


class StagePart(_Part):
    """One kind of work: its requests, and the sum of their seconds, which overlap: those of all
    stages come to more than the run's.
    """

    requests: int = 0
    seconds: float = 0.0


class Failure(_Part):
    """One failure: what, where, what to do next."""

    group: str = ""
    key: str = ""
    code: str = ""
    request_id: str = ""
    message: str = ""
    hint: str = ""
    operation: str = ""

    @classmethod
    def of(cls, error: CoalesceError, group: str = "") -> Failure:
        """The failure that this error describes; `group` is empty where it concerns no group."""
        return cls(
            group=group,
            key=error.key,
            code=error.code,
            request_id=error.request_id,
            message=error.message,
            hint=error.hint,
            operation=error.operation,
        )


class Report(_Part):
    """What a run worked on, what became of it, and what it took. See `docs/report.md`.

    Additive changes only: `docs/report.schema.json` is made from this. `stopped_by` is the option
    whose limit ended the run; empty if none did.
    """

    type: Literal["summary"] = "summary"
    schema_version: Literal[1] = Field(default=1, alias="schema")
    version: str
    run_id: str
    started: str
    seconds: float = 0.0
    exit_code: int = 0
    stopped_by: str = ""
    scope: ScopePart
    store: StorePart = Field(default_factory=StorePart)
    groups: GroupsPart = Field(default_factory=GroupsPart)
    sources: SourcesPart = Field(default_factory=SourcesPart)
    outputs: OutputsPart = Field(default_factory=OutputsPart)
    recovered: RecoveredPart = Field(default_factory=RecoveredPart)
    undone: UndonePart = Field(default_factory=UndonePart)
    offsets: OffsetsPart = Field(default_factory=OffsetsPart)
    attributes: AttributesPart = Field(default_factory=AttributesPart)
    path_list: PathListPart = Field(default_factory=PathListPart)
    topics: list[TopicPart] = Field(default_factory=list)
    locations: list[LocationPart] = Field(default_factory=list)
    requests: dict[str, int] = Field(default_factory=dict)
    retries: int = 0
    throttled: int = 0
    stages: dict[str, StagePart] = Field(default_factory=dict)
    concurrency: ConcurrencyPart = Field(default_factory=ConcurrencyPart)
    processes: int = 1
    bytes_in: int = 0
    bytes_out: int = 0
    cost_usd: float = 0.0
    peak_rss_bytes: int = 0
    cpu_seconds: float = 0.0
    failures: list[Failure] = Field(default_factory=list)
    failures_omitted: int = 0
    plan: PlanPart | None = None

    def add_kept(self, why: Why, count: int = 1) -> None:
        """Counts sources that were seen and not joined, or joined and kept."""
        self.sources.left[why.value] += count

    def add_output(self, output: CommittedOutput) -> None:
        """Counts a committed output: what an earlier run wrote under `recovered` alone."""
        if output.recovered:
            self.outputs.recovered += 1
            self.recovered.outputs += 1
            self.recovered.sources_deleted += output.deleted
            return
        self.outputs.written += 1
        self.outputs.bytes += output.size
        self.outputs.records += output.records or 0
        self.attributes.differing += output.differing
        self.attributes.not_kept += bool(output.not_kept)
        self.add_unlike(output.example or output.not_kept)
        self.sources.joined += output.joined
        self.sources.deleted += output.deleted

    def add_unlike(self, example: str) -> None:
        """Keeps the first example of attributes that differ."""
        self.attributes.example = self.attributes.example or example

    def add_failure(self, error: CoalesceError, group: str = "") -> Failure:
        """Adds a failure, makes the exit code at least as severe, and returns the failure.

        The report holds a bounded number of them; those beyond are counted.
        """
        failure = Failure.of(error, group)
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(failure)
        else:
            self.failures_omitted += 1
        self.worsen(exit_code_of(error))
        return failure

    def worsen(self, code: int) -> None:
        """Raises the exit code to `code` if that is more severe."""
        self.exit_code = worst(self.exit_code, code)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values, with the field names of `docs/report.md`."""
        return self.model_dump(mode="json", by_alias=True)


def stages(
    requests: Counter[str], seconds: Mapping[str, float], checking: float
) -> dict[str, StagePart]:
    """Where the time went, stage by stage.

    Args:
        requests: requests by S3 operation.
        seconds: the sum of their seconds, by S3 operation.
        checking: CPU seconds of checking content; that stage has no requests.
    """
    parts = {
        stage: StagePart(
            requests=sum(requests[name] for name in operations),
            seconds=round(sum(seconds.get(name, 0.0) for name in operations), 3),
        )
        for stage, operations in _STAGES.items()
    }
    parts["check"].seconds = round(checking, 3)
    return parts


def path_characters(bucket: str, keys: int, key_characters: int) -> int:
    """Length of `keys` paths `s3://bucket/key` joined by commas, as the bulk loader builds it."""
    return key_characters + keys * (len("s3://") + len(bucket) + 1 + 1)
