"""The joiner of members: of gzip members, zstd frames or bzip2 streams."""

from __future__ import annotations

from typing_extensions import override

from coalesce.content.form import Decoder, Form, MemberHeader, Unreadable
from coalesce.content.gzip_members import GzipMembers
from coalesce.content.joiner import Joiner
from coalesce.content.lines import count_newlines, count_records
from coalesce.errors import ContentError
from coalesce.model import Records
from coalesce.storage import checksums

GZIP = GzipMembers()

# Inflated bytes at a time: bounds the memory that a body of any compression ratio can take.
_INFLATE_BYTES = 1024**2
_SLICE_BYTES = 256 * 1024

# What is held of a member while nothing of its content has come: more than a block of bzip2, the
# longest that comes at once. One of empty blocks alone could have any length.
_MOST_HELD = 1024**2


class Members(Joiner):
    """Joins members of one `form`, each checked for its header, its checksum and its length.

    Members are passed on as they are, except that empty ones are left out and a missing final
    newline is added as a member of its own, unless `records` are opaque. The package's docstring
    says why.
    """

    is_checked = True

    def __init__(self, key: str, form: Form = GZIP, records: Records = Records.LINES) -> None:
        self.length = self.left_out = 0
        self.proves_itself = True
        self.records = count_records(records, 0, b"\n")
        self.content_size = 0
        self.content_crc64 = 0
        self._key = key
        self._form = form
        self._kind = records
        self._lines = 0
        self._last = b"\n"
        self._inflater: Decoder | None = None
        self._partial_header = b""
        self._held: list[bytes] = []  # the current member's bytes while it is empty so far
        self._is_empty = True
        self._is_skipped = False
        self._members = 0

    @override
    def feed(self, data: bytes) -> list[bytes]:
        output: list[bytes] = []
        at = begin = 0
        data, self._partial_header = self._partial_header + data, b""
        while at < len(data):
            if self._inflater is None:
                header = self._header_at(data, at)
                if header is None:
                    self._partial_header = data[at:]
                    break
                self._inflater = self._begin_member(header)
                begin = at
            at += self._inflate(data[at : at + _SLICE_BYTES])
            if self._inflater.eof:
                self._end_member(data[begin:at] if begin or at < len(data) else data, output)
                begin = at
        if self._inflater is not None:
            self._pass_on(data[begin:], output)
        self.length += sum(map(len, output))
        self.records = count_records(self._kind, self._lines, self._last)
        return output

    @override
    def finish(self) -> list[bytes]:
        if self._inflater is not None or self._partial_header:
            raise self._spoilt(f"the last {self._form.member} is truncated", "Truncated")
        if not self._members:
            raise self._spoilt(f"contains no {self._form.member}", "Not")
        if self._last == b"\n" or self._kind is Records.OPAQUE:
            return []
        self.length += len(self._form.newline)
        return [self._form.newline]

    def _header_at(self, data: bytes, at: int) -> MemberHeader | None:
        """What the header at this byte says; None if more bytes are needed."""
        try:
            return self._form.header(data, at)
        except Unreadable as error:
            raise self._corrupt(str(error), error.code) from error

    def _begin_member(self, header: MemberHeader) -> Decoder:
        self._is_empty = True
        self._is_skipped = header.is_skipped
        if not header.is_summed:
            self.proves_itself = False
        return self._form.decoder()

    def _inflate(self, data: bytes) -> int:
        """Inflates one slice; returns how many of its bytes belong to the current member."""
        inflater = self._inflater
        assert inflater is not None
        try:
            out = inflater.decompress(data, _INFLATE_BYTES)
            if out:
                self._count(out)
            while not inflater.eof and (len(out) == _INFLATE_BYTES or not inflater.needs_input):
                out = inflater.decompress(b"", _INFLATE_BYTES)
                if out:
                    self._count(out)
        except self._form.errors as error:
            raise self._corrupt(str(error)) from error
        return len(data) - len(inflater.unused_data)

    def _count(self, text: bytes) -> None:
        """Counts inflated bytes and records, and continues their checksum."""
        self._is_empty = False
        self.content_size += len(text)
        self.content_crc64 = checksums.crc64([text], self.content_crc64)
        if self._kind is not Records.OPAQUE:
            self._lines += count_newlines(text)
        self._last = text[-1:]

    def _end_member(self, piece: bytes, output: list[bytes]) -> None:
        self._members += 1
        self._pass_on(piece, output)
        self.left_out += sum(map(len, self._held))
        self._held.clear()
        self._inflater = None

    def _pass_on(self, piece: bytes, output: list[bytes]) -> None:
        """Appends a piece of the current member to the output, or holds it while it is empty."""
        if self._is_skipped:
            self.left_out += len(piece)
        elif not self._is_empty:
            output += self._held
            self._held.clear()
            output.append(piece)
        elif piece:
            self._held.append(piece)
            if sum(map(len, self._held)) > _MOST_HELD:
                raise self._corrupt(f"a member holds nothing in its first {_MOST_HELD:,} bytes")

    def _corrupt(self, why: str, code: str = "") -> ContentError:
        error = self._spoilt(f"not a valid {self._form.codec} file: {why}", "Corrupt")
        error.code = code or error.code
        return error

    def _spoilt(self, why: str, how: str) -> ContentError:
        """The failure of a source; its code is `how` and the codec, such as `CorruptGzip`."""
        code = how + self._form.codec.capitalize()
        return ContentError(f"{self._key}: {why}", key=self._key, code=code)
