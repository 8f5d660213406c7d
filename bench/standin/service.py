"""S3's operations in path style: requests become changes of a bucket, and its state becomes XML."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from bench.standin import sums
from bench.standin.bucket import Bucket, Named, Pieces, Refusal, Stored
from bench.standin.wire import Answer, Request

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_KEPT = re.compile(r"x-amz-meta-.*|content-type|content-encoding|cache-control|content-disposition")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK = re.compile(rb"([0-9a-fA-F]+)(?:;[^\r\n]*)?\r\n")

Query = dict[str, str]


class Service:
    """Buckets by name, and what was asked of them."""

    def __init__(self, buckets: dict[str, Bucket], *, cheap_etags: bool = False) -> None:
        self.buckets = buckets
        self.requests: Counter[str] = Counter()
        self.bytes_in = self.bytes_out = 0
        self._cheap_etags = cheap_etags
        self._second, self._date = 0, b""

    def preamble(self) -> bytes:
        """Header lines of every answer."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            ids = f"x-amz-id-2: {'0' * 76}\r\nx-amz-request-id: {'0' * 16}\r\n"  # as long as S3's
            self._date = (
                f"{ids}Date: {formatdate(now, usegmt=True)}\r\nServer: standin\r\n".encode()
            )
        return self._date

    def answer(self, request: Request) -> Answer:
        """Answers one request, and counts it."""
        path, _, query_text = request.target.partition("?")
        query = dict(parse_qsl(query_text, keep_blank_values=True)) if query_text else {}
        name, _, key = path[1:].partition("/")
        operation = operation_of(request, query, bool(key))
        self.requests[operation] += 1
        self.bytes_in += len(request.body)
        try:
            answer = self._answer(operation, request, query, unquote(name), unquote(key))
        except Refusal as refusal:
            answer = refused(refusal, head=request.method == "HEAD")
        self.bytes_out += answer.size
        return answer

    def _answer(
        self, operation: str, request: Request, query: Query, name: str, key: str
    ) -> Answer:
        if operation == "CreateBucket":
            self.buckets.setdefault(name, Bucket(cheap_etags=self._cheap_etags))
            return empty()
        bucket = self.buckets.get(name)
        if bucket is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist")
        handler = _HANDLERS.get(operation)
        if handler is None:
            raise Refusal(501, "NotImplemented", "this operation is not offered here")
        if request.body and "aws-chunked" in request.headers.get("content-encoding", ""):
            unchunk(request)
        return handler(bucket, key, query, request)


def operation_of(request: Request, query: Query, has_key: bool) -> str:
    """What S3 calls the request, Unknown for what is not offered here."""
    if not has_key:
        if request.method == "GET":
            return (
                "ListMultipartUploads"
                if "uploads" in query
                else "GetBucketLocation"
                if "location" in query
                else "ListObjectsV2"
                if "list-type" in query
                else "ListObjects"
            )
        if request.method == "POST" and "delete" in query:
            return "DeleteObjects"
        return {"HEAD": "HeadBucket", "PUT": "CreateBucket"}.get(request.method, "Unknown")
    if request.method == "PUT" and "x-amz-copy-source" in request.headers:
        return "UploadPartCopy" if "uploadId" in query else "CopyObject"
    if "uploadId" in query:
        return {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
        }.get(request.method, "Unknown")
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "tagging" in query:
        return "GetObjectTagging" if request.method == "GET" else "Unknown"
    return {
        "GET": "GetObject",
        "HEAD": "HeadObject",
        "PUT": "PutObject",
        "DELETE": "DeleteObject",
    }.get(request.method, "Unknown")


