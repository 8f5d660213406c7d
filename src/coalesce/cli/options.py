"""Every option of the command line, in groups; commands pick the groups that concern them.

Nothing here is costly to import. Defaults and choices are not repeated here: `describe` takes them
from the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

CONFIG_FILE = "coalesce.toml"

Values = Mapping[str, object]
"""What was said of options, by their names in the models; text or anything that TOML knows."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option, or the positional arguments if it has no `names`.

    `field` is its name in the models and in the configuration file, by default made from the first
    long name. `value` stands for the value in the help and is empty for a switch. `{choices}` in
    `help` is replaced by what the model allows.
    """

    names: tuple[str, ...]
    help: str
    value: str = ""
    repeatable: bool = False
    hidden: bool = False
    field: str = ""

    @property
    def name(self) -> str:
        """The name in the models."""
        return self.field or self.long.removeprefix("--").replace("-", "_")

    @property
    def long(self) -> str:
        """The first long name, empty if there is none."""
        return next((name.partition("/")[0] for name in self.names if name.startswith("--")), "")

    @property
    def spellings(self) -> dict[str, bool]:
        """Its long names as a file and the environment write them.

        False is said of a name that switches off, as `no_check` does.
        """
        return {
            name.removeprefix("--").replace("-", "_"): positive
            for names in self.names
            if names.startswith("--")
            for name, positive in zip(names.split("/"), (True, False), strict=False)
        }

    @property
    def variables(self) -> dict[str, bool]:
        """The environment variables, one for each spelling."""
        return {f"COALESCE_{name.upper()}": on for name, on in self.spellings.items()}

    @property
    def usage(self) -> str:
        """How it is typed: short names first, then the long ones, then the value."""
        names = ", ".join(sorted(self.names, key=lambda name: name.startswith("--")))
        if not names:
            return f"{self.value}..." if self.repeatable else self.value
        return f"{names} {self.value}" if self.value else names


@dataclass(frozen=True, slots=True)
class Group:
    """Options that belong together, under the title that the help gives them."""

    title: str
    options: tuple[Option, ...]

    def only(self, *names: str) -> Group:
        """Only these options. Raises KeyError for one that is not in the group."""
        self._check(names)
        return replace(self, options=tuple(o for o in self.options if o.name in names))

    def without(self, *names: str) -> Group:
        """All but these options. Raises KeyError for one that is not in the group."""
        self._check(names)
        return replace(self, options=tuple(o for o in self.options if o.name not in names))

    def hide(self, *names: str) -> Group:
        """The same options, these left out of the help. Raises KeyError."""
        self._check(names)
        options = (replace(o, hidden=o.hidden or o.name in names) for o in self.options)
        return replace(self, options=tuple(options))

    def _check(self, names: Iterable[str]) -> None:
        if unknown := set(names) - {option.name for option in self.options}:
            raise KeyError(f"{self.title} has no {sorted(unknown)}")


SCOPE = Group(
    "Scope",
    (
        Option(
            (),
            "what to work on, instead of --bucket and --prefix; all in one bucket",
            "s3://BUCKET/PREFIX",
            repeatable=True,
            field="targets",
        ),
        Option(("--bucket", "-b"), "bucket to work in", "NAME"),
        Option(
            ("--prefix", "-p"),
            "work under this prefix; whole path segments, so a/b never matches a/bc; repeatable",
            "PREFIX",
            repeatable=True,
        ),
        Option(("--whole-bucket",), "process the whole bucket"),
        Option(
            ("--date-to-add", "--date", "-d"),
            "append yyyy/MM/dd to each prefix: today, yesterday, 2026-11-22, FIRST..LAST or"
            " NOT_SET; UTC",
            "DATE",
            field="date",
        ),
        Option(("--layout",), "how objects are named: {choices}; or one of the file", "NAME"),
        Option(("--manifests", "-a"), "same as --layout manifest"),
        Option(
            ("--partition", "-n"),
            "only this partition; repeatable; -1 means all of them",
            "N",
            repeatable=True,
        ),
        Option(
            ("--topic",),
            "only topics that match this shell pattern; repeatable",
            "GLOB",
            repeatable=True,
        ),
        Option(
            ("--include",),
            "only keys that match this shell pattern; repeatable",
            "GLOB",
            repeatable=True,
        ),
        Option(
            ("--exclude",),
            "no keys that match this shell pattern; repeatable",
            "GLOB",
            repeatable=True,
        ),
        Option(
            ("--shard",),
            "only the groups of shard I of N, counted from 0; set by itself in AWS Batch array"
            " jobs, and in Kubernetes Indexed Jobs that set COALESCE_SHARDS to N",
            "I/N",
        ),
    ),
)

BATCHING = Group(
    "Batching",
    (
        Option(("--max-files", "--files", "-f"), "join at most N sources into one output", "N"),
        Option(("--max-size", "--size", "-s"), "write at most SIZE into one output: 128MB", "SIZE"),
        Option(
            ("--gzip",),
            "single: compress again, into one gzip member or zstd frame for each output, which "
            "every reader reads to its end; members: join those of the sources as they are",
            "MODE",
        ),
        Option(("--min-files",), "write no output for fewer than N sources", "N"),
        Option(
            ("--min-age",),
            "leave sources younger than this alone, by the store's clock: 0, 90s, 5m, 2h",
            "DURATION",
        ),
        Option(("--grow",), "join earlier outputs below SIZE again, with their neighbours", "SIZE"),
    ),
)

RUNNING = Group(
    "Running",
    (
        Option(("--check/--no-check",), "check the content of each source while it streams"),
        Option(("--no-delete",), "write outputs but keep the sources; `recover` deletes them"),
        Option(
            ("--ledger/--no-ledger",),
            "keep an entry in the bucket for each output that says what it was made of",
        ),
        Option(("--dry-run",), "same as the command `plan`"),
        Option(
            ("--plan",),
            "execute a saved plan (a file or s3:// URL); its scope and limits apply",
            "FILE",
        ),
        Option(
            ("--concurrency", "--threads", "-t"),
            "have at most N GETs in flight; 0 finds the number that the store bears",
            "N",
        ),
        Option(
            ("--processes",),
            "number of worker processes; 0 means one for each CPU of this container, as far as"
            " memory and work are enough for",
            "N",
        ),
        Option(("--multiprocessor", "-m"), "same as --processes 0"),
        Option(
            ("--memory",), "memory for the bodies in flight, over all processes together", "SIZE"
        ),
        Option(
            ("--state",),
            "prefix in the bucket for leases, plan records and the ledger; the same for all runs",
            "PREFIX",
        ),
        Option(
            ("--lease",),
            "how long other runs wait before taking over a crashed run's groups",
            "DURATION",
        ),
        Option(
            ("--accept-weaker",),
            "run despite a missing guarantee; MODE is named in the refusal: {choices}; repeatable",
            "MODE",
            repeatable=True,
        ),
        Option(
            ("--max-groups",),
            "join at most N groups; what earlier runs left unfinished is not counted",
            "N",
        ),
        Option(
            ("--max-bytes",),
            "join at most this many bytes of sources, those of unfinished runs included",
            "SIZE",
        ),
        Option(
            ("--max-delete",), "delete at most N sources, those of unfinished runs included", "N"
        ),
        Option(
            ("--deadline",),
            "start no output after this time; this and the other limits end with exit code 12",
            "DURATION",
        ),
        Option(("--error-on-nothing",), "exit 3 if there was nothing to do"),
        Option(
            ("--config",),
            f"TOML file that sets these options (default {CONFIG_FILE}, if there is one)",
            "FILE",
        ),
        Option(("--summaries", "-u"), "accepted, without effect", "N", hidden=True),
        Option(("-c",), "accepted, without effect", hidden=True, field="parallelise"),
    ),
)

STORE = Group(
    "Store",
    (
        Option(("--endpoint-url",), "URL of an S3-compatible service", "URL"),
        Option(("--region",), "region of the bucket", "NAME"),
        Option(("--profile",), "profile in the AWS configuration files", "NAME"),
        Option(("--no-sign-request",), "send requests without credentials"),
        Option(("--ca-bundle",), "file of certificate authorities to trust", "FILE"),
        Option(("--no-verify-ssl",), "accept any certificate"),
        Option(("--expected-bucket-owner",), "account that must own the bucket", "ID"),
        Option(("--request-payer",), "pay for the requests on a requester-pays bucket"),
        Option(("--addressing",), "how URLs name the bucket: {choices}", "STYLE"),
        Option(("--localstack", "-l"), "use http://localstack:4566, eu-west-2 and any credentials"),
    ),
)

OUTPUT = Group(
    "Output and reports",
    (
        Option(
            ("--report",),
            "write a JSON report to this file or s3:// URL, also when the run fails; {shard} and"
            " {run_id} are filled in",
            "FILE",
        ),
        Option(
            ("--metrics-file",),
            "write the run's metrics to this file for Prometheus, at the end and while it runs;"
            " {shard} is filled in",
            "FILE",
        ),
        Option(("--emf",), "print the run's metrics as one line for CloudWatch on stdout"),
        Option(
            ("--ping-url",),
            "call URL/start, then URL, or URL/EXIT_CODE if that is not 0; a call that fails does"
            " not fail the run",
            "URL",
        ),
        Option(
            ("--save-plan",),
            "write the plan to this file or s3:// URL, for `run --plan`",
            "FILE",
        ),
        Option(
            ("--output",),
            "what stdout carries: {choices}; json is a line for each event, the summary last",
            "FORMAT",
        ),
        Option(("--log-level",), "what to log on stderr at least: {choices}", "LEVEL"),
        Option(
            ("--log-format",),
            "log lines on stderr: {choices}; auto is text on a terminal, else json",
            "FORMAT",
        ),
        Option(("--quiet", "-q"), "log failures only, and print no summary"),
        Option(("--verbose", "-v"), "also log each failure, source kept, and output of a plan"),
        Option(("--no-progress",), "show no progress bar on a terminal"),
        Option(
            ("--stats-interval",),
            "interval between progress lines where there is no progress bar, and between writes of"
            " the metrics file",
            "DURATION",
        ),
    ),
)

VERIFICATION = Group(
    "Verification",
    (Option(("--deep",), "read every output again: members, records, CRC64NVME"),),
)

POLICY = Group(
    "Policy",
    (
        Option(
            ("--kms-key",),
            "ARN of the bucket's KMS key; repeatable",
            "ARN",
            repeatable=True,
        ),
        Option(("--bucket-policy",), "print the bucket's policy instead of the role's"),
        Option(("--role",), "ARN of the job's role, for --bucket-policy", "ARN"),
        Option(
            ("--report",),
            "s3:// URL to which the role may also write reports, as `run --report` has it",
            "URL",
        ),
    ),
)

PROBE_OUTPUT = Group(
    "Output and reports", (Option(("--json",), "same as --output json", field="as_json"),)
)

MERGED_OUTPUT = Group(
    "Output and reports",
    (
        Option(("--html",), "write an HTML report to this file or s3:// URL", "FILE"),
        Option(
            ("--json",),
            "write the merged report to this file or s3:// URL",
            "FILE",
            field="merged",
        ),
    ),
)

REPORTS = Group(
    "Scope",
    (
        Option(
            (),
            "JSON reports: files, folders or s3:// URLs; a folder, or a URL that ends with a slash,"
            " means every .json file or object under it",
            "REPORT",
            repeatable=True,
            field="reports",
        ),
    ),
)

DATA_SET = Group(
    "Data set",
    (
        Option(("--prefix", "-p"), "write under this prefix", "PREFIX"),
        Option(("--layout",), "how the objects are named: {choices}", "NAME"),
        Option(("--topics",), "number of topics", "N"),
        Option(("--partitions",), "number of partitions of each topic", "N"),
        Option(("--objects",), "number of objects in all", "N"),
        Option(("--records",), "number of records in each object", "N"),
        Option(("--record-bytes",), "size of each record", "N"),
        Option(("--seed",), "the same seed makes the same data", "N"),
        Option(("--gaps",), "share of objects that follow a gap in the offsets, 0 to 1", "SHARE"),
        Option(
            ("--overlaps",),
            "share of objects whose offsets overlap those of the object before, 0 to 1",
            "SHARE",
        ),
        Option(("--spoilt",), "share of objects that are cut short, 0 to 1", "SHARE"),
    ),
)

DEMO = Group("Data set", (Option(("--objects",), "number of objects to join", "N"),))
