"""The XML that S3 speaks, as far as the hot path needs it: pages of a listing, and bulk deletes (S3 API reference, ListObjectsV2 and DeleteObjects)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from coalesce.errors import ListingError, Unavailable
from coalesce.model import ObjectInfo
from coalesce.storage.base import Deleted, DeleteResult, Page
from coalesce.storage.s3.failure import failure_of

_ENDS = {"\r": "&#13;", "\n": "&#10;"}  # parsers make one newline of all line ends that stand there as they are
_REFUSALS = {"PreconditionFailed": Deleted.CHANGED, "NoSuchKey": Deleted.ABSENT}


def parse_page(data: bytes, prefix: str, date: float) -> Page:
    """One page of the listing of `prefix`. Raises Unavailable for what is no such page, ListingError for one that says that more follows but not how."""
    root = _root(data, "ListBucketResult", "ListObjectsV2", prefix)
    objects: list[ObjectInfo] = []
    prefixes: list[str] = []
    said: dict[str, str] = {}
    for element in root:
        match _name(element):
            case "Contents":
                objects.append(_object(element, prefix))
            case "CommonPrefixes":
                prefixes.append(_prefix(element, prefix))
            case name:
                said[name] = element.text or ""
    truncated, token = said.get("IsTruncated"), said.get("NextContinuationToken")
    if truncated not in ("true", "false") or (truncated == "true" and not token):
        raise ListingError(f"listing of {prefix!r} does not say whether more follows, or not how", key=prefix, operation="ListObjectsV2")
    if said.get("EncodingType") == "url":
        objects = [ObjectInfo(unquote_plus(o.key), o.size, o.etag, o.modified, o.storage_class) for o in objects]
        prefixes = [unquote_plus(name) for name in prefixes]
    return Page(tuple(objects), tuple(prefixes), token if truncated == "true" else None, date)


def delete_request(targets: Iterable[tuple[str, str]]) -> bytes:
    """The body of a verbose DeleteObjects for (key, ETag) pairs; an empty ETag is no condition."""
    entries = "".join(f"<Object><Key>{escape(key, _ENDS)}</Key>{f'<ETag>{escape(etag)}</ETag>' if etag else ''}</Object>" for key, etag in targets)
    return f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entries}<Quiet>false</Quiet></Delete>'.encode()


def parse_deleted(data: bytes, targets: Sequence[tuple[str, str]]) -> list[DeleteResult]:
    """What became of every target, in their order; one that the answer does not mention is REFUSED. Raises Unavailable for what is no such answer."""
    results: dict[str, DeleteResult] = {}
    for element in _root(data, "DeleteResult", "DeleteObjects", targets[0][0]):
        entry = _fields(element)
        key, code = entry.get("Key", ""), entry.get("Code", "")
        if _name(element) == "Deleted":
            results.setdefault(key, DeleteResult(key, Deleted.DONE))
        elif _name(element) == "Error":
            results[key] = DeleteResult(key, _REFUSALS.get(code, Deleted.REFUSED), code, entry.get("Message", ""))
    return [results.get(key, DeleteResult(key, Deleted.REFUSED, "NotMentioned", "the answer does not mention this key")) for key, _ in targets]


def _object(element: ElementTree.Element, prefix: str) -> ObjectInfo:
    entry = _fields(element)
    try:
        modified = datetime.fromisoformat(entry["LastModified"]).timestamp()
        if not entry["ETag"] or int(entry["Size"]) < 0:
            raise ValueError("an empty ETag, or less than nothing")
        return ObjectInfo(entry["Key"], int(entry["Size"]), entry["ETag"], modified, entry.get("StorageClass") or "STANDARD")
    except (KeyError, ValueError, OverflowError) as error:
        raise ListingError(f"listing of {prefix!r} has an entry that cannot be read: {error!r}", key=prefix, operation="ListObjectsV2") from error


def _prefix(element: ElementTree.Element, prefix: str) -> str:
    try:
        return _fields(element)["Prefix"]
    except KeyError as error:
        raise ListingError(f"listing of {prefix!r} has a common prefix without a name", key=prefix, operation="ListObjectsV2") from error


def _root(data: bytes, expected: str, operation: str, where: str) -> ElementTree.Element:
    """A 200 may carry an error, or half a document (S3 API reference, ListObjectsV2): then nothing is known."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise Unavailable(f"{operation} {where!r}: the answer is not whole XML: {error}", key=where, operation=operation) from error
    if _name(root) == "Error":
        said = _fields(root)
        raise failure_of(operation, where, status=200, code=said.get("Code", ""), said=said.get("Message", ""), request_id=said.get("RequestId", ""))
    if _name(root) != expected:
        raise Unavailable(f"{operation} {where!r}: the answer is a {_name(root)}", key=where, operation=operation)
    return root


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fields(element: ElementTree.Element) -> dict[str, str]:
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}
