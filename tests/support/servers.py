"""The servers that tests run against: credentials, bucket names, and what a server can do."""

import os
import re
import zlib

from coalesce.storage.base import ObjectStore
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3 import S3Options

KEYS = {
    "access_key": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
    "secret_key": os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
}


# The guarantees that the server under test lacks, by the modes that a run on it must be given.
ACCEPTED = os.environ.get("COALESCE_ACCEPT_WEAKER", "").split()


def bucket_of(name: str) -> str:
    """A bucket name of its own for each test."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return f"{words}-{zlib.crc32(name.encode()):08x}"


def options_of(url: str, bucket: str) -> S3Options:
    """The way to a bucket of a server on loopback."""
    return S3Options(bucket, endpoint_url=url, region="us-east-1", addressing="path", **KEYS)


async def lists_uploads(store: ObjectStore) -> bool:
    """Whether ListMultipartUploads finds uploads by the beginning of their keys.

    MinIO knows whole keys only: there no run can sweep what no record names.
    """
    created = await store.create_upload("uploads/one", checksum=Checksum.NONE, metadata={})
    found = await store.list_uploads("uploads/")
    await store.abort_upload("uploads/one", created.upload_id)
    return bool(found)
