"""Text in files and in buckets: reports and plans go where the user says."""

from __future__ import annotations

from pathlib import Path

import aiofiles

from coalesce.errors import ConfigurationError
from coalesce.listing.pages import all_pages
from coalesce.report.report import Report
from coalesce.storage.s3 import S3Options, open_s3

_REMOTE = "s3://"


def is_url(path: str) -> bool:
    """Whether this is an `s3://` URL rather than a file's path."""
    return path.startswith(_REMOTE)


async def read_texts(path: str, options: S3Options) -> list[tuple[str, str]]:
    """(name, text) of a file or an object; of every `.json` file in a folder, and of every `.json`
    object under an `s3://` URL that ends with a slash. Raises CoalesceError, OSError, ValueError.
    """
    if not is_url(path):
        return [(name, await _read_file(name)) for name in _files_under(path)]
    bucket, key = split_url(path)
    async with open_s3(options.for_bucket(bucket)) as store:
        keys = [key]
        if _names_many(path):
            keys = [
                entry.key
                async for page in all_pages(store, key)
                for entry in page.objects
                if entry.key.endswith(".json")
            ]
        return [
            (f"{_REMOTE}{bucket}/{found}", (await store.get(found)).data.decode()) for found in keys
        ]


def _files_under(path: str) -> list[str]:
    """The file itself, or every `.json` file in a folder and in those below it."""
    folder = Path(path)
    return sorted(map(str, folder.rglob("*.json"))) if folder.is_dir() else [path]


async def _read_file(path: str) -> str:
    async with aiofiles.open(path, encoding="utf-8") as file:
        return await file.read()


async def read_text(path: str, options: S3Options) -> str:
    """A file or an object. Raises CoalesceError, OSError, ValueError."""
    if not is_url(path):
        return await _read_file(path)
    if _names_many(path):
        raise ConfigurationError("not a URL of one object")
    ((_, text),) = await read_texts(path, options)
    return text


async def write_text(
    path: str, text: str, options: S3Options, content_type: str = "application/json"
) -> None:
    """Writes a file, or an object through the same credentials. Raises CoalesceError, OSError."""
    if is_url(path):
        bucket, key = split_url(path)
        async with open_s3(options.for_bucket(bucket)) as store:
            await store.put(key, text.encode(), content_type=content_type)
        return
    async with aiofiles.open(path, "w", encoding="utf-8") as file:
        await file.write(text)


def reason_of(error: Exception) -> str:
    """Why a path could not be read or written, without the path, which the message has anyway."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def check_writable(path: str, option: str) -> None:
    """Finds out before any work whether a path can be written, as far as rights and space allow.

    Raises ConfigurationError if there is no such folder, or if it is no URL of an object.
    """
    hint = f"Choose another {option}."
    if is_url(path):
        if _names_many(path):
            raise ConfigurationError(
                f"cannot write {path!r}: not a URL of one object",
                hint=f"Write {option} s3://BUCKET/KEY.",
            )
        return
    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigurationError(f"cannot write {path!r}: no folder {str(folder)!r}", hint=hint)
    if Path(path).is_dir():
        raise ConfigurationError(f"cannot write {path!r}: it is a folder", hint=hint)


def report_path(pattern: str, report: Report) -> str:
    """Where a run writes: `{shard}` and `{run_id}` in the path let the shards of one job write each
    its own.
    """
    return pattern.replace("{shard}", report.scope.shard.replace("/", "-of-")).replace(
        "{run_id}", report.run_id
    )


def _names_many(url: str) -> bool:
    """Whether a URL stands for all objects under it. Raises ConfigurationError if there is no
    bucket.
    """
    key = split_url(url)[1]
    return not key or key.endswith("/")


def split_url(url: str) -> tuple[str, str]:
    """The bucket and the key of an `s3://` URL. Raises ConfigurationError if there is no bucket."""
    bucket, _, key = url.removeprefix(_REMOTE).partition("/")
    if not bucket:
        raise ConfigurationError(f"{url!r} names no bucket", hint="Write s3://BUCKET/KEY.")
    return bucket, key
