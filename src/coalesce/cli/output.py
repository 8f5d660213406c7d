"""What a user sees: data on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import typer

from coalesce.cli.columns import printable
from coalesce.cli.log import above_bar, print_above
from coalesce.cli.progress import Progress
from coalesce.cli.request import OutputOptions
from coalesce.errors import CoalesceError, ConfigurationError
from coalesce.library.files import reason_of, report_path, write_text
from coalesce.report.events import Event, WarningEvent, is_warning
from coalesce.report.failure_kinds import FailureTally, failure_line
from coalesce.report.report import Failure, Report
from coalesce.storage.s3 import S3Options

if TYPE_CHECKING:
    from rich.console import Console

Look = Callable[[float], Progress]
"""How far the work is, at a time in seconds that never goes back."""

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
        if self.as_json and (event["type"] != "left" or self.verbose):
            with self._on_stdout():
                typer.echo(json.dumps(event))
        if event["type"] == "failure":
            self._log_failure(Failure.model_validate(event), event)
        elif is_warning(event):
            _log.warning(
                "%s. %s", event["message"].rstrip("."), event["hint"], extra={"event": event}
            )
        elif event["type"] == "left" and self.verbose:
            _log.info("kept %s: %s", event["key"], event["why"], extra={"event": event})
        elif event["type"] == "planned" and self.verbose:
            _log.info(
                "would write %s from %s sources",
                event["key"],
                f"{event['sources']:,}",
                extra={"event": event},
            )

    def _log_failure(self, failure: Failure, event: Event) -> None:
        """Logs the first failure of its kind, and all of them if every detail is asked for."""
        if self.failures.add(failure).times == 1 or self.verbose:
            _log.error(failure_line(failure), extra={"event": event})

    def _log_repeated(self) -> None:
        for count in () if self.verbose else self.failures.repeated:
            event = {"type": "repeated", "code": count.first.code, "times": count.times}
            _log.error(count.line, extra={"event": event})

    def summary(self, report: Report, min_age: float | None = None, *, undo: bool = False) -> None:
        """Prints the summary, of an `undo` or of a run. `min_age` is the run's, in seconds.

        There is none for a person where nothing could be done: the failures have said so.
        """
        self._log_repeated()
        if self.as_json:
            with self._on_stdout():
                typer.echo(json.dumps(report.as_json()))
        elif not self.quiet and (
            report.groups.seen or report.undone.outputs or not report.failures
        ):
            from coalesce.cli.tables import plan_table, print_table, summary_table, undo_table

            table = summary_table if report.plan is None else plan_table
            with self._on_stdout():
                print_table(undo_table(report) if undo else table(report, min_age))

    @asynccontextmanager
    async def progress(self, look: Look) -> AsyncIterator[None]:
        """Shows how far a run is, as long as the block lasts: as a bar or in lines."""
        if self.bar:
            async with self.bar_below(look):
                yield
        else:
            async with _meanwhile(self._lines(look)):
                yield

    @asynccontextmanager
    async def bar_below(self, look: Look) -> AsyncIterator[Callable[[str], None]]:
        """Shows a bar, if there is to be one, as long as the block lasts.

        Returns what prints a line on stderr above it.
        """
        if not self.bar:
            yield partial(typer.echo, err=True)
            return
        from rich.console import Console

        console = Console(stderr=True)
        async with _meanwhile(self._bar(look, console)):
            yield partial(print_above, console)

    async def _lines(self, look: Look) -> None:
        look(time.monotonic())
        while True:
            await asyncio.sleep(self.interval)
            progress = look(time.monotonic())
            event = progress.as_event()
            self.emit(event)
            if not self.quiet:
                _log.info(progress.sentence(), extra={"event": event})

    async def _bar(self, look: Look, console: Console) -> None:
        from rich.live import Live
        from rich.text import Text

        live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # stdout may be a file: it is not for the terminal's console
            redirect_stderr=False,
        )
        with live, above_bar(console):
            while True:
                line = look(time.monotonic()).bar(
                    console.width - 1, ascii_only=console.options.ascii_only
                )
                live.update(Text(line, no_wrap=True), refresh=True)
                await asyncio.sleep(_REFRESH)


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Does this beside the block, and no longer than that lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def print_warnings(warnings: Iterable[WarningEvent]) -> None:
    """One line on stderr for each."""
    for warning in warnings:
        typer.echo(printable(f"{warning['message']}. {warning['hint']}"), err=True)


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
    _log.info("the report is %s", path)
