"""How a run is seen from outside: a metrics file, a line for CloudWatch, a URL that is called."""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from coalesce.cli.output import print_line
from coalesce.cli.request import OutputOptions
from coalesce.clock import boottime
from coalesce.errors import ConfigurationError
from coalesce.library.files import reason_of, report_path
from coalesce.report.metrics import embedded_metrics, last_success_in, location_of, registry_of
from coalesce.report.report import Report
from coalesce.settings import Settings

# A ping that takes longer is given up: nothing waits for a monitoring service.
_PING_SECONDS = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Monitoring:
    """What is said of one run, as its options have it; `began` is by `boottime`."""

    options: OutputOptions
    location: str
    began: float

    @classmethod
    def of(cls, options: OutputOptions, settings: Settings) -> Monitoring:
        """For a run that begins now."""
        return cls(options, location_of(settings), boottime())

    @asynccontextmanager
    async def watch(self, report: Report) -> AsyncIterator[None]:
        """Says that the run has begun, and keeps its metrics file up to date for the length of the
        block.
        """
        await self._ping("/start")
        over = asyncio.Event()
        writing = asyncio.create_task(self._keep_writing(report, over))
        try:
            yield
        finally:
            over.set()
            await writing

    async def end(self, report: Report, code: int) -> None:
        """Says how the run has ended; `code` is the process's exit code.

        Raises ConfigurationError if the metrics cannot be written; the URL has been called then.
        """
        await self._ping(f"/{code}" if code else "")
        try:
            if self.options.emf:
                print_line(
                    embedded_metrics(report, self.location, seconds=self._seconds, now=time.time())
                )
        finally:
            if self.options.metrics_file:
                await asyncio.to_thread(self._write, report, ended=True)

    async def _keep_writing(self, report: Report, over: asyncio.Event) -> None:
        """Never cancelled: a write that goes on in its thread would replace the last one."""
        while self.options.metrics_file and not over.is_set():
            with suppress(ConfigurationError):  # it is said at the end
                await asyncio.to_thread(self._write, report, ended=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.options.stats_interval):
                    await over.wait()

    def _write(self, report: Report, *, ended: bool) -> None:
        from prometheus_client import write_to_textfile

        path = Path(report_path(self.options.metrics_file, report))
        before = None
        with suppress(OSError, UnicodeDecodeError):
            before = last_success_in(path.read_text(encoding="utf-8"), self.location, report.scope)
        registry = registry_of(
            report,
            self.location,
            seconds=self._seconds,
            ended=ended,
            now=time.time(),
            last_success=before,
        )
        try:
            write_to_textfile(str(path), registry)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write the metrics to {str(path)!r}: {reason_of(error)}",
                hint="The run itself is over; see its summary.",
            ) from error

    @property
    def _seconds(self) -> float:
        return round(boottime() - self.began, 3)

    async def _ping(self, suffix: str) -> None:
        """Calls the URL. Whatever comes of it is no matter of the run; its path may be a secret."""
        url = self.options.ping_url
        if not url:
            return
        try:
            await asyncio.to_thread(_call, _with_suffix(url, suffix))
        except HTTPException as error:  # its text may hold the path
            _log.warning("cannot call --ping-url at %s: %s", _host(url), type(error).__name__)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            _log.warning("cannot call --ping-url at %s: %s", _host(url), reason)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _with_suffix(url: str, suffix: str) -> str:
    """Puts it behind the path: what follows a question mark stays the query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))


def _call(url: str) -> None:
    with urllib.request.urlopen(url, timeout=_PING_SECONDS):  # only http(s): the option is checked
        pass
