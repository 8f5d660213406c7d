"""Inventories as S3 writes them: a manifest, and gzip files of CSV."""

import datetime as dt
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from urllib.parse import quote_plus

from coalesce.storage.memory import MemoryBucket

MANIFEST = "inv/b/daily/2026-11-22T01-00Z/manifest.json"
FIELDS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag", "StorageClass")
VERSIONS = ("VersionId", "IsLatest", "IsDeleteMarker")


def row(key: str, bucket: MemoryBucket, fields: Sequence[str], **more: str) -> str:
    """One object as a line of CSV; `more` says its fields otherwise."""
    stored = bucket.objects[key]
    when = dt.datetime.fromtimestamp(stored.modified, dt.UTC)
    said = {
        "Bucket": "b",
        "Key": quote_plus(key, safe="/"),
        "Size": str(len(stored.data)),
        "LastModifiedDate": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "ETag": stored.etag.strip('"'),
        "StorageClass": stored.storage_class,
        "VersionId": "v",
        "IsLatest": "true",
        "IsDeleteMarker": "false",
    }
    return ",".join(f'"{(said | more)[name]}"' for name in fields)


def store_inventory(
    place: MemoryBucket,
    lines: Iterable[Sequence[str]],
    fields: Sequence[str] = FIELDS,
    **manifest: object,
) -> None:
    """Puts an inventory of these lines, file by file, into a bucket."""
    described = []
    for number, some in enumerate(lines):
        key, body = f"inv/b/daily/data/{number}.csv.gz", gzip.compress("\n".join(some).encode())
        place.store(key, body)
        described.append(
            {"key": key, "size": len(body), "MD5checksum": hashlib.md5(body).hexdigest()}
        )
    said = {
        "sourceBucket": "b",
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "creationTimestamp": "1700000000000",
        "fileFormat": "CSV",
        "fileSchema": ", ".join(fields),
        "files": described,
    }
    place.store(MANIFEST, json.dumps(said | manifest).encode())


def inventory_of(bucket: MemoryBucket, prefix: str = "", files: int = 2) -> MemoryBucket:
    """A bucket that holds an inventory of another one as it is, in no order."""
    lines = [row(key, bucket, FIELDS) for key in bucket.objects if key.startswith(prefix)]
    place = MemoryBucket()
    store_inventory(place, [lines[n::files][::-1] for n in range(files)])
    return place
