"""Plan records: a group's plan as it stands in the bucket while the group is worked on.

zlib of one JSON object. It may name a million sources, so it is written and read little by little.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from coalesce.errors import BadRequest
from coalesce.model import Batch, GroupId

# A record of more is neither written nor believed: one of a few bytes could fill the memory.
MOST_SOURCES = 4_000_000

# What an undo record begins with, which stands where a plan record could.
UNDO_MARK = b"undo\n"

_WRITTEN_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """A batch, and the upload that alone may make it appear.

    `doubted` is an output that was read back and is not what was sent: nobody deletes its sources
    on the strength of it. `may_lack_entry` says that version 0.1 recorded it, which completed
    uploads without a ledger entry.
    """

    batch: Batch
    upload_id: str
    doubted: bool = False
    may_lack_entry: bool = False


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The unfinished plan of one group."""

    run_id: str
    layout: str
    group: GroupId
    batches: tuple[RecordedBatch, ...]


def encode(record: PlanRecord) -> bytes:
    """A record as stored. Raises BadRequest for one of more sources than are ever read."""
    sources = sum(len(entry.batch.sources) for entry in record.batches)
    if sources > MOST_SOURCES:
        message = f"{record.group}: {sources:,} sources in one plan record"
        hint = "Run with a smaller --max-files; after runs with --no-delete, `coalesce recover`."
        raise BadRequest(message, key=record.group.prefix, code="RecordTooLarge", hint=hint)
    deflater, stored = zlib.compressobj(), io.BytesIO()
    for text in _json(record):
        stored.write(deflater.compress(text.encode()))
    stored.write(deflater.flush())
    return stored.getvalue()


def _json(record: PlanRecord) -> Iterator[str]:
    group = record.group
    yield _open_object(
        "batches",
        schema_version=2,
        run_id=record.run_id,
        layout=record.layout,
        directory=group.directory,
        topic=group.topic,
        partition=group.partition,
        **({"names": group.names} if group.names else {}),
    )
    for number, entry in enumerate(record.batches):
        batch = entry.batch
        yield "," * (number > 0)
        yield _open_object(
            "sources",
            output=batch.output,
            upload_id=entry.upload_id,
            digest=batch.digest,
            doubted=entry.doubted,
        )
        for start in range(0, len(batch.sources), _WRITTEN_AT_ONCE):
            rows = [
                (s.key, s.etag, s.size, s.first, s.last, s.tail)
                for s in batch.sources[start : start + _WRITTEN_AT_ONCE]
            ]
            yield "," * (start > 0) + json.dumps(rows)[1:-1]
        yield "]}"
    yield "]}"


def _open_object(name: str, **fields: object) -> str:
    """A JSON object up to the first item of its last field, a list."""
    return f'{json.dumps(fields)[:-1]}, "{name}": ['
