"""What a user sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import typer

from coalesce.cli.files import reason_of, report_path, write_text
from coalesce.cli.request import OutputOptions
from coalesce.errors import CoalesceError, ConfigurationError
from coalesce.report.account import Event
from coalesce.report.report import Failure, Report
from coalesce.storage.s3 import S3Options

_WARNINGS = frozenset({"empty", "leased", "unfinished", "unparsed", "waiting", "worker"})
_REFRESH = 0.2

_log = logging.getLogger("coalesce")


@contextmanager
def on_stdout() -> Iterator[None]:
    """Lets the block write to stdout. Raises ConfigurationError if that takes nothing more."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _drop_stdout()
        raise ConfigurationError(f"cannot write to stdout: {reason_of(error)}") from error


def print_line(text: str) -> None:
    """Prints one line on stdout. Raises ConfigurationError if that takes nothing more."""
    with on_stdout():
        typer.echo(text)


def _drop_stdout() -> None:
    """The interpreter would try to write what is buffered once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True, slots=True)
class Printer:
    """Prints what a run does: events, progress, the summary.

    `interval` is the seconds between progress lines, `bar` whether there is a progress bar instead.
    `errors` are those of stdout.
    """

    as_json: bool
    quiet: bool
    verbose: bool
    bar: bool
    interval: float
    errors: list[OSError] = field(default_factory=list)

    @classmethod
    def of(cls, options: OutputOptions) -> Printer:
        """The printer that these options ask for, on this process's stdout and stderr."""
        return cls(
            as_json=options.as_json,
            quiet=options.quiet,
            verbose=options.verbose,
            bar=sys.stderr.isatty() and not options.quiet and not options.no_progress,
            interval=max(options.stats_interval, _REFRESH),
        )

    @contextmanager
    def _on_stdout(self) -> Iterator[None]:
        """Lets the block write to stdout.

        A full disk or a closed pipe does not end a job half-way: it goes on, and the exit code says
        that something was not written.
        """
        try:
            yield
            sys.stdout.flush()
        except OSError as error:
            self.errors.append(error)
            _drop_stdout()
            _log.error(
                "cannot write to stdout: %s; continuing; the exit code will be 10", reason_of(error)
            )

    def emit(self, event: Event) -> None:
        """Prints an event as JSON if that is asked for, and logs what a person should know."""
        kind = event["type"]
        if self.as_json and (kind != "left" or self.verbose):
            with self._on_stdout():
                typer.echo(json.dumps(event))
        if kind == "failure":
            _log.error(failure_line(Failure.model_validate(event)), extra={"event": event})
        elif kind in _WARNINGS:
            _log.warning(
                "%s. %s", event["message"].rstrip("."), event["hint"], extra={"event": event}
            )
        elif kind == "left" and self.verbose:
            _log.info("kept %s: %s", event["key"], event["why"], extra={"event": event})

    def summary(self, report: Report, min_age: float | None = None) -> None:
        """Prints the summary. `min_age` is the run's, in seconds.

        There is none for a person where nothing could be done: the failures have said so.
        """
        if self.as_json:
            with self._on_stdout():
                typer.echo(json.dumps(report.as_json()))
        elif not self.quiet and (report.groups.seen or not report.failures):
            from coalesce.cli.tables import plan_table, print_table, summary_table

            table = summary_table if report.plan is None else plan_table
            with self._on_stdout():
                print_table(table(report, min_age))

    @asynccontextmanager
    async def progress(self, report: Report) -> AsyncIterator[None]:
        """Shows how far the run is, as long as the block lasts: as a bar or in lines."""
        task = asyncio.create_task(self._bar(report) if self.bar else self._lines(report))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

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
                    f"{sources.seen:,} sources found, {sources.joined:,} joined into"
                    f" {outputs.written:,} outputs, {outputs.bytes:,} bytes",
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
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "event", {}))


def set_up_log(options: OutputOptions) -> None:
    """Sends the log of this process to stderr, in the form and from the level asked for."""
    plain = options.log_format == "text" or (options.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s") if plain else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # the libraries underneath would log requests at lower levels
    _log.setLevel(logging.ERROR if options.quiet else options.log_level.upper())


def failure_line(failure: Failure) -> str:
    """A failure for a person: its code, what happened, what to do next."""
    return f"{failure.code}: {failure.message.rstrip('.')}. {failure.hint}".rstrip()


def print_failures(failures: Iterable[Failure]) -> None:
    """One line on stderr for each."""
    for failure in failures:
        typer.echo(failure_line(failure), err=True)


async def write_report(report: Report, path: str, options: S3Options) -> None:
    """The report as JSON to a file, or to an object through the same credentials.

    Raises ConfigurationError.
    """
    path = report_path(path, report)
    try:
        await write_text(path, json.dumps(report.as_json(), indent=1) + "\n", options)
    except (OSError, CoalesceError) as error:
        raise ConfigurationError(
            f"cannot write the report to {path!r}: {reason_of(error)}",
            hint="The run itself is over; see its summary.",
        ) from error
