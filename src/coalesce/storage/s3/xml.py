"""The XML that S3 speaks, as far as our own connections need it.

Pages of a listing, bulk deletes, multipart uploads, and errors (S3 API reference, "ListObjectsV2",
"DeleteObjects", "CompleteMultipartUpload" and "Error responses").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from coalesce.errors import ListingError, Unavailable
from coalesce.model import ObjectInfo, UploadedPart
from coalesce.storage.base import Deleted, DeleteResult, Page
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3.failure import failure_of, subject

Events = Iterable[tuple[str, ElementTree.Element]]

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
# parsers turn every line end into a newline unless it is escaped
_LINE_ENDS = {"\r": "&#13;", "\n": "&#10;"}
_RESULTS = {
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "UploadPartCopy": "CopyPartResult",
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
}
_BY_CODE = {"PreconditionFailed": Deleted.CHANGED, "NoSuchKey": Deleted.ABSENT}


class ErrorBody(NamedTuple):
    """What S3 says in the body of an error; empty strings for what it does not say."""

    code: str = ""
    message: str = ""
    request_id: str = ""


def parse_error(data: bytes) -> ErrorBody:
    """The error in the body of an answer, in any namespace or none.

    Of half a document whatever came before the cut; nothing of what is no XML at all.
    """
    parser: ElementTree.XMLPullParser[Any] = ElementTree.XMLPullParser(("end",))
    texts: dict[str, str] = {}
    try:
        parser.feed(data.decode("utf-8-sig", errors="replace").lstrip())
        for _, element in cast(Events, parser.read_events()):
            texts.setdefault(_local(element.tag), element.text or "")
    except ElementTree.ParseError:
        pass
    return ErrorBody(texts.get("Code", ""), texts.get("Message", ""), texts.get("RequestId", ""))


def parse_page(data: bytes, prefix: str, date: float) -> Page:
    """One page of the listing of `prefix`; `date` is the store's clock, in seconds since the epoch.

    Raises Unavailable for what is no such page, ListingError for one that cannot be read or does
    not say how to go on.
    """
    root = _root(data, "ListBucketResult", "ListObjectsV2", prefix)
    fields = _fields(root)
    decode = unquote_plus if fields.get("EncodingType") == "url" else str
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    names = _names(root.tag)
    for element in root:
        name = _local(element.tag)
        if name == "Contents":
            objects.append(_object(element, names, prefix, decode))
        elif name == "CommonPrefixes":
            prefixes.append(decode(_prefix(element, prefix)))
    truncated, token = fields.get("IsTruncated"), fields.get("NextContinuationToken")
    if truncated not in ("true", "false") or (truncated == "true" and not token):
        raise ListingError(
            f"the listing of {prefix!r} does not say how it goes on: "
            "IsTruncated or NextContinuationToken is missing",
            key=prefix,
            operation="ListObjectsV2",
        )
    return Page(tuple(objects), tuple(prefixes), token if truncated == "true" else None, date)


def delete_request(targets: Iterable[tuple[str, str]]) -> bytes:
    """The body of a verbose DeleteObjects for (key, ETag) pairs; an empty ETag is no condition."""
    entries = "".join(_target(key, etag) for key, etag in targets)
    return f'<Delete xmlns="{_NAMESPACE}">{entries}<Quiet>false</Quiet></Delete>'.encode()


def _target(key: str, etag: str) -> str:
    condition = f"<ETag>{escape(etag)}</ETag>" if etag else ""
    return f"<Object><Key>{escape(key, _LINE_ENDS)}</Key>{condition}</Object>"


def parse_delete_result(data: bytes, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
    """What became of every target, in their order; one that the answer does not mention is REFUSED.

    Raises Unavailable for what is no such answer.
    """
    results: dict[str, DeleteResult] = {}
    for element in _root(data, "DeleteResult", "DeleteObjects", targets[0][0]):
        entry = _fields(element)
        key, code = entry.get("Key", ""), entry.get("Code", "")
        if _local(element.tag) == "Deleted":
            results.setdefault(key, DeleteResult(key, Deleted.DONE))
        elif _local(element.tag) == "Error":
            results[key] = DeleteResult(
                key, _BY_CODE.get(code, Deleted.REFUSED), code, entry.get("Message", "")
            )
    return [
        results.get(
            key,
            DeleteResult(
                key, Deleted.REFUSED, "NotMentioned", "the answer does not mention this key"
            ),
        )
        for key, _ in targets
    ]


def complete_request(parts: Iterable[UploadedPart], checksum: Checksum) -> bytes:
    """The body of a Complete.

    It has the checksums of the parts too: versitygw and MinIO refuse a Complete with one of the
    full object without them.
    """
    entries = "".join(_part(part, checksum) for part in parts)
    return (
        f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{entries}</CompleteMultipartUpload>'
    ).encode()


def _part(part: UploadedPart, checksum: Checksum) -> str:
    name = f"Checksum{checksum.value}"
    own = f"<{name}>{escape(part.checksum)}</{name}>" if part.checksum else ""
    number = f"<PartNumber>{part.number}</PartNumber>"
    return f"<Part>{number}<ETag>{escape(part.etag)}</ETag>{own}</Part>"


def parse_result(data: bytes, operation: str, key: str) -> dict[str, str]:
    """The fields of an answer whose root is named after its operation.

    Raises Unavailable for what is no such answer; what an error under a 200 means.
    """
    return _fields(_root(data, _RESULTS[operation], operation, key))


def parse_tags(data: bytes, key: str) -> dict[str, str]:
    """The tags of an object. Raises Unavailable for what is no answer that has them."""
    root = _root(data, "Tagging", "GetObjectTagging", key)
    tags = (element for child in root for element in child)
    return {fields.get("Key", ""): fields.get("Value", "") for fields in map(_fields, tags)}


def _object(
    element: ElementTree.Element, names: Sequence[str], prefix: str, decode: Callable[[str], str]
) -> ObjectInfo:
    """One entry of a listing; `names` are those of its fields with the namespace."""
    key_name, size_name, etag_name, modified_name, class_name = names
    entry = {child.tag: child.text or "" for child in element}
    try:
        size, etag = int(entry[size_name]), entry[etag_name]
        if not etag or size < 0:
            raise ValueError("an empty ETag or a negative size")
        return ObjectInfo(
            decode(entry[key_name]),
            size,
            etag,
            _epoch(entry[modified_name]),
            entry.get(class_name) or "STANDARD",
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise ListingError(
            f"the listing of {prefix!r} has an unreadable entry: {error!r}",
            key=prefix,
            operation="ListObjectsV2",
        ) from error


def _prefix(element: ElementTree.Element, prefix: str) -> str:
    try:
        return _fields(element)["Prefix"]
    except KeyError as error:
        raise ListingError(
            f"the listing of {prefix!r} has a common prefix without a name",
            key=prefix,
            operation="ListObjectsV2",
        ) from error


def _root(data: bytes, expected: str, operation: str, where: str) -> ElementTree.Element:
    """The root of an answer under a 200.

    It may be an error all the same, or half a document (S3 API reference, "ListObjectsV2"): then
    nothing is known.
    """
    details = {"key": where, "operation": operation}
    try:
        root = ElementTree.fromstring(data.lstrip())
    except ElementTree.ParseError as error:
        raise Unavailable(
            f"{subject(operation, where)}: the answer is not complete XML: {error}", **details
        ) from error
    name = _local(root.tag)
    if name == "Error":
        raise failure_of(operation, where, status=200, **parse_error(data)._asdict())
    if name != expected:
        raise Unavailable(
            f"{subject(operation, where)}: the answer is a {name}, not a {expected}", **details
        )
    return root


def _names(root: str) -> list[str]:
    """The fields of an entry, in the namespace of the page's root."""
    namespace = root.removesuffix(_local(root))
    return [
        f"{namespace}{field}" for field in ("Key", "Size", "ETag", "LastModified", "StorageClass")
    ]


@lru_cache(256)
def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _fields(element: ElementTree.Element) -> dict[str, str]:
    return {_local(child.tag): child.text or "" for child in element}


@lru_cache(4096)
def _epoch(text: str) -> float:
    """Seconds since the epoch; cached, as many small objects are of the same second."""
    return datetime.fromisoformat(text).timestamp()
