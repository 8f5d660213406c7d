"""Objects of every codec: how they are named, made and read, by code that shares nothing with the
program.
"""

import bz2
import gzip
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coalesce.model import Codec, Records
from coalesce.naming.layout_data import Kind, LayoutData, Offsets
from coalesce.naming.layouts import LAYOUTS, Layout
from coalesce.naming.own_layouts import known_layouts
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
        self.ending = f".log{ENDINGS[codec]}"
        field = r"(?P<topic>[\w.-]+)_(?P<partition>\d+)_(?P<first>\d+)-(?P<last>\d+)"
        super().__init__(
            LayoutData(
                name=f"logs-{codec}-{records}",
                source=rf"(?P<dir>(?:.*/)?){field}{re.escape(self.ending)}",
                group=("dir", "topic", "partition"),
                order=(("first", Kind.NUMBER), ("last", Kind.NUMBER)),
                output=f"{{dir}}{{topic}}_{{partition}}_{{first.first}}_{{max.last}}{self.ending}",
                example=f"<topic>_<partition>_<first>-<last>{self.ending}",
                output_example=f"<topic>_<partition>_<first>_<last>{self.ending}",
                samples=(f"dir/t_0_0-9{self.ending}", f"dir/t_0_10-19{self.ending}"),
                codecs=(codec,),
                records=records,
                offsets=Offsets.RANGE,
                comparable_offsets=True,
                underscored=True,
            )
        )


@contextmanager
def known(layout: Logs) -> Iterator[Logs]:
    """For the length of a block the program knows this layout."""
    LAYOUTS[layout.name] = layout
    known_layouts.cache_clear()
    try:
        yield layout
    finally:
        del LAYOUTS[layout.name]
        known_layouts.cache_clear()


def settings_for(layout: Logs, **more: object) -> Settings:
    return settings(**more).model_copy(update={"layout": layout.name})
