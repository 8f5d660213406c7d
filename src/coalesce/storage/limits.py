"""S3's limits, each with the page of Amazon's documentation that states it."""

from __future__ import annotations

# User guide, "Amazon S3 multipart upload limits".
MIN_PART_BYTES = 5 * 1024**2  # of every part but the last
MAX_PART_BYTES = 5 * 1024**3
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 50 * 10**12

# API reference, "ListObjectsV2", max-keys: keys and common prefixes on one page.
LIST_PAGE = 1000

# A page may be empty and lead on all the same, such as over deleted versions. No bucket is known to
# give even a few such pages in a row; with this many, a listing is taken to have no end.
MAX_IDLE_PAGES = 1000

# API reference, "DeleteObjects": at most 1,000 keys. Each counts as one write against the request
# rate (user guide, "Best practices design patterns: optimizing Amazon S3 performance"), so pages
# are smaller, as in Hadoop's S3A.
DELETE_PAGE = 250

# API reference, "GetObject", InvalidObjectState: classes that are not readable without a restore.
ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
