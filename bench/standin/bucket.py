"""A bucket's objects and open uploads, and S3's rules about them (S3 API reference: conditional
requests, multipart limits, object integrity).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate

from sortedcontainers import SortedDict

from bench.standin import sums

MIN_PART_BYTES = 5 * 1024**2
MAX_PARTS = 10_000
LAST = chr(0x10FFFF)  # behind every other character of a key

Pieces = tuple[bytes | bytearray | memoryview, ...]


class Refusal(Exception):
    """An S3 error: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code} {message}")
        self.status, self.code, self.message = status, code, message


@dataclass(slots=True)
class Stored:
    """An object as it lies in the bucket.

    `described` is its answer headers but for the length, made when first asked for.
    """

    pieces: Pieces
    size: int
    etag: str
    modified: float
    headers: Mapping[str, str]
    checksum: tuple[str, str] | None = None  # algorithm, base64
    described: bytes = b""

    def describe(self) -> bytes:
        """The lines that GET and HEAD answer with."""
        if not self.described:
            own = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            stamp = formatdate(self.modified, usegmt=True)
            text = (
                f"Last-Modified: {stamp}\r\nETag: {self.etag}\r\n"
                f"x-amz-server-side-encryption: AES256\r\nAccept-Ranges: bytes\r\n{own}"
            )
            self.described = text.encode("utf-8", "surrogateescape")
        return self.described

    def cut(self, start: int, length: int) -> Pieces:
        """The bytes [start, start + length)."""
        if start == 0 and length == self.size:
            return self.pieces
        found, at = [], 0
        for piece in self.pieces:
            begin, end = max(start - at, 0), min(start + length - at, len(piece))
            if begin < end:
                found.append(memoryview(piece)[begin:end])
            at += len(piece)
        return tuple(found)


@dataclass(slots=True)
class Part:
    """One part of an upload."""

    pieces: Pieces
    size: int
    etag: str
    checksum: str


@dataclass(slots=True)
class Upload:
    """An open multipart upload."""

    key: str
    algorithm: str
    composite: bool
    headers: Mapping[str, str]
    initiated: float
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """What a Complete says of one part: number, ETag, and its checksum or nothing."""

    number: int
    etag: str
    checksum: str = ""


