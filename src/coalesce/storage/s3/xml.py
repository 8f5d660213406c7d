"""The XML that S3 speaks, as far as the hot path needs it: pages of a listing, and bulk deletes (S3
API reference, ListObjectsV2 and DeleteObjects).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from coalesce.errors import ListingError, Unavailable
from coalesce.model import ObjectInfo
from coalesce.storage.base import Deleted, DeleteResult, Page
from coalesce.storage.s3.failure import failure_of

# parsers make one newline of all line ends that stand there as they are
_ENDS = {"\r": "&#13;", "\n": "&#10;"}
_REFUSALS = {"PreconditionFailed": Deleted.CHANGED, "NoSuchKey": Deleted.ABSENT}


def parse_page(data: bytes, prefix: str, date: float) -> Page:
    """One page of the listing of `prefix`.

    Raises Unavailable for what is no such page, ListingError for one that says that more follows
    but not how.
    """
    root = _root(data, "ListBucketResult", "ListObjectsV2", prefix)
    said = _fields(root)
    written = unquote_plus if said.get("EncodingType") == "url" else str
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    names = _names(root.tag)
    for element in root:
        name = _local(element.tag)
        if name == "Contents":
            objects.append(_object(element, names, prefix, written))
        elif name == "CommonPrefixes":
            prefixes.append(written(_prefix(element, prefix)))
    truncated, token = said.get("IsTruncated"), said.get("NextContinuationToken")
    if truncated not in ("true", "false") or (truncated == "true" and not token):
        raise ListingError(
            f"listing of {prefix!r} does not say whether more follows, or not how",
            key=prefix,
            operation="ListObjectsV2",
        )
    return Page(tuple(objects), tuple(prefixes), token if truncated == "true" else None, date)


def delete_request(targets: Iterable[tuple[str, str]]) -> bytes:
    """The body of a verbose DeleteObjects for (key, ETag) pairs; an empty ETag is no condition."""
    entries = "".join(
        f"<Object><Key>{escape(key, _ENDS)}</Key>{f'<ETag>{escape(etag)}</ETag>' if etag else ''}</Object>"
        for key, etag in targets
    )
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entries}<Quiet>false</Quiet></Delete>'.encode()


def parse_deleted(data: bytes, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
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
                key, _REFUSALS.get(code, Deleted.REFUSED), code, entry.get("Message", "")
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


def _object(
    element: ElementTree.Element, names: Sequence[str], prefix: str, written: Callable[[str], str]
) -> ObjectInfo:
    """`names` are those of its fields, in full."""
    key_name, size_name, etag_name, modified_name, class_name = names
    entry = {child.tag: child.text or "" for child in element}
    try:
        size, etag = int(entry[size_name]), entry[etag_name]
        if not etag or size < 0:
            raise ValueError("an empty ETag, or less than nothing")
        return ObjectInfo(
            written(entry[key_name]),
            size,
            etag,
            _epoch(entry[modified_name]),
            entry.get(class_name) or "STANDARD",
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise ListingError(
            f"listing of {prefix!r} has an entry that cannot be read: {error!r}",
            key=prefix,
            operation="ListObjectsV2",
        ) from error


def _prefix(element: ElementTree.Element, prefix: str) -> str:
    try:
        return _fields(element)["Prefix"]
    except KeyError as error:
        raise ListingError(
            f"listing of {prefix!r} has a common prefix without a name",
            key=prefix,
            operation="ListObjectsV2",
        ) from error


def _root(data: bytes, expected: str, operation: str, where: str) -> ElementTree.Element:
    """A 200 may carry an error, or half a document (S3 API reference, ListObjectsV2): then nothing
    is known.
    """
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise Unavailable(
            f"{operation} {where!r}: the answer is not whole XML: {error}",
            key=where,
            operation=operation,
        ) from error
    if _local(root.tag) == "Error":
        said = _fields(root)
        raise failure_of(
            operation,
            where,
            status=200,
            code=said.get("Code", ""),
            said=said.get("Message", ""),
            request_id=said.get("RequestId", ""),
        )
    if _local(root.tag) != expected:
        raise Unavailable(
            f"{operation} {where!r}: the answer is a {_local(root.tag)}",
            key=where,
            operation=operation,
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
    """Small objects come many in a second, and a store tells their time to the second."""
    return datetime.fromisoformat(text).timestamp()
