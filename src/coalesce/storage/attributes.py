"""What an object says of itself besides its bytes, and S3's rules for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

METADATA = "x-amz-meta-"
SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
SSE_BUCKET_KEY = "x-amz-server-side-encryption-bucket-key-enabled"

# API reference, "CreateMultipartUpload": headers that a GET gives back as they were set.
_HEADERS = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
        SSE,
        SSE_KEY,
        SSE_BUCKET_KEY,
    }
)
# API reference, "CreateMultipartUpload".
StorageClass = Literal[
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "GLACIER_IR",
    "SNOW",
    "EXPRESS_ONEZONE",
]
Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]

_OWN = f"{METADATA}coalesce-"
_LENGTH = len(METADATA)

# User guide, "Working with object metadata": names and values of user metadata, in UTF-8.
MAX_METADATA_BYTES = 2048
_RESERVED_BYTES = 256  # for this program's own

# User guide, "Categorizing your objects using tags".
MAX_TAGS = 10
_MAX_TAG_KEY, _MAX_TAG_VALUE = 128, 256
RESERVED_TAG = "aws:"

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, 5.6.2


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a new object is to say of itself.

    `headers` have lower-case names and include the user metadata. An empty `storage_class` is the
    bucket's default.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = ""


NO_ATTRIBUTES = Attributes()


def attributes_in(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that say what its object is, in the order of the answer.

    Left out are this program's own metadata, and `aws-chunked` among the content encodings: that
    is how a client sent the object, which some clients store by mistake.
    """
    found = {name: headers[name] for name in _describing(tuple(headers))}
    if "content-encoding" in found and "aws-chunked" in found["content-encoding"]:
        codings = [coding.strip() for coding in found["content-encoding"].split(",")]
        found["content-encoding"] = ", ".join(c for c in codings if c != "aws-chunked")
        if not found["content-encoding"]:
            del found["content-encoding"]
    return found


@lru_cache(256)
def _describing(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of headers that say what an object is; cached, as most answers have the same."""
    return tuple(
        name
        for name in names
        if name in _HEADERS or (name.startswith(METADATA) and not name.startswith(_OWN))
    )


def metadata_bytes(headers: Mapping[str, str]) -> int:
    """How many bytes the user metadata among these headers count for."""
    return sum(
        len(name) - _LENGTH + len(value.encode("latin-1", "replace"))
        for name, value in headers.items()
        if name.startswith(METADATA)
    )


def parse_pairs(text: str) -> dict[str, str]:
    """The pairs of `K=V,K=V`. Raises ValueError for what is none, and for a name given twice."""
    pairs: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError("write K=V,K=V, or source, or none")
        if name.strip() in pairs:
            raise ValueError(f"{name.strip()} is given twice")
        pairs[name.strip()] = value.strip()
    return pairs


def parse_metadata(text: str) -> dict[str, str]:
    """User metadata from `K=V,K=V`, with names in lower case. Raises ValueError."""
    pairs: dict[str, str] = {}
    for given, value in parse_pairs(text).items():
        name = given.lower()
        if name in pairs:
            raise ValueError(f"{name} is given twice; S3 knows names in lower case only")
        pairs[name] = value
    for name, value in pairs.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if f"{METADATA}{name}".startswith(_OWN):
            raise ValueError("names that begin with coalesce- are this program's own")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name} is not printable ASCII")
    size = sum(len(name) + len(value) for name, value in pairs.items())
    if size > MAX_METADATA_BYTES - _RESERVED_BYTES:
        most = MAX_METADATA_BYTES - _RESERVED_BYTES
        raise ValueError(f"has {size:,} bytes in names and values; at most {most:,} are possible")
    return pairs


def parse_tags(text: str) -> dict[str, str]:
    """Tags from `K=V,K=V`. Raises ValueError."""
    pairs = parse_pairs(text)
    check_tags(pairs)
    return pairs


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises ValueError for tags that no object may have."""
    if len(tags) > MAX_TAGS:
        raise ValueError(f"an object has at most {MAX_TAGS} tags, these are {len(tags)}")
    for key, value in tags.items():
        if len(key) > _MAX_TAG_KEY or len(value) > _MAX_TAG_VALUE:
            raise ValueError(
                f"a tag has at most {_MAX_TAG_KEY} characters in its key and {_MAX_TAG_VALUE} in "
                "its value"
            )
        if key.lower().startswith(RESERVED_TAG):
            raise ValueError(f"tags whose keys begin with {RESERVED_TAG} are Amazon's own")
