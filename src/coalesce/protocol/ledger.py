"""The ledger: for every output, what it was made of. Written create-only right before Complete.

An entry is gzip of JSON lines: a header, and one line for each source in order. Recovery holds an
output against its header; the lines make every deletion accountable.
"""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from json.encoder import encode_basestring_ascii
from typing import Annotated, Literal

from isal import isal_zlib
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalesce.content.attributes import everything
from coalesce.content.rules import ContentRules
from coalesce.errors import AccessDenied, NotFound, RecordDamaged, TooLong
from coalesce.model import Batch, Codec, Records, TransferredBatch, UploadedPart
from coalesce.naming.layouts import codec_of
from coalesce.protocol.session import GroupRules, Session
from coalesce.protocol.state import entry_key
from coalesce.protocol.writes import write_state
from coalesce.storage import checksums
from coalesce.storage.attributes import Attributes
from coalesce.storage.base import Deleted, ObjectStore
from coalesce.storage.checksums import Checksum

_CONTENT_TYPE = "application/gzip"
_HEADER_BYTES = 64 * 1024
_STAYS = "Nothing depends on it, and no later run removes it. Check s3:DeleteObject on it."

# ISA-L's highest level takes a third of the CPU of zlib's 6 here, and as many bytes; with lines
# deflated one by one it would take half.
_LEVEL = 3
_LINES_AT_ONCE = 1000

Size = Annotated[int, Field(ge=0, lt=2**63)]


class Expected(BaseModel):
    """What an output must be: its size in bytes, its CRC64NVME, and in `composite` the checksum
    that HEAD shows of an upload with the checksum mode `mode` CRC32 (base64, as S3 spells them).
    """

    model_config = ConfigDict(frozen=True)

    size: Size
    crc64: str
    mode: Checksum
    composite: str = ""


class EntryHeader(Expected):
    """The first line of an entry.

    `written` is in seconds since the epoch, by the run's clock. `attributes` is what the first
    source says of itself; the others say the same, but for what their lines say, and for so many
    that are `unnoted`. `gzip` says where sources lie: in the text of its one member (`single`), or
    in its bytes; `none` is text. `codec` is None in entries from before there were others than gzip
    and text. Of `kind` csv-header, the first line of the output is that of each source, and lies
    only in the place of the first that has one.
    """

    schema_version: Literal[1] = 1
    run_id: str
    version: str
    layout: str
    gzip: Literal["single", "members", "none"]
    codec: Codec | None = None
    kind: Records = Records.LINES
    output: str
    digest: str
    upload_id: str
    sources: Size
    records: Size | None
    written: float
    attributes: dict[str, str | dict[str, str] | None] = Field(default_factory=dict)
    unnoted: Size = 0

    @property
    def content_rules(self) -> ContentRules:
        """How the output is read again."""
        codec = self.codec or (Codec.PLAIN if self.gzip == "none" else Codec.GZIP)
        single = self.gzip == "single"
        return ContentRules(codec, check=True, single=single, records=self.kind)


def expect(rules: GroupRules, transferred: TransferredBatch) -> Expected:
    """What the output of these parts must be."""
    return expect_parts(rules, transferred.parts, transferred.crc64)


def expect_parts(rules: GroupRules, parts: Sequence[UploadedPart], crc64: int) -> Expected:
    """What an object of these parts must be, whose CRC64NVME in all is known."""
    mode = rules.capabilities.checksum
    composite = ""
    if mode is Checksum.CRC32:
        composite = checksums.composite([part.checksum for part in parts])
    return Expected(
        size=sum(part.size for part in parts),
        crc64=checksums.encode(crc64),
        mode=mode,
        composite=composite,
    )


