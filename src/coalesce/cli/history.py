"""`coalesce history`: what the ledger knows of a source, an output, a run or an offset."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import typer

from coalesce.cli.columns import Row, printable
from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_failures, print_line
from coalesce.cli.request import HistoryOptions, Request, parse
from coalesce.cli.tables import count_of, pairs, print_table
from coalesce.errors import UsageError
from coalesce.inspect.history import (
    Historian,
    History,
    HistoryEvent,
    ObjectEvent,
    OutputEvent,
    SourceEvent,
    as_json,
)
from coalesce.inspect.recorded import Standing
from coalesce.inspect.whereabouts import Offset
from coalesce.library.refusal import quote
from coalesce.model import Codec, Records
from coalesce.report.units import human_bytes
from coalesce.storage.s3 import open_s3

_STANDINGS = {
    Standing.INTACT: "as it was written: plan, size and checksum are those of its ledger entry",
    Standing.UNSUMMED: "there with its plan and size, but the store keeps no checksum of it;"
    " `coalesce verify --deep` reads it",
    Standing.CHANGED: "another object has its key",
    Standing.GONE: "gone",
}
_MEMBERS = {Codec.GZIP: "gzip member", Codec.ZSTD: "zstd frame", Codec.BZIP2: "bzip2 stream"}
_RECORDS = {
    Records.LINES: "",
    Records.CSV_HEADER: ", under one header",
    Records.OPAQUE: ", opaque",
}
_NOTHING = "no ledger entry names it, and no object tells of it"


def answer(values: Values) -> int:
    """Answers what the values ask, and prints it; the exit code.

    Raises UsageError, or CoalesceError if nothing can be seen.
    """
    request, options = Request.of(values), parse(HistoryOptions, values)
    offset = _parse_offset(options.offset)
    if options.run and offset:
        raise UsageError("--run and --offset are two questions; leave one of them out")
    keys = request.settings.prefix
    if not (options.run or offset) and (not keys or any(key.endswith("/") for key in keys)):
        raise UsageError(
            "no key is named",
            hint="Write s3://BUCKET/KEY, or ask with --run or --offset under a prefix.",
        )
    return asyncio.run(_answer(request, options.run, offset))


def _parse_offset(text: str) -> Offset | None:
    if not text:
        return None
    try:
        return Offset.parse(text)
    except ValueError as error:
        raise UsageError(f"--offset {quote(text)}: {error}") from error


async def _answer(request: Request, run_id: str, offset: Offset | None) -> int:
    settings, printer = request.settings, _Printer(as_json=request.output.as_json)
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    async with open_s3(request.store) as store:
        await store.check_access(settings.state_prefix)
        historian = Historian(store, settings.bucket, settings.state_prefix, printer.say)
        if offset:
            await historian.tell_offset(prefixes, offset)
        elif run_id:
            await historian.tell_run(prefixes, run_id)
        else:
            for key in settings.prefix:
                await historian.tell_key(key)
    printer.end(historian.history)
    return historian.history.exit_code


class _Printer:
    """Prints events as they come: as JSON, or for a person.

    The sources of an output that was asked for are rows under it; a source that was asked for is
    described.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._output: OutputEvent | None = None
        self._in_rows = False
        self._blocks = 0

    def say(self, event: HistoryEvent) -> None:
        """Prints one event."""
        if self._as_json:
            print_line(json.dumps(as_json(event)))
            return
        match event:
            case OutputEvent():
                self._output, self._in_rows = event, False
                self._print_block(_output_rows(event))
            case SourceEvent() if self._output is not None and self._output.standing is None:
                self._print_row(event)
            case SourceEvent():
                of = self._output.sources if self._output else 0
                text = self._output is not None and self._output.gzip == "single"
                self._print_block(_source_rows(event, of, in_text=text))
            case ObjectEvent():
                self._print_block(_object_rows(event))

    def end(self, history: History) -> None:
        """Prints what there is to say of the whole answer."""
        if self._as_json:
            print_line(json.dumps(as_json(history)))
            return
        print_failures(history.failures)
        for what in history.nothing_known:
            typer.echo(printable(f"nothing is known of {what}: {_NOTHING}"), err=True)

    def _print_block(self, rows: list[Row]) -> None:
        with on_stdout():
            if self._blocks:
                typer.echo()
            print_table(pairs(rows))
        self._blocks += 1

    def _print_row(self, event: SourceEvent) -> None:
        if not self._in_rows:
            print_line(f"\n{'source':>9}  {'records':>9}  {'from byte':>15}  {'bytes':>13}  key")
            self._in_rows = True
        records = "?" if event.records is None else f"{event.records:,}"
        print_line(
            f"{event.number:>9,}  {records:>9}  {event.start:>15,}  {event.length:>13,}"
            f"  {printable(event.key)}"
        )


def _output_rows(event: OutputEvent) -> list[Row]:
    records = "" if event.records is None else f", {count_of(event.records, 'record')}"
    rows = [
        ("output", event.key),
        ("written", f"{event.written} by run {event.run_id} (coalesce {event.version})"),
        ("holds", f"{count_of(event.sources, 'source')}{records}, {human_bytes(event.size)}"),
        ("made of", _kind_of(event)),
        ("ledger entry", event.entry),
    ]
    if event.standing:
        rows.append(("now", _STANDINGS[event.standing]))
    return rows


def _kind_of(event: OutputEvent) -> str:
    """What an output is made of, in words."""
    if event.codec is Codec.PLAIN:
        return {
            Records.LINES: "plain lines",
            Records.CSV_HEADER: "plain lines under one header",
            Records.OPAQUE: "plain bytes",
        }[event.kind]
    member = _MEMBERS[event.codec]
    made = f"one {member}" if event.gzip == "single" else f"the {member}s of its sources"
    return made + _RECORDS[event.kind]


def _source_rows(event: SourceEvent, of: int, *, in_text: bool) -> list[Row]:
    records = "" if event.records is None else f", {count_of(event.records, 'record')}"
    whose = "the output's text" if in_text else "the output"
    return [
        ("source", event.key),
        ("was", f"{count_of(event.size, 'byte')}{records}, of {event.modified}, {event.etag}"),
        ("place", f"source {event.number:,} of {of:,}: {_range(event)} of {whose}"),
        ("provable", _in_words(event.provable)),
    ]


def _range(event: SourceEvent) -> str:
    if not event.length:
        return f"nothing, at byte {event.start:,}"
    return f"bytes {event.start:,} to {event.start + event.length - 1:,}"


def _in_words(provable: bool | None) -> str:
    if provable is None:
        return "not by what HEAD says; `coalesce verify --deep` reads the output"
    return "yes, `coalesce extract` gives it back" if provable else "no"


def _object_rows(event: ObjectEvent) -> list[Row]:
    rows: list[Row] = [
        ("object", event.key),
        ("has", f"{count_of(event.size, 'byte')}, {event.etag}"),
    ]
    if event.plan:
        rows.append(("made of", f"{event.sources} sources, by coalesce {event.version}"))
        rows.append(("plan", event.plan))
    if event.covers:
        rows.append(("may hold", f"{event.covers}, by the offsets in its name"))
    rows.append(("ledger entry", "none"))
    return rows
