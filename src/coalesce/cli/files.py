"""Text in files and in buckets: reports and plans go where the user says."""

from __future__ import annotations

from pathlib import Path

import aiofiles

from coalesce.listing.pages import all_pages
from coalesce.storage.s3 import S3Options, open_s3

_REMOTE = "s3://"


def remote(path: str) -> bool:
    """Whether this is an `s3://` URL rather than a file's path."""
    return path.startswith(_REMOTE)


def bucket_of(path: str) -> str:
    """The bucket of an `s3://` URL."""
    return path.removeprefix(_REMOTE).partition("/")[0]


async def read_texts(path: str, options: S3Options) -> list[tuple[str, str]]:
    """(name, text) of a file or an object; of every `.json` object under an `s3://` URL that ends
    with a slash. Raises CoalesceError, OSError, ValueError.
    """
    if not remote(path):
        async with aiofiles.open(path, encoding="utf-8") as file:
            return [(path, await file.read())]
    bucket, _, key = path.removeprefix(_REMOTE).partition("/")
    async with open_s3(options.for_bucket(bucket)) as store:
        keys = [key]
        if not key or key.endswith("/"):
            keys = [
                entry.key
                async for page in all_pages(store, key)
                for entry in page.objects
                if entry.key.endswith(".json")
            ]
        return [
            (f"{_REMOTE}{bucket}/{found}", (await store.get(found)).data.decode()) for found in keys
        ]


async def write_text(
    path: str, text: str, options: S3Options, content_type: str = "application/json"
) -> None:
    """Writes a file, or an object through the same credentials. Raises CoalesceError, OSError."""
    if remote(path):
        bucket, _, key = path.removeprefix(_REMOTE).partition("/")
        async with open_s3(options.for_bucket(bucket)) as store:
            await store.put(key, text.encode(), content_type=content_type)
        return
    async with aiofiles.open(path, "w", encoding="utf-8") as file:
        await file.write(text)


def folder_of(path: str) -> Path | None:
    """The folder that a file's path needs; None for a URL."""
    return None if remote(path) else Path(path).parent