class Bucket:
    """One bucket.

    `filled` is the data set that `reset` comes back to; parts get an MD5 as their ETag unless
    `cheap_etags`.
    """

    def __init__(
        self, filled: Mapping[str, Stored] | None = None, *, cheap_etags: bool = False
    ) -> None:
        self._filled = filled or {}
        self._cheap_etags = cheap_etags
        self.reset()

    def reset(self) -> None:
        """Back to the pre-generated data set, and nothing else."""
        self.objects: SortedDict[str, Stored] = SortedDict(self._filled)
        self.uploads: SortedDict[tuple[str, str], Upload] = SortedDict()
        self._begun = 0

    def list(
        self, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[list[tuple[str, Stored | None]], str]:
        """Keys, and common prefixes without an object, behind `after`; and after what the next page
        begins, empty at the end.
        """
        found: list[tuple[str, Stored | None]] = []
        begin = max(prefix, after)
        walk = self.objects.irange(begin, inclusive=(begin != after, True))
        while (key := next(walk, None)) is not None and key.startswith(prefix):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[: cut + len(delimiter)]
            if len(found) == limit:
                return found, self._last(found[-1])
            found.append((name, self.objects[key] if cut < 0 else None))
            if cut >= 0:
                walk = self.objects.irange(name + LAST)
        return found, ""

    @staticmethod
    def _last(entry: tuple[str, Stored | None]) -> str:
        name, stored = entry
        return name if stored else name + LAST

    def under(self, prefix: str) -> Iterator[tuple[str, Stored]]:
        """All objects under a prefix."""
        for key in self.objects.irange(prefix, prefix + LAST):
            yield key, self.objects[key]

    def get(self, key: str, if_match: str = "") -> Stored:
        """An object, if it has that ETag."""
        stored = self.objects.get(key)
        if stored is None:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        if if_match and if_match not in (stored.etag, "*"):
            raise Refusal(
                412,
                "PreconditionFailed",
                "At least one of the pre-conditions you specified did not hold",
            )
        return stored

    def put(self, key: str, stored: Stored, *, if_none_match: str = "", if_match: str = "") -> None:
        """Stores an object under its conditions."""
        if if_none_match and key in self.objects:
            raise Refusal(412, "PreconditionFailed", "the key exists")
        if if_match:
            self.get(key, if_match)
        self.objects[key] = stored

    def delete(self, key: str, if_match: str = "") -> None:
        """Deletes an object; without a condition an absent one is no error."""
        if if_match:
            self.get(key, if_match)
        self.objects.pop(key, None)

    def begin(self, key: str, algorithm: str, composite: bool, headers: Mapping[str, str]) -> str:
        """CreateMultipartUpload; its id."""
        self._begun += 1
        upload_id = hashlib.sha256(f"{key} {self._begun}".encode()).hexdigest()
        self.uploads[key, upload_id] = Upload(key, algorithm, composite, headers, time.time())
        return upload_id

    def open(self, key: str, upload_id: str) -> Upload:
        """An upload that is neither completed nor aborted."""
        upload = self.uploads.get((key, upload_id))
        if upload is None:
            raise Refusal(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload

    def abort(self, key: str, upload_id: str) -> None:
        """Ends an upload: from here on nothing can come of it."""
        self.open(key, upload_id)
        del self.uploads[key, upload_id]

    def add(self, upload: Upload, number: int, pieces: Pieces, value: str = "") -> Part:
        """A part, held against its checksum if there is one."""
        if not 1 <= number <= MAX_PARTS:
            raise Refusal(
                400,
                "InvalidArgument",
                "Part number must be an integer between 1 and 10000, inclusive",
            )
        computed = sums.checksum(upload.algorithm, pieces)
        if value and value != computed:
            raise Refusal(
                400,
                "BadDigest",
                f"The {upload.algorithm} you specified did not match the calculated checksum.",
            )
        etag = (
            f'"{hashlib.sha256(computed.encode()).hexdigest()[:40]}"'
            if self._cheap_etags
            else sums.etag(pieces)
        )
        part = upload.parts[number] = Part(pieces, sum(map(len, pieces)), etag, computed)
        return part

    def complete(
        self,
        key: str,
        upload_id: str,
        named: list[Named],
        *,
        value: str = "",
        size: int | None = None,
        if_none_match: str = "",
    ) -> Stored:
        """Makes the object, create-only with `if_none_match`, held against the checksum and the
        size if they are given.
        """
        upload = self.open(key, upload_id)
        if not named or [part.number for part in named] != sorted({part.number for part in named}):
            raise Refusal(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
        parts = [self._named(upload, part, is_last=part is named[-1]) for part in named]
        pieces = tuple(piece for part in parts for piece in part.pieces)
        computed = (
            sums.composite(upload.algorithm, [part.checksum for part in parts])
            if upload.composite
            else sums.checksum(upload.algorithm, pieces)
        )
        total = sum(part.size for part in parts)
        if value and value != computed:
            raise Refusal(
                400,
                "BadDigest",
                f"The {upload.algorithm} you specified did not match the calculated checksum.",
            )
        if size is not None and size != total:
            raise Refusal(
                400,
                "InvalidRequest",
                "The provided x-amz-mp-object-size does not match the size of the object",
            )
        digest = hashlib.md5(
            b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts), usedforsecurity=False
        ).hexdigest()
        stored = Stored(
            pieces,
            total,
            f'"{digest}-{len(parts)}"',
            time.time(),
            upload.headers,
            (upload.algorithm, computed),
        )
        self.put(key, stored, if_none_match=if_none_match)
        del self.uploads[key, upload_id]
        return stored

    @staticmethod
    def _named(upload: Upload, named: Named, *, is_last: bool) -> Part:
        part = upload.parts.get(named.number)
        if (
            part is None
            or part.etag.strip('"') != named.etag.strip('"')
            or (named.checksum and named.checksum != part.checksum)
        ):
            raise Refusal(
                400, "InvalidPart", "One or more of the specified parts could not be found."
            )
        if part.size < MIN_PART_BYTES and not is_last:
            raise Refusal(
                400,
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
            )
        return part
