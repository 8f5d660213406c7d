"""Which groups have anything to join, by an S3 Inventory: a report of a whole bucket, instead of a
request for each thousand keys of all that lies there.

An inventory is a day old or two. So it only says where to look: the groups that it finds are listed
before they are planned, and a group that it does not show is for a later run.

Sources: S3 User Guide, "Locating your inventory list" (the manifest) and "Amazon S3 Inventory
list" (the fields; keys are URL-encoded in CSV).
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coalesce.errors import AccessDenied, ConfigurationError, ListingError, NotFound
from coalesce.model import GroupId
from coalesce.naming.layouts import Layout
from coalesce.naming.shards import Shard
from coalesce.storage.base import ObjectStore
from coalesce.storage.limits import LIST_PAGE

_CHUNK_BYTES = 2 * 1024**2
_TEXT_BYTES = 1024**2

# Of an inventory of all versions; in one of current versions every row counts.
_LATEST, _DELETED = "IsLatest", "IsDeleteMarker"


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InventoryFile(_Described):
    """One of the files; `md5` is in hex, empty where it is not said."""

    key: str
    md5: str = Field("", alias="MD5checksum")


class Manifest(_Described):
    """What an inventory says of itself."""

    bucket: str = Field(alias="sourceBucket")
    form: str = Field(alias="fileFormat")
    columns: str = Field(alias="fileSchema")
    files: tuple[InventoryFile, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(name.strip() for name in self.columns.split(","))


@dataclass(frozen=True, slots=True)
class Leads:
    """The groups that have anything to join, and the prefixes to list for them."""

    groups: frozenset[GroupId]
    prefixes: tuple[str, ...]


@dataclass(slots=True)
class GroupsFound:
    """What an inventory shows under the prefixes, as far as a shard owns it.

    Attributes:
        grow: Whether outputs may be joined again.
        sources: The number of sources of each group, with its outputs where they may grow.
        keys: The number of keys of each group.
        directory_keys: The number of keys in each directory.
    """

    prefixes: tuple[str, ...]
    state_prefix: str
    layout: Layout
    shard: Shard
    grow: bool = False
    sources: Counter[GroupId] = field(default_factory=Counter)
    keys: Counter[GroupId] = field(default_factory=Counter)
    directory_keys: Counter[str] = field(default_factory=Counter)

    def add(self, key: str) -> None:
        """Takes in a key. One whose group begins above the prefixes counts for nothing."""
        if not key.startswith(self.prefixes) or key.startswith(self.state_prefix):
            return
        self.directory_keys[key[: key.rfind("/") + 1]] += 1
        parsed = self.layout.parse(key) if self._owns(key) else None
        if parsed is not None and parsed.group.directory.startswith(self.prefixes):
            self.keys[parsed.group] += 1
            self.sources[parsed.group] += self.grow or parsed.kind == "source"

    def _owns(self, key: str) -> bool:
        return self.shard.owns(key, self.layout.share_of)

    def leads(self, min_files: int) -> Leads:
        """Where there are enough sources for an output.

        A directory is listed where that takes fewer requests than listing its groups, but never the
        bucket's root, which is the whole bucket.
        """
        groups = frozenset(group for group, count in self.sources.items() if count >= min_files)
        by_directory: defaultdict[str, list[GroupId]] = defaultdict(list)
        for group in groups:
            by_directory[group.directory].append(group)
        prefixes: list[str] = []
        for directory, some in by_directory.items():
            apart = sum(_pages(self.keys[group]) for group in some)
            together = bool(directory) and _pages(self.directory_keys[directory]) < apart
            prefixes += [directory] if together else [group.prefix for group in some]
        return Leads(groups, tuple(prefixes))


def _pages(keys: int) -> int:
    return -(-keys // LIST_PAGE)


async def find_groups(
    store: ObjectStore, manifest_key: str, bucket: str, found: GroupsFound
) -> None:
    """Reads an inventory of a bucket.

    Args:
        store: The bucket in which the inventory lies.
        manifest_key: The key of its manifest.json.
        bucket: The bucket of which it must be.
        found: Takes its keys in.

    Raises:
        ConfigurationError: The inventory cannot be used.
        ListingError: A file of it cannot be read: which groups there are is then unknown.
        StorageError: A request failed, with the same effect.
    """
    manifest = await _read_manifest(store, manifest_key, bucket)
    for file in manifest.files:
        rows = _Rows(manifest.names, file.key)
        async for data in _read(store, file):
            await asyncio.to_thread(_take, found, rows.take(data))
        _take(found, rows.end())


def _take(found: GroupsFound, keys: Iterator[str]) -> None:
    for key in keys:
        found.add(key)


async def _read_manifest(store: ObjectStore, key: str, bucket: str) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((await store.get(key)).data)
    except (NotFound, AccessDenied, ValidationError) as error:
        reason = "not a manifest" if isinstance(error, ValidationError) else error
        raise ConfigurationError(
            f"cannot read the inventory {key!r}: {reason}",
            key=key,
            hint="Give the s3:// URL of its manifest.json.",
        ) from error
    if manifest.bucket != bucket:
        raise ConfigurationError(
            f"the inventory is of the bucket {manifest.bucket!r}, not of {bucket!r}",
            hint="Give the manifest of this bucket's inventory.",
        )
    if manifest.form != "CSV" or "Key" not in manifest.names:
        raise ConfigurationError(
            f"the inventory has the format {manifest.form} and the fields {manifest.columns}",
            hint="Configure one as CSV, with the field Key.",
        )
    return manifest


async def _read(store: ObjectStore, file: InventoryFile) -> AsyncIterator[bytes]:
    """Yields a file's bytes, all of one version. Raises ListingError, StorageError."""
    head = await store.head(file.key)
    if head is None:
        raise _unreadable(file.key, "is not there")
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, head.size, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, head.size - start)
        body = await store.get(file.key, etag=head.etag, start=start, length=length)
        digest.update(body.data)
        yield body.data
    if file.md5 and digest.hexdigest() != file.md5.lower():
        raise _unreadable(file.key, "not the bytes that the manifest names")


