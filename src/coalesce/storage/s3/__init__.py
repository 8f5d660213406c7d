"""An S3 bucket as the job's store."""

from coalesce.storage.s3.options import S3Options
from coalesce.storage.s3.store import S3Store, open_s3

__all__ = ["S3Options", "S3Store", "open_s3"]
