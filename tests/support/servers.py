"""The servers that tests run against: credentials, bucket names, and what a server can do."""

import os
import re
import zlib

from coalesce.storage.base import ObjectStore
from coalesce.storage.checksums import Checksum

KEYS = {
    "access_key": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
    "secret_key": os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
}


def bucket_of(name: str) -> str:
    """A bucket name of its own for each test."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return f"{words}-{zlib.crc32(name.encode()):08x}"


async def lists_uploads(store: ObjectStore) -> bool:
    """Whether ListMultipartUploads finds uploads by the beginning of their keys.

    MinIO knows whole keys only: there no run can sweep what no record names.
    """
    upload_id = await store.create_upload("uploads/one", checksum=Checksum.NONE, metadata={})
    found = await store.list_uploads("uploads/")
    await store.abort_upload("uploads/one", upload_id)
    return bool(found)
