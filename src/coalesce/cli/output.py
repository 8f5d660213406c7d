"""What a user sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import typer

from coalesce.cli.columns import printable
from coalesce.cli.log import above_bar
from coalesce.cli.progress import Pace, Watched
from coalesce.cli.request import OutputOptions
from coalesce.errors import CoalesceError, ConfigurationError
from coalesce.library.files import reason_of, report_path, write_text
from coalesce.report.account import Event
from coalesce.report.failure_kinds import FailureTally, failure_line
from coalesce.report.report import Failure, Report
from coalesce.storage.s3 import S3Options

_WARNINGS = frozenset(
    {
        "empty",
        "leased",
        "missing",
        "unfinished",
        "unmatched",
        "unparsed",
        "waiting",
        "worker",
        "young",
    }
)
_REFRESH = 0.2
_WITHOUT_CURSOR = frozenset({"dumb", "unknown"})  # kinds of terminals that no bar can be drawn on

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
    `errors` are those of stdout; `failures` are those that were emitted.
    """

    as_json: bool
    quiet: bool
    verbose: bool
    bar: bool
    interval: float
    errors: list[OSError] = field(default_factory=list)
    failures: FailureTally = field(default_factory=FailureTally)

    @classmethod
    def of(cls, options: OutputOptions) -> Printer:
        """The printer that these options ask for, on this process's stdout and stderr."""
        return cls(
            as_json=options.as_json,
            quiet=options.quiet,
            verbose=options.verbose,
            bar=sys.stderr.isatty()
            and os.environ.get("TERM") not in _WITHOUT_CURSOR
            and not (options.as_json and sys.stdout.isatty())
            and not options.quiet
            and not options.no_progress,
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
            self._log_failure(Failure.model_validate(event), event)
        elif kind in _WARNINGS:
            _log.warning(
                "%s. %s", event["message"].rstrip("."), event["hint"], extra={"event": event}
            )
        elif kind == "left" and self.verbose:
            _log.info("kept %s: %s", event["key"], event["why"], extra={"event": event})

    def _log_failure(self, failure: Failure, event: Event) -> None:
        """Logs the first failure of its kind, and all of them if every detail is asked for."""
        if self.failures.add(failure).times == 1 or self.verbose:
            _log.error(failure_line(failure), extra={"event": event})

    def _log_repeated(self) -> None:
        for count in () if self.verbose else self.failures.repeated:
            event = {"type": "repeated", "code": count.first.code, "times": count.times}
            _log.error(count.line, extra={"event": event})

    def summary(self, report: Report, min_age: float | None = None) -> None:
        """Prints the summary. `min_age` is the run's, in seconds.

        There is none for a person where nothing could be done: the failures have said so.
        """
        self._log_repeated()
        if self.as_json:
            with self._on_stdout():
                typer.echo(json.dumps(report.as_json()))
        elif not self.quiet and (report.groups.seen or not report.failures):
            from coalesce.cli.tables import plan_table, print_table, summary_table

            table = summary_table if report.plan is None else plan_table
            with self._on_stdout():
                print_table(table(report, min_age))

    @asynccontextmanager
    async def progress(self, run: Watched) -> AsyncIterator[None]:
        """Shows how far the run is, as long as the block lasts: as a bar or in lines."""
        task = asyncio.create_task(self._bar(run) if self.bar else self._lines(run))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _lines(self, run: Watched) -> None:
        pace = Pace()
        pace.look(run, time.monotonic())
        while True:
            await asyncio.sleep(self.interval)
            progress = pace.look(run, time.monotonic())
            event = progress.as_event()
            self.emit(event)
            if not self.quiet:
                _log.info(progress.sentence(), extra={"event": event})

    async def _bar(self, run: Watched) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console, pace = Console(stderr=True), Pace()
        live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # stdout may be a file: it is not for the terminal's console
            redirect_stderr=False,
        )
        with live, above_bar(console):
            while True:
                line = pace.look(run, time.monotonic()).bar(
                    console.width - 1, ascii_only=console.options.ascii_only
                )
                live.update(Text(line, no_wrap=True), refresh=True)
                await asyncio.sleep(_REFRESH)


def print_failures(failures: Iterable[Failure]) -> None:
    """One line on stderr for each kind."""
    for count in FailureTally(failures).counts:
        typer.echo(printable(count.line), err=True)


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
