"""`--files-from`: the keys of a work list, one on each line, from a file, a bucket or stdin."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator

from coalesce.cli.options import Values
from coalesce.cli.request import StoreOptions, WorkListOptions, parse
from coalesce.errors import CoalesceError, UsageError
from coalesce.library.files import read_text, reason_of
from coalesce.planning.work_lists import directories_of
from coalesce.settings import Settings

_STDIN = "-"
_REMOTE = "s3://"
_NO_DATE = Settings.model_fields["date"].default


def read_keys(values: Values) -> list[str]:
    """The keys of the list that the values name.

    Raises UsageError if it cannot be read, or names an object of another bucket.
    """
    options = parse(WorkListOptions, values)
    path = options.files_from
    try:
        if path == _STDIN:
            text = sys.stdin.buffer.read().decode()
        else:
            text = asyncio.run(read_text(path, parse(StoreOptions, values).reach()))
    except (OSError, ValueError, CoalesceError) as error:
        raise UsageError(
            f"cannot read the work list {path!r}: {reason_of(error)}", hint="Check --files-from."
        ) from error
    return list(keys_in(text, options.bucket))


def keys_in(text: str, bucket: str) -> Iterator[str]:
    """Yields the keys of a list: each line is a key, or an `s3://` URL in the bucket.

    Raises UsageError for one in another bucket.
    """
    for line in text.split("\n"):
        name = line.removesuffix("\r")
        where, _, key = name.removeprefix(_REMOTE).partition("/")
        if not name.startswith(_REMOTE):
            key = name
        elif where != bucket:
            raise UsageError(
                f"the work list names {name!r}, which is not in the bucket {bucket!r}",
                hint="One command works in one bucket; use a list for each.",
            )
        if key:
            yield key


def with_prefixes(values: Values, keys: Iterable[str]) -> Values:
    """The values with the directories of the keys as prefixes, where they name no prefix.

    Raises UsageError for a list from which none can be made.
    """
    if values.get("prefix") or values.get("whole_bucket"):
        return values
    if values.get("date", _NO_DATE) != _NO_DATE:
        raise UsageError(
            "--date needs --prefix: it is appended to that",
            hint="Leave --date out; the work list says which keys are meant.",
        )
    layout = parse(Settings, {**values, "whole_bucket": True}).chosen_layout
    return {**values, "prefix": list(directories_of(keys, layout))}
