"""What a layout says, as data: presets and users' own layouts are the same thing."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from coalesce.model import Codec, Records


class Kind(enum.StrEnum):
    """How the texts of a field are ordered."""

    NUMBER = "number"
    TIME = "time"  # by its digits, from the year down
    TEXT = "text"


class Offsets(enum.StrEnum):
    """What names say of the offsets of a source."""

    RANGE = "range"  # the first and the last
    START = "start"  # the first
    NONE = "none"


@dataclass(frozen=True, slots=True)
class LayoutData:
    """How sources and outputs of one kind of data are named, and what they hold.

    Attributes:
        name: As in `--layout`.
        source: A regular expression over the whole key of a source. It begins with the group `dir`;
            every field is a named group.
        group: The fields that make the group, `dir` among them.
        order: One or two fields that order the sources of a group; ties are ordered by key.
        output: The key of an output: text, and `{field}` for a field of the group, `{first.field}`,
            `{last.field}` and `{max.field}` for one of its first and last source, and the largest.
        example: What a source is called, in words.
        output_example: What an output is called, in words.
        samples: Keys of sources, as the program that names them so writes them.
        codecs: How objects may be stored; of several, the ending of a name tells which.
        records: What the content is made of.
        offsets: What the order fields are.
        comparable_offsets: Whether all offsets of a group count the same records: then a source
            that lies inside an existing output is in it already.
        topic: Where a topic stands in the directory, if it stands in no field.
        tail: The field that is kept of a source besides its order.
        once: What occurs exactly once in a name that can be read in one way only.
        whole: Directories that hold whole groups, with all directories below them.
        underscored: Whether groups are called `<topic>_<partition>_`: then a listing is split, and
            groups are shared out, inside a directory too.
        own: Whether it is a user's.
        described: Where the names are described by those who write them.
    """

    name: str
    source: str
    group: tuple[str, ...]
    order: tuple[tuple[str, Kind], ...]
    output: str
    example: str
    output_example: str
    samples: tuple[str, ...]
    codecs: tuple[Codec, ...]
    records: Records = Records.LINES
    offsets: Offsets = Offsets.NONE
    comparable_offsets: bool = False
    topic: str = ""
    tail: str = ""
    once: str = ""
    whole: str = ""
    underscored: bool = False
    own: bool = False
    described: str = ""