class _Rows:
    """Takes the keys of the objects that are there out of one gzip file of CSV, piece by piece."""

    def __init__(self, names: Sequence[str], key: str) -> None:
        self._at = {name: place for place, name in enumerate(names)}
        self._count = len(names)
        self._key = key
        self._inflater = zlib.decompressobj(31)  # gzip
        self._rest = b""

    def take(self, data: bytes) -> Iterator[str]:
        """Yields the keys of the rows that end in this piece. Raises ListingError."""
        for text in self._inflate(data):
            *lines, self._rest = (self._rest + text).split(b"\n")
            yield from self._keys(lines)

    def end(self) -> Iterator[str]:
        """Yields the key of a last row without a newline. Raises ListingError for a file that is
        cut short.
        """
        last = self._rest + self._inflater.flush()
        if not self._inflater.eof:
            raise _unreadable(self._key, "cut short")
        return self._keys(last.split(b"\n"))

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._inflater.eof:  # another member begins
                    self._inflater = zlib.decompressobj(31)
                yield self._inflater.decompress(data, _TEXT_BYTES)
                data = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise _unreadable(self._key, str(error)) from error

    def _keys(self, lines: Sequence[bytes]) -> Iterator[str]:
        try:
            for row in csv.reader(line.decode() for line in lines):
                if row and self._is_there(row):
                    yield unquote_plus(row[self._at["Key"]])
        except (ValueError, csv.Error) as error:
            raise _unreadable(self._key, str(error)) from error

    def _is_there(self, row: Sequence[str]) -> bool:
        """Whether a row is of an object that is there: no old version, and no delete marker."""
        if len(row) != self._count:
            raise ValueError(f"a row of {len(row)} fields instead of {self._count}")
        at = self._at
        latest = _LATEST not in at or row[at[_LATEST]].lower() == "true"
        return latest and not (_DELETED in at and row[at[_DELETED]].lower() == "true")


def _unreadable(key: str, reason: str) -> ListingError:
    return ListingError(
        f"{key}: {reason}",
        key=key,
        hint="Nothing was joined. Take another inventory, or run without one.",
    )
