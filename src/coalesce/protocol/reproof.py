"""Whether an output holds its sources, told by reading both where there is no ledger entry: version
0.1 wrote none, and one may have been removed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from coalesce.content.header import LONGEST, Header
from coalesce.content.joiner import Joiner
from coalesce.content.rules import ContentRules
from coalesce.content.text import Text
from coalesce.errors import ContentError, IntegrityError, SourceUnusable, Unavailable
from coalesce.model import Batch, Source, Span
from coalesce.planning.batches import is_single
from coalesce.protocol.ledger import Expected
from coalesce.protocol.session import Session
from coalesce.storage import checksums
from coalesce.storage.base import Head
from coalesce.storage.checksums import Checksum
from coalesce.transfer.readback import check_output, read_output
from coalesce.transfer.reads import cut_spans, read_body

# Bytes that are taken apart at once: a thousand times as much text of gzip at the most. A joiner
# refuses what becomes more of other codecs.
_FED_BYTES = 64 * 1024
_DELETED = "Another run seems to be settling this group; run again."


async def expect_from_sources(
    session: Session, batch: Batch, present: Sequence[int], head: Head
) -> Expected:
    """Finds the sources of a batch that are still `present`, each by its place, in its output, in
    their order, and returns what the output is. The header of a csv-header output is that of all.

    If all of them are present the output must hold nothing else; if some were deleted, which was
    done only after the output had been proven, it must be whole besides. Memory is two parts, or
    the text of 64 KiB where the output is one member. Raises IntegrityError if a source is not
    in it or cannot be read, Unavailable if one is deleted meanwhile, StorageError.
    """
    rules = ContentRules.of_output(session.rules.layout, head.key)
    await check_output(session.store, head, rules)
    complete = all(present)
    single = is_single(batch)
    output = _Output(session, head, rules.text(head.key) if single else None)
    header = rules.header()
    if header is not None and not complete:  # the source that it stands in may be gone
        header.line, header.key = await output.first_line(), batch.sources[0].key
    for source, is_present in zip(batch.sources, present, strict=True):
        if is_present:
            joiner = _joiner(rules, source, header, single=single)
            await _find(session, source, joiner, output, anywhere=not complete)
    if complete and await output.has_more() and not output.is_placeholder(rules):
        message = f"{head.key}: holds more than its sources"
        raise IntegrityError(message, key=head.key)
    crc64 = checksums.encode(await read_output(session.store, head))
    return Expected(size=head.size, crc64=crc64, mode=Checksum.NONE)


def _joiner(rules: ContentRules, source: Source, header: Header | None, *, single: bool) -> Joiner:
    """What makes of a source what stands in the output, or in its text."""
    if single:
        return rules.text(source.key, header)
    return rules.joiner(source.key, header=header)


async def _find(
    session: Session, source: Source, joiner: Joiner, output: _Output, *, anywhere: bool
) -> None:
    try:
        async for piece in _pieces(session, source, joiner):
            if not await output.find(piece, anywhere=anywhere):
                message = f"{output.key}: does not hold {source.key}"
                raise IntegrityError(message, key=output.key)
            anywhere = False
    except (ContentError, SourceUnusable) as error:
        if await session.store.head(source.key) is None:
            message = f"{source.key}: was deleted while {output.key} was compared with it"
            raise Unavailable(message, key=source.key, hint=_DELETED) from error
        message = f"{output.key}: cannot be compared: {error.message}"
        raise IntegrityError(message, key=output.key) from error


async def _pieces(session: Session, source: Source, joiner: Joiner) -> AsyncIterator[bytes]:
    """What a source gives to its output, little by little."""
    for span in cut_spans([Span(source, 0, source.size)], session.rules.sizes.usual):
        body = await read_body(session.store, span)
        for at in range(0, len(body.data), _FED_BYTES):
            if piece := b"".join(joiner.feed(body.data[at : at + _FED_BYTES])):
                yield piece
    if piece := b"".join(joiner.finish()):
        yield piece


class _Output:
    """An output's bytes, or the text that a reader takes out of it, read on as it is looked for.

    `at` is where the last piece that was found ends.
    """

    def __init__(self, session: Session, head: Head, text: Text | None) -> None:
        self.key = head.key
        self.at = 0
        self._store = session.store
        self._head = head
        self._text = text
        self._part = _FED_BYTES if text else session.rules.sizes.usual
        self._held = b""  # what comes from `at` on, behind `_begin` bytes of what came before
        self._begin = 0
        self._read = 0

    async def first_line(self) -> bytes:
        """Its first line, with its newline; empty if it is longer than any header."""
        while not (end := self._held.find(b"\n") + 1) and self._read < self._head.size:
            if len(self._held) > LONGEST:
                break
            await self._read_on()
        return self._held[:end]

    async def has_more(self) -> bool:
        """Whether anything comes behind what was found last."""
        while self._begin == len(self._held) and self._read < self._head.size:
            await self._read_on()
        return self._begin < len(self._held)

    def is_placeholder(self, rules: ContentRules) -> bool:
        """Whether its sources hold nothing, so that it holds the least that is no empty object."""
        return self.at == 0 and self._head.size == len(rules.empty_output)

    async def find(self, piece: bytes, *, anywhere: bool) -> bool:
        """Whether the piece comes next, or `anywhere` from here on; moves behind it if so."""
        while True:
            found = self._held.find(piece, self._begin) if anywhere else self._starts_with(piece)
            if found >= 0:
                self._drop(found + len(piece) - self._begin)
                return True
            held = len(self._held) - self._begin
            if self._read == self._head.size or (not anywhere and held >= len(piece)):
                return False
            if anywhere:
                self._drop(max(0, held - len(piece) + 1))
            await self._read_on()

    def _starts_with(self, piece: bytes) -> int:
        return self._begin if self._held.startswith(piece, self._begin) else -1

    def _drop(self, length: int) -> None:
        self.at += length
        self._begin += length

    async def _read_on(self) -> None:
        length = min(self._part, self._head.size - self._read)
        head = self._head
        body = await self._store.get(head.key, etag=head.etag, start=self._read, length=length)
        came = self._text.feed(body.data) if self._text else [body.data]
        self._held = b"".join([self._held[self._begin :], *came])
        self._begin = 0
        self._read += length
