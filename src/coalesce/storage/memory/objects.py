"""What lies in a bucket: objects, and uploads that are to become some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from coalesce import errors
from coalesce.storage.attributes import (
    MAX_METADATA_BYTES,
    METADATA,
    SSE,
    SSE_KEY,
    Attributes,
    Encryption,
    StorageClass,
    attributes_in,
    check_tags,
    metadata_bytes,
)
from coalesce.storage.checksums import Checksum

DEFAULT_TYPE = "binary/octet-stream"  # of what is stored without a content type


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as it lies in the bucket; `headers` are those that say what it is, besides its
    content type and its metadata.
    """

    data: bytes
    etag: str
    modified: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = DEFAULT_TYPE
    checksum: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = "STANDARD"
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, str]:
        """The headers of an answer that say what the object is."""
        metadata = {f"{METADATA}{name}": value for name, value in self.metadata.items()}
        return attributes_in({"content-type": self.content_type, **self.headers, **metadata})


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of an upload; `checksum` is base64 in the upload's algorithm."""

    data: bytes
    etag: str
    checksum: str


@dataclass(slots=True)
class Upload:
    """An open multipart upload; `began` is the bucket's count of changes at its creation."""

    key: str
    checksum: Checksum
    metadata: Mapping[str, str]
    attributes: Attributes
    began: int
    initiated: float
    parts: dict[int, StoredPart] = field(default_factory=dict)

    def become(
        self, data: bytes, etag: str, checksum: Mapping[str, str], now: float
    ) -> StoredObject:
        """The object that the upload is completed to."""
        headers, metadata = dict(self.attributes.headers), dict(self.metadata)
        for name in self.attributes.headers:
            if name.startswith(METADATA):
                metadata.setdefault(name.removeprefix(METADATA), headers.pop(name))
        return StoredObject(
            data,
            etag,
            now,
            metadata,
            headers.pop("content-type", DEFAULT_TYPE),
            checksum,
            self.attributes.storage_class or "STANDARD",
            headers,
            self.attributes.tags,
        )


def check_attributes(key: str, metadata: Mapping[str, str], attributes: Attributes) -> None:
    """Raises BadRequest for what no object can have."""
    headers = attributes.headers
    own = sum(len(name) + len(value) for name, value in metadata.items())
    problem = ""
    try:
        check_tags(attributes.tags)
    except ValueError:
        problem = "InvalidTag"
    if metadata_bytes(headers) + own > MAX_METADATA_BYTES:
        problem = "MetadataTooLarge"
    if attributes.storage_class not in ("", *get_args(StorageClass)):
        problem = "InvalidStorageClass"
    if headers.get(SSE, "AES256") not in get_args(Encryption):
        problem = "InvalidEncryptionAlgorithmError"
    if SSE_KEY in headers and not headers.get(SSE, "").startswith("aws:kms"):
        problem = "InvalidArgument"
    if headers.keys() != attributes_in(headers).keys():
        problem = "InvalidArgument"
    if problem:
        raise errors.BadRequest(f"{key}: {problem}", key=key, code=problem)
