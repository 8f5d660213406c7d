"""The library over buckets in memory, in the place of S3."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import pytest

from coalesce import Settings, errors
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from coalesce.storage.s3 import S3Options


async def _pass(_: Request) -> None: ...


class OpenedStore(MemoryStore):
    """A store in memory as the library opens it."""

    endpoint = "memory"


@contextmanager
def opening(
    buckets: Mapping[str, MemoryBucket], before: Callable[[Request], Awaitable[None]] = _pass
) -> Iterator[list[S3Options]]:
    """Lets the library meet these buckets for the length of a block; how each was reached."""
    reached: list[S3Options] = []

    @asynccontextmanager
    async def opened(options: S3Options) -> AsyncIterator[OpenedStore]:
        reached.append(options)
        if options.bucket not in buckets:
            raise errors.ConfigurationError(f"no bucket {options.bucket}", code="NoSuchBucket")
        store = OpenedStore(buckets[options.bucket])
        store.before = before
        yield store

    with pytest.MonkeyPatch.context() as patched:
        for module in ("files", "jobs"):
            patched.setattr(f"coalesce.library.{module}.open_s3", opened)
        yield reached


def chosen(**more: object) -> Settings:
    """Everything under `data/` in the bucket `b`, however young."""
    return Settings(**{"bucket": "b", "prefix": ["data"], "min_age": 0, **more})  # type: ignore[arg-type]
