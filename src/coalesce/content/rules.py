"""Which joiner the sources of a layout need."""

from __future__ import annotations

from dataclasses import dataclass

from coalesce.content import bzip2_streams, zstd_frames
from coalesce.content.bzip2_streams import Bzip2Compressor, Bzip2Streams
from coalesce.content.deflater import Compressor, Deflater, TakesText
from coalesce.content.form import Form
from coalesce.content.header import Header, HeaderCut
from coalesce.content.joiner import AsIs, Joiner
from coalesce.content.lines import Lines
from coalesce.content.members import GZIP, Members
from coalesce.content.text import SingleMember, Text
from coalesce.content.zstd_frames import ZstdCompressor, ZstdFrames
from coalesce.model import Codec, Records
from coalesce.naming.layouts import Layout, codec_of

_FORMS: dict[Codec, Form] = {
    Codec.GZIP: GZIP,
    Codec.ZSTD: ZstdFrames(),
    Codec.BZIP2: Bzip2Streams(),
}
_COMPRESSORS: dict[Codec, type[Compressor]] = {
    Codec.GZIP: Deflater,
    Codec.ZSTD: ZstdCompressor,
    Codec.BZIP2: Bzip2Compressor,
}

# What taking one source apart holds besides its body, and what making one member holds. Of gzip it
# is little.
_DECODER_BYTES = {
    Codec.ZSTD: zstd_frames.DECODER_BYTES,
    Codec.BZIP2: bzip2_streams.DECODER_BYTES,
}
_COMPRESSOR_BYTES = {
    Codec.ZSTD: zstd_frames.COMPRESSOR_BYTES,
    Codec.BZIP2: bzip2_streams.COMPRESSOR_BYTES,
}


@dataclass(frozen=True, slots=True)
class ContentRules:
    """What sources are made of, and whether that is checked.

    Attributes:
        codec: How content is stored.
        check: Whether the content is checked while it is joined.
        single: Whether an output of members becomes one member; only what is checked does.
        records: What the content is made of.
    """

    codec: Codec
    check: bool
    single: bool = False
    records: Records = Records.LINES

    @classmethod
    def of_output(cls, layout: Layout, key: str) -> ContentRules:
        """Returns the rules to read an output by: its members are checked as they are."""
        return cls(codec_of(layout, key), check=True, records=layout.records)

    @property
    def form(self) -> Form | None:
        """What members look like; None where there are none."""
        return _FORMS.get(self.codec)

    def deflater(self) -> Compressor | None:
        """Returns what compresses the text of one output; None where its bytes stay as they are."""
        if not (self.single and self.check) or self.codec is Codec.PLAIN:
            return None
        return _COMPRESSORS[self.codec]()

    def header(self) -> Header | None:
        """Returns the header of one output, still to be found; None where there is none."""
        return Header() if self.records is Records.CSV_HEADER else None

    def joiner(
        self, key: str, deflater: TakesText | None = None, header: Header | None = None
    ) -> Joiner:
        """Returns a new joiner for one source; its key is for messages.

        A header is taken out of text alone: members that are passed on keep it.
        """
        if not self.check:
            return AsIs()
        cut = HeaderCut(key, header) if header is not None else None
        if self.codec is Codec.PLAIN:
            return Lines(key, self.records, cut)
        form = _FORMS[self.codec]
        if deflater is None:
            return Members(key, form, self.records)
        return SingleMember(key, deflater, form, self.records, cut)

    def text(self, key: str, header: Header | None = None) -> Text:
        """Returns what takes the text out of one object of members."""
        cut = HeaderCut(key, header) if header is not None else None
        return Text(key, _FORMS[self.codec], self.records, cut)

    @property
    def is_slow(self) -> bool:
        """Whether bodies take so long to check that the event loop must not wait for one."""
        return self.check and self.codec is Codec.BZIP2

    @property
    def empty_output(self) -> bytes:
        """The bytes of an output whose sources hold no text."""
        return self.form.empty if self.form else b""

    def working_bytes(self, *, in_ranges: bool) -> int:
        """Bytes that joining one output holds at the most besides bodies.

        A source that is read whole is taken apart at one go, so that no more decoders are there
        than threads; one that is read in ranges keeps its own until its last.
        """
        if not self.check:
            return 0
        decoder = _DECODER_BYTES.get(self.codec, 0) if in_ranges else 0
        return decoder + (_COMPRESSOR_BYTES.get(self.codec, 0) if self.single else 0)
