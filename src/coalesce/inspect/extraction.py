"""One source, taken out of its output. Reads only; memory is a part, or a few megabytes of text."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import BinaryIO, Literal

from pydantic import BaseModel

from coalesce.content.form import Decoder, Form
from coalesce.content.header import LONGEST
from coalesce.content.rules import ContentRules
from coalesce.errors import CoalesceError, IntegrityError, NotFound
from coalesce.inspect.excerpts import Held, excerpt_of
from coalesce.inspect.recorded import Standing
from coalesce.inspect.whereabouts import Whereabouts, find_source
from coalesce.model import Records
from coalesce.planning.parts import PART_BYTES
from coalesce.protocol.entry_reader import SourceLine
from coalesce.storage.base import Head, ObjectStore
from coalesce.storage.checksums import looks_like_md5

# Of an output of one member all is read that comes before the source's end, so much at a time.
_READ_BYTES = 1024**2
_TEXT_BYTES = 1024**2

_NOT_IN_LEDGER = "`coalesce history` says what else is known of it."
_OUTPUT = {
    Standing.GONE: ("OutputMissing", "is gone"),
    Standing.CHANGED: ("LedgerMismatch", "is not what its ledger entry says"),
}
_LOST = (
    "Nothing was written. Bring back a good version of the output if the bucket keeps versions; "
    'see "Exit code 4" in docs/operations.md.'
)
_UNPROVEN = (
    "Nothing was written: it was joined with --no-check, and the store keeps no checksum of the "
    "output. `coalesce verify --deep` reads the whole output."
)


class Extracted(BaseModel):
    """A source that was taken out of its output.

    `bytes` were written; `records` is None where they were not counted. `identical` says that they
    have the MD5 in the source's ETag: otherwise the content is the same, or the ETag was no MD5.
    """

    type: Literal["extracted"] = "extracted"
    key: str
    output: str
    run_id: str
    bytes: int
    records: int | None
    identical: bool


async def extract(store: ObjectStore, state: str, key: str, sink: BinaryIO) -> Extracted:
    """Writes a source to a sink, which holds it only when this returns.

    Of an output that is one member, the source's content comes as one member of its codec. Of one
    under a header (csv-header), every source comes with its own.

    Args:
        store: the bucket.
        state: the state prefix.
        key: the source's.
        sink: takes bytes before they are proven: whatever it has after a failure is nothing.

    Raises:
        NotFound: no ledger entry names the source.
        IntegrityError: its output is gone or another, or it is not what the entry says.
        RecordDamaged: the entry cannot be read.
        StorageError: a request failed.
    """
    where, head, standing = await _locate(store, state, key)
    header, line = where.entry.header, where.line
    rules = header.content_rules
    excerpt, compressor = excerpt_of(Held.of(line), rules), rules.deflater()
    writer = _Writer(sink)
    async for piece in _pieces_of(store, head, rules, line):
        given = excerpt.feed(piece)
        writer.write(compressor.deflate(given) if compressor else given)
    writer.write(excerpt.finish())
    if compressor:
        writer.write(compressor.finish())
    elif not writer.written:
        writer.write(rules.empty_output)  # it held nothing, and so nothing of it is in the output
    identical = writer.has_md5(line.etag)
    if line.content is None and standing is not Standing.INTACT and not identical:
        message = f"{key}: nothing proves that these are its bytes"
        raise IntegrityError(message, key=key, code="SourceNotProven", hint=_UNPROVEN)
    return Extracted(
        key=key,
        output=header.output,
        run_id=header.run_id,
        bytes=writer.written,
        records=line.records,
        identical=identical,
    )


class _Writer:
    """Writes to a sink; `written` is how many bytes so far."""

    def __init__(self, sink: BinaryIO) -> None:
        self.written = 0
        self._sink = sink
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        """Writes these bytes."""
        self._sink.write(data)
        self._md5.update(data)
        self.written += len(data)

    def has_md5(self, etag: str) -> bool:
        """Whether an ETag is the MD5 of all that was written."""
        return looks_like_md5(etag) and etag.strip('"').lower() == self._md5.hexdigest()


async def _locate(store: ObjectStore, state: str, key: str) -> tuple[Whereabouts, Head, Standing]:
    """The latest entry that names a source and whose output is still what it says."""
    failures: list[CoalesceError] = []
    found = [where async for where in find_source(store, state, key, failures.append)]
    found.sort(key=lambda where: where.entry.header.written, reverse=True)
    lost: list[IntegrityError] = []
    for where in found:
        head = await store.head(where.entry.header.output)
        standing = Standing.of(where.entry.header, head)
        if head is not None and standing in (Standing.INTACT, Standing.UNSUMMED):
            return where, head, standing
        code, what = _OUTPUT[standing]
        message = f"{key}: the output that it went into, {where.entry.header.output}, {what}"
        lost.append(IntegrityError(message, key=key, code=code, hint=_LOST))
    for failure in (*lost, *failures):
        raise failure
    message = f"{key}: no ledger entry names it"
    raise NotFound(message, key=key, code="NotInLedger", hint=_NOT_IN_LEDGER)


async def _pieces_of(
    store: ObjectStore, head: Head, rules: ContentRules, line: SourceLine
) -> AsyncIterator[bytes]:
    """Yields the source's text, or its bytes if the output's are those of its sources."""
    begin, end = line.start, line.start + line.length
    if rules.records is Records.CSV_HEADER and begin and line.content:
        yield await _header_of(store, head, rules)
    form = rules.form if rules.single else None
    async for piece in _cut(store, head, form, begin, end):
        yield piece


async def _header_of(store: ObjectStore, head: Head, rules: ContentRules) -> bytes:
    """The first line of the output; where none ends soon enough, as much as one may have."""
    line = b""
    async with aclosing(_cut(store, head, rules.form, 0, LONGEST)) as pieces:
        async for piece in pieces:
            line += piece
            if end := line.find(b"\n") + 1:
                return line[:end]
    return line


async def _cut(
    store: ObjectStore, head: Head, form: Form | None, begin: int, end: int
) -> AsyncGenerator[bytes, None]:
    """Yields what lies from one byte to another in the output, or in the text of its one member."""
    if form is not None:
        async with aclosing(_text_of(store, head, form, begin, end)) as pieces:
            async for piece in pieces:
                yield piece
        return
    end = min(end, head.size)
    for start in range(begin, end, PART_BYTES):
        length = min(PART_BYTES, end - start)
        yield (await store.get(head.key, etag=head.etag, start=start, length=length)).data


async def _text_of(
    store: ObjectStore, head: Head, form: Form, begin: int, end: int
) -> AsyncGenerator[bytes, None]:
    """Yields text out of the output's one member, which is read up to its end and no further."""
    decoder, at, start = form.decoder(), 0, 0
    while at < end and start < head.size and not decoder.eof:
        length = min(_READ_BYTES, head.size - start)
        data = (await store.get(head.key, etag=head.etag, start=start, length=length)).data
        start += length
        text = b""
        while at < end and not decoder.eof and (data or _has_more(decoder, text)):
            try:
                text = decoder.decompress(data, _TEXT_BYTES)
            except form.errors as error:
                raise IntegrityError(
                    f"{head.key}: not a valid {form.codec} file: {error}",
                    key=head.key,
                    code=f"Corrupt{form.codec.capitalize()}",
                    hint=_LOST,
                ) from error
            data = b""
            if piece := text[max(0, begin - at) : max(0, end - at)]:
                yield piece
            at += len(text)


def _has_more(decoder: Decoder, text: bytes) -> bool:
    """Whether more text comes of what was given, after so much of it."""
    return len(text) == _TEXT_BYTES or not decoder.needs_input
