"""What a user sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from coalesce.cli.files import bucket_of, folder_of, remote, write_text
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.report.account import Event
from coalesce.report.report import Report
from coalesce.settings import parse_duration
from coalesce.storage.s3 import S3Options

_FAILURES = frozenset({"failure"})
_WARNINGS = frozenset({"leased", "unfinished"})
_REFRESH = 0.2

_log = logging.getLogger("coalesce")


@dataclass(frozen=True, slots=True)
class Voice:
    """How this run speaks: `interval` is the seconds between lines of statistics.

    `unheard` is why stdout took no more.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    bar: bool = False
    interval: float = 60.0
    unheard: list[OSError] = field(default_factory=list)

    @contextmanager
    def _on_stdout(self) -> Iterator[None]:
        """What the block writes.

        A job does not end half-way because a disk is full or a reader gone: it goes on, and its
        exit code tells.
        """
        try:
            yield
            sys.stdout.flush()
        except OSError as error:
            self.unheard.append(error)
            # what is buffered would fail again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _log.error(
                "stdout cannot be written: %s. The run goes on; its exit code will be 10 at least",
                error,
            )

    def emit(self, event: Event) -> None:
        """An event: to stdout as JSON if asked for, and to the log if a person should know."""
        kind = event["type"]
        if self.as_json and (kind != "left" or self.verbose):
            with self._on_stdout():
                typer.echo(json.dumps(event))
        if kind in _FAILURES:
            _log.error(
                "%s: %s. %s",
                event["code"],
                event["message"].rstrip("."),
                event["hint"],
                extra={"event": event},
            )
        elif kind in _WARNINGS:
            _log.warning(
                "%s. %s", event["message"].rstrip("."), event["hint"], extra={"event": event}
            )
        elif kind == "left" and self.verbose:
            _log.info("left %s: %s", event["key"], event["why"], extra={"event": event})

    def summary(self, report: Report) -> None:
        """The end of it, on stdout. Where nothing could be done, the failures have said it all."""
        if self.as_json:
            with self._on_stdout():
                typer.echo(json.dumps(report.as_json()))
        elif not self.quiet and (report.groups.seen or not report.failures):
            from rich.console import Console

            from coalesce.cli.tables import plan_table, summary_table

            with self._on_stdout():
                Console(file=sys.stdout, highlight=False, soft_wrap=True).print(
                    summary_table(report) if report.plan is None else plan_table(report)
                )

    @asynccontextmanager
    async def progress(self, report: Report) -> AsyncIterator[None]:
        """Tells how far the run is while the block lasts: a bar on a terminal, lines elsewhere."""
        told = asyncio.create_task(self._bar(report) if self.bar else self._lines(report))
        try:
            yield
        finally:
            told.cancel()
            with suppress(asyncio.CancelledError):
                await told

    async def _lines(self, report: Report) -> None:
        while True:
            await asyncio.sleep(self.interval)
            sources, outputs = report.sources, report.outputs
            event = {
                "type": "progress",
                "seen": sources.seen,
                "joined": sources.joined,
                "outputs": outputs.written,
                "bytes": outputs.bytes,
            }
            self.emit(event)
            if not self.quiet:
                _log.info(
                    "%(seen)d sources seen, %(joined)d joined into %(outputs)d outputs of %(bytes)d bytes",
                    event,
                    extra={"event": event},
                )

    async def _bar(self, report: Report) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("sources"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("joined", total=None)
            while True:
                progress.update(
                    task, completed=report.sources.joined, total=report.sources.seen or None
                )
                await asyncio.sleep(_REFRESH)


class JsonLines(logging.Formatter):
    """One JSON object per line, for collectors of logs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record; a failure's fields stand in it by their own names."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "event", {}))


def voice_of(values: dict[str, Any]) -> Voice:
    """How to speak, among gathered values; sets up the log. Raises UsageError."""
    output, style, level = (
        values.get("output", "text"),
        values.get("log_format", "auto"),
        values.get("log_level", "info"),
    )
    _one_of("--output", output, ("text", "json"))
    _one_of("--log-format", style, ("auto", "text", "json"))
    _one_of("--log-level", level, ("debug", "info", "warning", "error"))
    quiet, terminal = bool(values.get("quiet")), sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines()
        if style == "json" or (style == "auto" and not terminal)
        else logging.Formatter("%(levelname)s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # the libraries underneath would log requests at lower levels
    _log.setLevel(logging.ERROR if quiet else level.upper())
    try:
        interval = parse_duration(values.get("stats_interval", "60s"))
    except ValueError as error:
        raise UsageError(f"--stats-interval: {error}") from error
    bar = terminal and not quiet and not values.get("no_progress")
    return Voice(
        output == "json",
        quiet,
        bool(values.get("verbose")),
        bar,
        max(float(str(interval)), _REFRESH),
    )


def check_writable(path: str) -> None:
    """Raises ConfigurationError for what could not be written in the end: better known before
    anything is done.
    """
    folder, hint = folder_of(path), "Choose another --report."
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(
            f"{path!r} cannot be written: there is no folder {str(folder)!r}", hint=hint
        )
    if remote(path) and (not bucket_of(path) or path.endswith("/")):
        raise ConfigurationError(
            f"{path!r} cannot be written: it is not s3://bucket/key", hint=hint
        )
    if folder is not None and Path(path).is_dir():
        raise ConfigurationError(f"{path!r} cannot be written: it is a folder", hint=hint)


def report_path(pattern: str, report: Report) -> str:
    """Where a report goes: `{shard}` and `{run_id}` in the path let the shards of one job write
    each its own.
    """
    return pattern.replace("{shard}", report.scope.shard.replace("/", "-of-")).replace(
        "{run_id}", report.run_id
    )


async def write_report(report: Report, path: str, options: S3Options) -> None:
    """The report as JSON to a file, or to an object through the same credentials.

    Raises ConfigurationError.
    """
    path = report_path(path, report)
    try:
        await write_text(path, json.dumps(report.as_json(), indent=1) + "\n", options)
    except (OSError, CoalesceError) as error:
        raise ConfigurationError(
            f"the report cannot be written to {path!r}: {error}",
            hint="The run itself is over; see its summary.",
        ) from error


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{option} {value!r} is none of {', '.join(known)}")
