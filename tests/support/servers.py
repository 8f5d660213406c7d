"""The servers that tests run against: credentials, bucket names, and what a server can do."""

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

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


@contextmanager
def moto_server() -> Iterator[str]:
    """Moto, in this process. It answers a Complete of an upload that was aborted with a 500, of
    which nothing can be known; S3's answer is put in its place.
    """
    from moto.s3.exceptions import NoSuchUpload
    from moto.s3.models import S3Backend
    from moto.server import ThreadedMotoServer

    complete = S3Backend.complete_multipart_upload

    def complete_or_refuse(backend: S3Backend, bucket: str, upload_id: str, body: Any) -> Any:
        if upload_id not in backend.get_bucket(bucket).multiparts:
            raise NoSuchUpload(upload_id=upload_id)
        return complete(backend, bucket, upload_id, body)

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(S3Backend, "complete_multipart_upload", complete_or_refuse)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


async def lists_uploads(store: ObjectStore) -> bool:
    """Whether ListMultipartUploads finds uploads by the beginning of their keys.

    MinIO knows whole keys only: there no run can sweep what no record names.
    """
    created = await store.create_upload("uploads/one", checksum=Checksum.NONE, metadata={})
    found = await store.list_uploads("uploads/")
    await store.abort_upload("uploads/one", created.upload_id)
    return bool(found)
