"""What requests cost, at list price."""

from __future__ import annotations

from collections import Counter

# S3 Standard, us-east-1: per request. DELETE is free.
_WRITE_USD = 0.005 / 1000
_READ_USD = 0.0004 / 1000

_READS = frozenset({"GetObject", "HeadObject", "GetObjectTagging"})
_WRITES = frozenset(
    {
        "PutObject",
        "CopyObject",
        "ListObjectsV2",
        "CreateMultipartUpload",
        "UploadPart",
        "UploadPartCopy",
        "CompleteMultipartUpload",
        "ListMultipartUploads",
    }
)


def cost(requests: Counter[str]) -> float:
    """US dollars for these requests, by S3 operation, at S3 Standard's list price."""
    writes = sum(count for name, count in requests.items() if name in _WRITES)
    reads = sum(count for name, count in requests.items() if name in _READS)
    return round(writes * _WRITE_USD + reads * _READ_USD, 6)
