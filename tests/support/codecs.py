"""Objects of every codec: how they are named, made and read, by code that shares nothing with the
program.
"""

import bz2
import gzip
import re
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager

from coalesce.model import Codec, GroupId, Records, Source
from coalesce.naming.layouts import LAYOUTS, Layout, ParsedKey
from coalesce.settings import Settings
from support.settings import settings

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENDINGS = {Codec.GZIP: ".gz", Codec.PLAIN: "", Codec.ZSTD: ".zst", Codec.BZIP2: ".bz2"}

MAKE: dict[Codec, Callable[[bytes], bytes]] = {
    Codec.GZIP: lambda text: gzip.compress(text, mtime=0),
    Codec.PLAIN: lambda text: text,
    Codec.ZSTD: zstd.compress,
    Codec.BZIP2: bz2.compress,
}
READ: dict[Codec, Callable[[bytes], bytes]] = {
    Codec.GZIP: gzip.decompress,
    Codec.PLAIN: lambda data: data,
    Codec.ZSTD: zstd.decompress,
    Codec.BZIP2: bz2.decompress,
}
# What reads one member of several, and knows where it ends.
_DECODERS: dict[Codec, Callable[[], object]] = {
    Codec.ZSTD: zstd.ZstdDecompressor,
    Codec.BZIP2: bz2.BZ2Decompressor,
}


def summed(text: bytes) -> bytes:
    """A zstd frame with a checksum of its content."""
    return zstd.compress(text, options={zstd.CompressionParameter.checksum_flag: 1})


def members_in(codec: Codec, data: bytes) -> int:
    """How many members stand one behind the other, and nothing behind the last."""
    count = 0
    while data:
        decoder = _DECODERS[codec]()
        decoder.decompress(data)  # type: ignore[attr-defined]
        assert decoder.eof  # type: ignore[attr-defined]
        data, count = decoder.unused_data, count + 1  # type: ignore[attr-defined]
    return count


class Logs(Layout):
    """`<dir>/<topic>_<partition>_<first>-<last>.log` and what its codec adds; in outputs `_`."""

    def __init__(self, codec: Codec, records: Records = Records.LINES) -> None:
        self.name = f"logs-{codec}-{records}"
        self.ending = f".log{ENDINGS[codec]}"
        self.example = f"<topic>_<partition>_<first>-<last>{self.ending}"
        self.output_example = f"<topic>_<partition>_<first>_<last>{self.ending}"
        self.codecs = (codec,)
        self.records = records
        self.comparable_offsets = True
        self._pattern = re.compile(
            rf"((?:.*/)?)([\w.-]+)_(\d+)_(\d+)([-_])(\d+){re.escape(self.ending)}", re.ASCII
        )

    def parse(self, key: str) -> ParsedKey | None:
        match = self._pattern.fullmatch(key)
        if match is None:
            return None
        directory, topic, partition, first, separator, last = match.groups()
        group = GroupId(directory, topic, int(partition))
        kind = "source" if separator == "-" else "output"
        return ParsedKey(kind, group, int(first), int(last))

    def codec(self, group: GroupId) -> Codec:
        return self.codecs[0]

    def output_key(self, group: GroupId, sources: Sequence[Source], taken: Container[str]) -> str:
        last = str(max(source.last for source in sources))
        while (key := f"{group.prefix}{sources[0].first}_{last}{self.ending}") in taken:
            last = f"0{last}"
        return key


@contextmanager
def known(layout: Logs) -> Iterator[Logs]:
    """For the length of a block the program knows this layout."""
    LAYOUTS[layout.name] = layout
    try:
        yield layout
    finally:
        del LAYOUTS[layout.name]


def settings_for(layout: Logs, **more: object) -> Settings:
    return settings(**more).model_copy(update={"layout": layout.name})
