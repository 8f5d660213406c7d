"""A bucket in memory, as strict as S3 where the commit protocol leans on S3.

For tests, which also make it fail, freeze or forget a guarantee.
"""

from coalesce.storage.memory.bucket import MemoryBucket
from coalesce.storage.memory.objects import StoredObject
from coalesce.storage.memory.store import MemoryStore, Request

__all__ = ["MemoryBucket", "MemoryStore", "Request", "StoredObject"]
