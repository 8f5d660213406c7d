"""S3's limits, each beside the page of its documentation that states it."""

from __future__ import annotations

# S3 "Multipart upload overview", quotas.
MIN_PART_BYTES = 5 * 1024**2


MAX_PART_BYTES = 5 * 1024**3


MAX_PARTS = 10_000


MAX_OBJECT_BYTES = 50 * 10**12


# S3 refuses to read these without a restore (GetObject, InvalidObjectState).
ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})


# S3 DeleteObjects takes 1,000 keys; each counts as one write against the request rate, so pages are
# kept smaller (as Hadoop's S3A does).
DELETE_PAGE = 250