async def write_entry(
    session: Session,
    batch: Batch,
    upload_id: str,
    transferred: TransferredBatch,
    expected: Expected,
    first: Attributes,
) -> None:
    """Writes the entry of an upload that is about to be completed to what is `expected`.

    `first` is what its first source says of itself. Raises StorageError.
    """
    rules = session.rules
    key = entry_key(rules.state, batch.output, upload_id)
    codec = codec_of(rules.layout, batch.output)
    header = EntryHeader(
        **expected.model_dump(),
        run_id=rules.run_id,
        version=rules.version,
        layout=rules.layout.name,
        gzip=_gzip_mode(rules, codec),
        codec=codec,
        kind=rules.layout.records,
        output=batch.output,
        digest=batch.digest,
        upload_id=upload_id,
        sources=len(batch.sources),
        records=transferred.records,
        written=round(time.time(), 3),
        attributes=everything(first),
        unnoted=transferred.differences.unnoted,
    )
    body = _encode(header, batch, transferred)
    await write_state(session.store, key, body, if_none_match=True, content_type=_CONTENT_TYPE)


async def read_header(
    store: ObjectStore, state: str, output: str, upload_id: str
) -> EntryHeader | None:
    """The header of an upload's entry, None if there is no entry.

    Raises RecordDamaged for one that cannot be read, StorageError.
    """
    key = entry_key(state, output, upload_id)
    try:
        begin = await _read_begin(store, key)
    except NotFound:
        return None
    try:
        line = zlib.decompressobj(31).decompress(begin, _HEADER_BYTES).split(b"\n", 1)[0]
        header = EntryHeader.model_validate_json(line)
        if (header.output, header.upload_id) != (output, upload_id):
            raise ValueError("it is about another upload")
    except (zlib.error, ValidationError, ValueError) as error:
        message = f"the ledger entry {key!r} cannot be read: {type(error).__name__}"
        raise RecordDamaged(message, key=key) from error
    return header


async def _read_begin(store: ObjectStore, key: str) -> bytes:
    """The first bytes of an entry, which are the whole of a short one. Raises StorageError."""
    try:
        body = await store.get(key, size=_HEADER_BYTES)
    except TooLong:
        body = await store.get(key, start=0, length=_HEADER_BYTES)
    return body.data


async def remove_entry(session: Session, output: str, upload_id: str) -> AccessDenied | None:
    """Removes the entry of an upload, if there is one.

    Returns the store's refusal, for the report: nothing else waits for it, since buckets may keep
    their ledger from being deleted. Raises StorageError.
    """
    key = entry_key(session.rules.state, output, upload_id)
    head = await session.store.head(key)
    if head is None:
        return None
    conditional = session.rules.capabilities.conditional_delete
    result = await session.store.delete(key, etag=head.etag if conditional else "")
    if result.deleted is not Deleted.REFUSED:
        return None
    message = f"the ledger entry {key!r} cannot be removed: {result.message}"
    return AccessDenied(message, key=key, code=result.code, hint=_STAYS)


def _gzip_mode(rules: GroupRules, codec: Codec) -> Literal["single", "members", "none"]:
    if codec is Codec.PLAIN:
        return "none"
    single = rules.limits.of_content(codec, rules.layout.records).single
    return "single" if single else "members"


def _encode(header: EntryHeader, batch: Batch, transferred: TransferredBatch) -> bytes:
    deflater = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 31)
    lines = _lines(header, batch, transferred)
    stored = io.BytesIO()
    while text := "".join(islice(lines, _LINES_AT_ONCE)):
        stored.write(deflater.compress(text.encode()))
    stored.write(deflater.flush())
    return stored.getvalue()


def _lines(header: EntryHeader, batch: Batch, transferred: TransferredBatch) -> Iterator[str]:
    """A source's line: key, ETag, size, time, records, where it begins in the output and how many
    bytes it is there, and CRC64NVME and size of its content, if it was looked at; and what it says
    of itself that the first one does not.
    """
    yield header.model_dump_json() + "\n"
    start, noted = 0, transferred.differences.noted
    for source, fate in zip(batch.sources, transferred.sources, strict=True):
        says = f",{noted[source.key]}" if source.key in noted else ""
        # Written by hand: `json.dumps` takes two and a half times as long, for each source.
        yield (
            f"[{encode_basestring_ascii(source.key)},{encode_basestring_ascii(source.etag)},"
            f"{source.size},{int(source.modified)},{_number(fate.records)},{start},{fate.length},"
            f"{_number(fate.crc64)},{_number(fate.content)}{says}]\n"
        )
        start += fate.length


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)
