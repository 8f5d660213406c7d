"""The log of this process on stderr: one form at a time, and above the progress bar."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from typing_extensions import override

from coalesce.cli.columns import printable
from coalesce.cli.request import OutputOptions

if TYPE_CHECKING:
    from rich.console import Console

_log = logging.getLogger("coalesce")


class _TextLines(logging.Formatter):
    """One line per record, for a person."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class JsonLines(logging.Formatter):
    """One JSON object per line, for collectors of logs."""

    @override
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


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to stderr; above the bar of a console, while there is one."""

    console: Console | None = None

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if self.console is None:
            super().emit(record)
            return
        print_above(self.console, self.format(record))


def print_above(console: Console, text: str) -> None:
    """Prints a line above what the console keeps at the bottom."""
    from rich.text import Text

    console.print(Text(text), soft_wrap=True)


@contextmanager
def above_bar(console: Console) -> Iterator[None]:
    """Lets what is logged within the block go above what the console keeps at the bottom."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, _Stderr)]
    for handler in handlers:
        handler.console = console
    try:
        yield
    finally:
        for handler in handlers:
            handler.console = None


def set_up_log(options: OutputOptions) -> None:
    """Sends the log of this process to stderr, in the form and from the level asked for."""
    handler = _Stderr(sys.stderr)
    handler.setFormatter(JsonLines() if logs_json(options) else _TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # the libraries underneath would log requests at lower levels
    _log.setLevel(logging.ERROR if options.quiet else options.log_level.upper())


def logs_json(options: OutputOptions) -> bool:
    """Whether stderr carries JSON lines: asked for, or no terminal."""
    if options.log_format == "auto":
        return not sys.stderr.isatty()
    return options.log_format == "json"