def get_object(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """GetObject, whole or one range."""
    stored = bucket.get(key, request.headers.get("if-match", ""))
    wanted = request.headers.get("range")
    if wanted is None:
        return Answer(
            200,
            b"%s%sContent-Length: %d\r\n"
            % (stored.describe(), checksum_line(stored, request), stored.size),
            stored.pieces,
        )
    start, end = range_of(wanted, stored.size)
    lines = b"%sContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n" % (
        stored.describe(),
        start,
        end - 1,
        stored.size,
        end - start,
    )
    return Answer(206, lines, stored.cut(start, end - start))


def head_object(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """HeadObject."""
    stored = bucket.get(key, request.headers.get("if-match", ""))
    return Answer(
        200,
        b"%s%sContent-Length: %d\r\n"
        % (stored.describe(), checksum_line(stored, request), stored.size),
    )


def checksum_line(stored: Stored, request: Request) -> bytes:
    """The stored checksum, if it is asked for."""
    if (
        stored.checksum is None
        or request.headers.get("x-amz-checksum-mode", "").upper() != "ENABLED"
    ):
        return b""
    algorithm, value = stored.checksum
    kind = "COMPOSITE" if "-" in value else "FULL_OBJECT"
    return f"x-amz-checksum-{algorithm}: {value}\r\nx-amz-checksum-type: {kind}\r\n".encode()


def range_of(text: str, size: int) -> tuple[int, int]:
    """Start and end of a Range header's one range."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        raise Refusal(400, "InvalidArgument", "only one range of bytes")
    start = int(match[1]) if match[1] else max(0, size - int(match[2]))
    end = min(int(match[2]) + 1 if match[1] and match[2] else size, size)
    if start >= end:
        raise Refusal(416, "InvalidRange", "The requested range is not satisfiable")
    return start, end


def put_object(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """PutObject; without a checksum of the client's it gets S3's own."""
    algorithm, value = checked(request)
    pieces = (request.body,)
    stored = Stored(
        pieces, len(request.body), sums.etag(pieces), time.time(), kept(request), (algorithm, value)
    )
    bucket.put(
        key,
        stored,
        if_none_match=request.headers.get("if-none-match", ""),
        if_match=request.headers.get("if-match", ""),
    )
    return empty(200, f"ETag: {stored.etag}\r\n")


def checked(request: Request) -> tuple[str, str]:
    """The checksum of the body: the client's, which has to be right, or CRC64NVME."""
    wanted = {
        name: request.headers[header]
        for name in sums.ALGORITHMS
        if (header := f"x-amz-checksum-{name}") in request.headers
    }
    if "content-md5" in request.headers:
        wanted["md5"] = request.headers["content-md5"]
    for name, value in wanted.items():
        if sums.checksum(name, [request.body]) != value:
            raise Refusal(
                400, "BadDigest", f"The {name} you specified did not match the calculated checksum."
            )
    wanted.pop("md5", None)
    return next(iter(wanted.items()), None) or (
        "crc64nvme",
        sums.checksum("crc64nvme", [request.body]),
    )


def kept(request: Request) -> dict[str, str]:
    """The headers that stay with an object."""
    return {"content-type": "binary/octet-stream"} | {
        name: value for name, value in request.headers.items() if _KEPT.fullmatch(name)
    }


def unchunk(request: Request) -> None:
    """Takes a body out of its aws-chunked form, and its trailers into the headers."""
    pieces, at, data = [], 0, memoryview(request.body)
    while match := _CHUNK.match(request.body, at):
        size, at = int(match[1], 16), match.end()
        if size == 0:
            break
        pieces.append(data[at : at + size])
        at += size + 2
    for line in bytes(data[at:]).decode().split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            request.headers[name.lower()] = value.strip()
    request.body = b"".join(pieces)
    if len(request.body) != int(
        request.headers.get("x-amz-decoded-content-length", len(request.body))
    ):
        raise Refusal(400, "IncompleteBody", "The request body terminated unexpectedly")
    encodings = [
        word.strip()
        for word in request.headers.pop("content-encoding").split(",")
        if word.strip() != "aws-chunked"
    ]
    if encodings:
        request.headers["content-encoding"] = ",".join(encodings)


def delete_object(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """DeleteObject, conditional or not."""
    bucket.delete(key, request.headers.get("if-match", ""))
    return Answer(204)


def delete_objects(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """DeleteObjects: up to 1,000 keys, each with its own ETag or none."""
    checked(request)
    root = parsed(request)
    quiet = root.findtext("{*}Quiet") == "true"
    rows = []
    for entry in root.iterfind("{*}Object"):
        name, etag = entry.findtext("{*}Key", ""), entry.findtext("{*}ETag", "")
        try:
            bucket.delete(name, etag and f'"{etag.strip(chr(34))}"')
            if not quiet:
                rows.append(f"<Deleted><Key>{escape(name)}</Key></Deleted>")
        except Refusal as refusal:
            rows.append(
                f"<Error><Key>{escape(name)}</Key><Code>{refusal.code}</Code>"
                f"<Message>{refusal.message}</Message></Error>"
            )
    return xml("DeleteResult", "".join(rows))


def list_objects(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """ListObjectsV2."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = min(int(query.get("max-keys", 1000)), 1000)
    token = query.get("continuation-token", "")
    after = bytes.fromhex(token).decode() if token else query.get("start-after", "")
    write = written(query)
    found, following = bucket.list(prefix, delimiter, after, limit)
    rows = []
    for name, stored in found:
        if stored is None:
            rows.append(f"<CommonPrefixes><Prefix>{write(name)}</Prefix></CommonPrefixes>")
        else:
            sums_kept = (
                f"<ChecksumAlgorithm>{stored.checksum[0].upper()}</ChecksumAlgorithm>"
                if stored.checksum
                else ""
            )
            rows.append(
                f"<Contents><Key>{write(name)}</Key>"
                f"<LastModified>{iso(int(stored.modified))}</LastModified>"
                f"<ETag>&quot;{stored.etag[1:-1]}&quot;</ETag>{sums_kept}"
                f"<Size>{stored.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
    following = (
        f"<NextContinuationToken>{following.encode().hex()}</NextContinuationToken>"
        if following
        else ""
    )
    about = (
        f"<Prefix>{write(prefix)}</Prefix><Delimiter>{write(delimiter)}</Delimiter>"
        f"<KeyCount>{len(found)}</KeyCount><MaxKeys>{limit}</MaxKeys>"
        f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>{following}"
    )
    return xml("ListBucketResult", f"<Name>standin</Name>{about}{encoding(query)}{''.join(rows)}")


def list_uploads(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """ListMultipartUploads."""
    write, prefix, limit = (
        written(query),
        query.get("prefix", ""),
        int(query.get("max-uploads", 1000)),
    )
    marker = (
        query.get("key-marker", ""),
        query.get("upload-id-marker", "") or ("\uffff" if query.get("key-marker") else ""),
    )
    found = [
        (place, upload)
        for place, upload in bucket.uploads.items()
        if place > marker and place[0].startswith(prefix)
    ]
    rows = [
        f"<Upload><Key>{write(name)}</Key><UploadId>{upload_id}</UploadId>"
        f"<Initiated>{iso(int(upload.initiated))}</Initiated></Upload>"
        for (name, upload_id), upload in found[:limit]
    ]
    more = ""
    if len(found) > limit:
        name, upload_id = found[limit - 1][0]
        more = (
            f"<NextKeyMarker>{write(name)}</NextKeyMarker>"
            f"<NextUploadIdMarker>{upload_id}</NextUploadIdMarker>"
        )
    truncated = (
        f"<Prefix>{write(prefix)}</Prefix><MaxUploads>{limit}</MaxUploads>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
    )
    return xml("ListMultipartUploadsResult", f"{truncated}{more}{encoding(query)}{''.join(rows)}")


def create_upload(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """CreateMultipartUpload, without tags and keys of KMS."""
    encryption = request.headers.get("x-amz-server-side-encryption", "AES256")
    if encryption != "AES256" or "x-amz-tagging" in request.headers:
        raise Refusal(501, "NotImplemented", "objects have neither tags nor keys of KMS here")
    algorithm = request.headers.get("x-amz-checksum-algorithm", "CRC64NVME").lower()
    if algorithm not in sums.ALGORITHMS:
        raise Refusal(400, "InvalidRequest", f"there is no checksum {algorithm}")
    kind = request.headers.get(
        "x-amz-checksum-type", "FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE"
    )
    upload_id = bucket.begin(key, algorithm, kind == "COMPOSITE", kept(request))
    return xml(
        "InitiateMultipartUploadResult",
        f"<Bucket>standin</Bucket><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId>",
    )


def get_tags(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """GetObjectTagging: there are none."""
    bucket.get(key)
    return xml("Tagging", "<TagSet></TagSet>")


def upload_part(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """UploadPart, held against whatever checksum it carries."""
    upload = bucket.open(key, query["uploadId"])
    checked_value = request.headers.get(f"x-amz-checksum-{upload.algorithm}", "")
    if not checked_value:
        checked(request)
    part = bucket.add(upload, int(query["partNumber"]), (request.body,), checked_value)
    return empty(
        200, f"ETag: {part.etag}\r\nx-amz-checksum-{upload.algorithm}: {part.checksum}\r\n"
    )


def copy_part(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """UploadPartCopy within the bucket."""
    upload = bucket.open(key, query["uploadId"])
    _, _, source = unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("/")
    stored = bucket.get(source, request.headers.get("x-amz-copy-source-if-match", ""))
    wanted = request.headers.get("x-amz-copy-source-range")
    start, end = range_of(wanted, stored.size) if wanted else (0, stored.size)
    if wanted and end - start != int(wanted.rpartition("-")[2]) + 1 - start:
        raise Refusal(400, "InvalidArgument", "Range specified is not valid for source object")
    pieces: Pieces = stored.cut(start, end - start)
    part = bucket.add(upload, int(query["partNumber"]), pieces)
    name = upload.algorithm.upper()
    body = (
        f"<LastModified>{iso(int(time.time()))}</LastModified><ETag>{part.etag}</ETag>"
        f"<Checksum{name}>{part.checksum}</Checksum{name}>"
    )
    return xml("CopyPartResult", body)


def complete_upload(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """CompleteMultipartUpload."""
    upload = bucket.open(key, query["uploadId"])
    name = f"{{*}}Checksum{upload.algorithm.upper()}"
    named = [
        Named(
            int(p.findtext("{*}PartNumber", "0")), p.findtext("{*}ETag", ""), p.findtext(name, "")
        )
        for p in parsed(request).iterfind("{*}Part")
    ]
    size = request.headers.get("x-amz-mp-object-size")
    stored = bucket.complete(
        key,
        query["uploadId"],
        named,
        value=request.headers.get(f"x-amz-checksum-{upload.algorithm}", ""),
        size=int(size) if size else None,
        if_none_match=request.headers.get("if-none-match", ""),
    )
    return xml(
        "CompleteMultipartUploadResult",
        f"<Bucket>standin</Bucket><Key>{escape(key)}</Key><ETag>{escape(stored.etag)}</ETag>",
    )


def abort_upload(bucket: Bucket, key: str, query: Query, request: Request) -> Answer:
    """AbortMultipartUpload."""
    bucket.abort(key, query["uploadId"])
    return Answer(204)


_HANDLERS: dict[str, Callable[[Bucket, str, Query, Request], Answer]] = {
    "GetObject": get_object,
    "GetObjectTagging": get_tags,
    "HeadObject": head_object,
    "PutObject": put_object,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "ListObjectsV2": list_objects,
    "ListMultipartUploads": list_uploads,
    "CreateMultipartUpload": create_upload,
    "UploadPart": upload_part,
    "UploadPartCopy": copy_part,
    "CompleteMultipartUpload": complete_upload,
    "AbortMultipartUpload": abort_upload,
    "HeadBucket": lambda bucket, key, query, request: empty(),
    "GetBucketLocation": lambda bucket, key, query, request: xml("LocationConstraint", ""),
}


def parsed(request: Request) -> ElementTree.Element:
    """The XML of a request's body."""
    try:
        return ElementTree.fromstring(request.body)
    except ElementTree.ParseError:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed") from None


def written(query: Query) -> Callable[[str], str]:
    """How keys are written into this answer."""
    return quote if query.get("encoding-type") == "url" else escape


def encoding(query: Query) -> str:
    """What the answer says of that."""
    return "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""


@lru_cache
def iso(when: int) -> str:
    """A time as S3's XML has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when))


def xml(root: str, inside: str) -> Answer:
    """An XML document with S3's namespace."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">{inside}</{root}>'
    ).encode()
    return Answer(
        200, b"Content-Type: application/xml\r\nContent-Length: %d\r\n" % len(body), (body,)
    )


def empty(status: int = 200, lines: str = "") -> Answer:
    """An answer without a body."""
    return Answer(status, f"{lines}Content-Length: 0\r\n".encode())


def refused(refusal: Refusal, *, head: bool) -> Answer:
    """An error as S3 tells it."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{refusal.code}</Code>'
        f"<Message>{escape(refusal.message)}</Message></Error>"
    ).encode()
    lines = b"Content-Type: application/xml\r\nContent-Length: %d\r\n" % (0 if head else len(body))
    return Answer(refusal.status, lines, () if head else (body,))
