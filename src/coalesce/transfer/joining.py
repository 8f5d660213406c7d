"""Bodies of sources become bytes for the output, and are checked on the way.

What looks spoilt is read again, since the fault may be the network's. How many readings it takes to
be sure depends on what there is to hold a body against:

- What is compressed and not whole, and any body of another length or stored checksum, is read once
  more: that reading decides.
- Text with its stored checksum, or with the MD5 in its ETag, is joined at once.
- Text with another MD5 is read until a reading has the right one. It is corrupt if two readings
  agree, or if none of three has it.
- Text with neither is joined at once if it looks like text. If it looks odd it is read until two
  readings agree, and is corrupt if all of three differ.
- Zstd whose frames have no checksum is held against the same as text, and looks odd.

An ETag counts as an MD5 if it has the form of one, the answer names no key of KMS, and the store
has answered a PUT of this program with the MD5 of its bytes. Odd is what is not UTF-8, or has
control characters other than tabs, line ends and form feeds: one or two of the eight bits of an
ASCII character make it so when they flip. A missing last newline is not odd: some writers never
write it, and the length is compared anyway.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

from coalesce.content.checks import Evidence, StoredChecksums, TextCheck, check_stored
from coalesce.content.joiner import Joiner
from coalesce.content.rules import ContentRules
from coalesce.errors import ContentError, HeadersDiffer, SourceUnusable
from coalesce.model import Codec, Source, Span, Why
from coalesce.storage.base import Body, ObjectStore
from coalesce.storage.checksums import is_md5
from coalesce.transfer.deflating import DeflaterThread
from coalesce.transfer.limits import Capacity
from coalesce.transfer.reads import RUN_BYTES, Read, cut_spans, read_body

# So many bytes of bodies are looked at on the event loop, a matter of milliseconds. A thread would
# fight with the loop for the interpreter: 10,000 sources of 100 KB took a sixth more CPU that way,
# and no less time. Whoever has CPUs to spare gives them with more processes.
_INLINE_BYTES = 2 * RUN_BYTES

# How often a source is read at most.
_READINGS = 3


@dataclass(slots=True)
class PartlyRead:
    """A source that is read in several spans, as far as they have come by."""

    key: str
    joiner: Joiner
    sums: StoredChecksums
    text: TextCheck | None


@dataclass(slots=True)
class Join:
    """What one read came to: bytes for the output; or why it came to nothing.

    `joiner` is the source's, where all of it has come by; `evidence` then says what speaks for it,
    None for what has checksums of its own or is not checked. `ended` is set with the last of
    several spans until the whole has been held against what HEAD says.
    """

    pieces: list[bytes] = field(default_factory=list)
    joiner: Joiner | None = None
    unusable: SourceUnusable | None = None
    evidence: Evidence | None = None
    ended: PartlyRead | None = None

    @property
    def is_sure(self) -> bool:
        """Whether another reading would tell no more."""
        return self.unusable is not None or self.evidence in (None, Evidence.PROVEN)

    @property
    def is_doubtful(self) -> bool:
        """Whether this has to be read again."""
        return self.evidence in (Evidence.CONTRADICTED, Evidence.ODD)

    @property
    def content(self) -> int | None:
        """What readings with the same content have in common; None for one that is unusable."""
        return self.joiner.content_crc64 if self.joiner is not None else None


class SourceJoiner:
    """Joins what is read of a batch, in order; reads again what looks spoilt.

    `read_bytes` is the most that one GET brings into memory.

    Attributes:
        unusable: Why sources cannot be joined, by key: all that were found so far.
    """

    def __init__(
        self, store: ObjectStore, capacity: Capacity, rules: ContentRules, read_bytes: int
    ) -> None:
        self.unusable: dict[str, SourceUnusable] = {}
        self._store = store
        self._capacity = capacity
        self._rules = rules
        self._header = rules.header()
        self._read_bytes = read_bytes
        self._partly: PartlyRead | None = None
        self._unsure: list[tuple[Source, Join]] = []  # read in ranges, to be read again
        deflater = rules.deflater()
        self._deflater = DeflaterThread(deflater) if deflater else None
        # Reads again: what the deflater has taken in cannot be taken back.
        self._reader = (
            SourceJoiner(store, capacity, replace(rules, single=False), read_bytes)
            if self._deflater
            else self
        )
        self._misread = False

    async def join(self, run: list[Read]) -> list[Join]:
        """What becomes of some bodies. Raises StorageError, SourceUnusable for a changed source."""
        quick = sum(read.size for read in run) < _INLINE_BYTES and not self._rules.is_slow
        inline = not self._rules.check or quick
        if self._deflater:
            await self._deflater.until_almost_done()
        joins, seconds = self._join(run) if inline else await asyncio.to_thread(self._join, run)
        self._store.usage.checking += seconds
        await self._read_doubtful(run, joins)
        for n, read in enumerate(run):
            if not read.span.whole:
                joins[n] = await self._end_range(read.span.source, joins[n])
            if (unusable := joins[n].unusable) is not None:
                self.unusable.setdefault(read.span.source.key, unusable)
        return joins

    async def confirm(self) -> bool:
        """Reads again, one after the other, what was read in ranges and looks spoilt: its first
        ranges may have been sent when a later one came.

        Afterwards `unusable` holds what is spoilt for certain. Returns whether any source was
        misread.
        """
        misread = self._misread
        for source, first in self._unsure:
            sure = await self._reader.read_until_sure(source, first)
            if sure.unusable is not None:
                self.unusable[source.key] = sure.unusable
            else:
                self.unusable.pop(source.key, None)
                misread |= sure.content != first.content
        return misread

    @property
    def delayed_bytes(self) -> int:
        """How many bytes of sources may have come to nothing yet, and will."""
        return self._deflater.waiting + self._deflater.delayed_bytes if self._deflater else 0

    async def finish(self) -> list[bytes]:
        """The last bytes of the output."""
        if self._deflater is None:
            return []
        rest = await self._deflater.finish()
        self._store.usage.checking += self._deflater.seconds
        return [rest]

    def _join(self, run: list[Read]) -> tuple[list[Join], float]:
        """Joins all of them; and the CPU seconds that it took."""
        begun = time.thread_time()
        return [self._join_read(read) for read in run], time.thread_time() - begun

    def _join_read(self, read: Read) -> Join:
        source = read.span.source
        if read.unusable is not None:
            if read.unusable.why is Why.ATTRIBUTES:  # no reading would tell more of its later spans
                self.unusable[source.key] = read.unusable
            return Join(unusable=read.unusable)
        if source.key in self.unusable:
            return Join(unusable=self.unusable[source.key])
        assert read.body is not None
        if read.span.whole:
            return self._join_body(read.span, read.body, None)
        if self._partly is None or self._partly.key != source.key:
            self._partly = self._begin(source, read.body)
        join = self._join_body(read.span, read.body, self._partly)
        if join.unusable is not None and join.unusable.why is Why.HEADER:
            self.unusable[source.key] = join.unusable
        elif join.unusable is not None:
            self._doubt(source, join)
        return join

    def _doubt(self, source: Source, join: Join) -> None:
        """Leaves it to `confirm` whether a source that is read in ranges is spoilt."""
        self._unsure.append((source, join))
        if join.unusable is not None:
            self.unusable[source.key] = join.unusable

    def _begin(self, source: Source, body: Body) -> PartlyRead:
        may_need = self._rules.check and self._rules.codec in (Codec.PLAIN, Codec.ZSTD)
        text = self._text_check(source, body) if may_need else None
        joiner = self._rules.joiner(source.key, self._deflater, self._header)
        return PartlyRead(source.key, joiner, StoredChecksums(), text)

    def _join_body(self, span: Span, body: Body, partly: PartlyRead | None) -> Join:
        """A whole source, or one of several spans of one, which come in order."""
        source = span.source
        try:
            if len(body.data) != span.length:
                has = f"has {len(body.data)} bytes, listed with {span.length} under the same ETag"
                raise ContentError(f"{source.key}: {has}", key=source.key)
            if partly is None:
                return self._join_whole(source, body)
            return self._join_range(partly, body, last=span.ends_source)
        except HeadersDiffer as error:
            return Join(unusable=SourceUnusable(source, Why.HEADER, error, error.kind))
        except ContentError as error:
            return Join(unusable=SourceUnusable(source, Why.CORRUPT, error))

    def _join_whole(self, source: Source, body: Body) -> Join:
        joiner = self._rules.joiner(source.key, self._deflater, self._header)
        join = Join([*joiner.feed(body.data), *joiner.finish()], joiner)
        if not self._rules.check:
            return join
        proven = check_stored(source.key, body.data, body.checksum)
        if not joiner.proves_itself:
            text = self._text_check(source, body)
            join.evidence = Evidence.PROVEN if proven else text.evidence_of(body.data)
        return join

    def _text_check(self, source: Source, body: Body) -> TextCheck:
        return TextCheck("" if body.kms else source.etag, md5_etags=self._store.md5_etags)

    def _join_range(self, partly: PartlyRead, body: Body, *, last: bool) -> Join:
        pieces = partly.joiner.feed(body.data)
        if self._rules.check:
            partly.sums.feed(body.data)
        if partly.text is not None:
            partly.text.feed(body.data, last=last)
        if not last:
            return Join(pieces)
        return Join([*pieces, *partly.joiner.finish()], partly.joiner, ended=partly)

    async def _end_range(self, source: Source, join: Join) -> Join:
        """Holds a source that was read in ranges against its stored checksums.

        S3 gives none of the whole object with a range, so this costs one HEAD.
        """
        sure = await self._hold_against_head(source, join)
        if sure is not join or join.is_doubtful:
            self._doubt(source, sure)
        return sure

    async def _hold_against_head(self, source: Source, join: Join) -> Join:
        ended, join.ended = join.ended, None
        if ended is None or not self._rules.check:
            return join
        head = await self._store.head(source.key)
        stored = head.checksum if head is not None and head.etag == source.etag else {}
        try:
            proven = ended.sums.check(source.key, stored)
        except ContentError as error:
            return Join(unusable=SourceUnusable(source, Why.CORRUPT, error))
        if ended.text is not None and not ended.joiner.proves_itself:
            join.evidence = Evidence.PROVEN if proven else ended.text.evidence()
        return join

    async def _read_doubtful(self, run: list[Read], joins: list[Join]) -> None:
        """Puts what further readings came to in the place of what is doubtful.

        What was doubtful and is the same at another reading stays: a deflater has taken it in.
        """
        doubtful = [n for n, read in enumerate(run) if _is_doubtful(read, joins[n])]
        readings = (self._reader.read_until_sure(run[n].span.source, joins[n]) for n in doubtful)
        for n, join in zip(doubtful, await asyncio.gather(*readings), strict=True):
            if self._deflater is not None and join.unusable is None:
                if join.content == joins[n].content:
                    continue
                self._misread = True
            joins[n] = join

    async def read_until_sure(self, source: Source, first: Join) -> Join:
        """Reads a source again until its bytes are certain, or it is certain that they are not."""
        seen = [first.content]
        while len(seen) < _READINGS:
            join = await self._read_whole(source)
            if join.is_sure:
                return join
            if join.content in seen:
                if join.evidence is not Evidence.CONTRADICTED:
                    return join
                break
            seen.append(join.content)
        why = "its bytes do not have the MD5 in its ETag"
        if len(seen) == _READINGS:
            why = f"has other bytes at each of {_READINGS} readings"
        error = ContentError(f"{source.key}: {why}", key=source.key, code="ChecksumMismatch")
        return Join(unusable=SourceUnusable(source, Why.CORRUPT, error))

    async def _read_whole(self, source: Source) -> Join:
        """One more reading of a source, from its first byte to its last."""
        partly = None
        join = Join()
        for span in cut_spans([Span(source, 0, source.size)], self._read_bytes):
            try:
                async with self._capacity.reads.slot():
                    body = await read_body(self._store, span)
            except SourceUnusable as error:
                if error.why is not Why.CORRUPT:
                    raise
                return Join(unusable=error)
            if not span.whole:
                partly = partly or self._begin(source, body)
            join = await asyncio.to_thread(self._join_body, span, body, partly)
            if join.unusable is not None:
                return join
        return await self._hold_against_head(source, join)


def _is_doubtful(read: Read, join: Join) -> bool:
    """Whether a source that was read whole may not be what the store holds."""
    if not read.span.whole:
        return False
    if join.unusable is None:
        return join.is_doubtful
    proven = read.body is not None and is_md5(read.body.etag, read.body.data)
    return join.unusable.why is Why.CORRUPT and not proven
