"""`coalesce layout`: the layouts, what they take a key for, and which of them fits a bucket."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from coalesce.cli.columns import Row
from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_line
from coalesce.cli.request import OutputOptions, Request, parse
from coalesce.cli.tables import pairs, print_table
from coalesce.errors import UsageError
from coalesce.exits import ExitCode
from coalesce.model import Codec, GroupId, ObjectInfo, Source
from coalesce.naming.fits import Fits
from coalesce.naming.layouts import LAYOUTS, Layout, layout, source_of
from coalesce.storage.limits import LIST_PAGE
from coalesce.storage.s3 import open_s3

_SAMPLE = 1000
_CONTENTS = {
    Codec.GZIP: "gzip",
    Codec.PLAIN: "plain lines",
    Codec.ZSTD: "zstd",
    Codec.BZIP2: "bzip2",
}
_PLACEHOLDER = re.compile(r"<(\w+)>")


def list_layouts(values: Values) -> int:
    """Prints every layout's name and what it names; the exit code. Raises UsageError."""
    if parse(OutputOptions, values).as_json:
        for each in LAYOUTS.values():
            _print_json("layout", _described(each))
        return 0
    return _print_rows(
        [(each.name, f"{each.example} becomes {each.output_example}") for each in LAYOUTS.values()]
    )


def show_layout(values: Values) -> int:
    """Prints all that one layout says; the exit code. Raises UsageError."""
    described = _described(_chosen(values))
    if parse(OutputOptions, values).as_json:
        return _print_json("layout", described)
    rows = [
        (name, "\n".join(said) if isinstance(said, list) else said)
        for name, said in described.items()
    ]
    return _print_rows(rows)


def try_keys(values: Values) -> int:
    """Prints what each key is taken for, and how the output of the sources would be named.

    The exit code is 1 if a key is neither a source nor an output. Raises UsageError.
    """
    chosen, keys = _chosen(values), values.get("keys")
    if not isinstance(keys, list) or not keys:
        raise UsageError("no key is given", hint="Name keys as they stand in the bucket.")
    tried = [_tried(chosen, key) for key in keys]
    outputs = _outputs_of(chosen, keys)
    if parse(OutputOptions, values).as_json:
        for found in tried:
            _print_json("key", found)
        for group, output in outputs.items():
            _print_json("would_be", {"group": group, "output": output})
    else:
        rows = [(found["key"], _in_words(found)) for found in tried]
        rows += [(group, f"joined: {output}") for group, output in outputs.items()]
        _print_rows(rows)
    return ExitCode.DONE if all(found["kind"] for found in tried) else ExitCode.FAILED


def guess_layout(values: Values) -> int:
    """Looks at up to 1,000 keys and prints how many fit each layout.

    The exit code is 1 if no key fits any. Raises UsageError, CoalesceError for a failed listing.
    """
    request = Request.of(values)
    fits = asyncio.run(_look(request))
    if request.output.as_json:
        _print_json("guess", asdict(fits) | {"best": fits.best})
    else:
        rows = [
            (fit.layout, f"{fit.sources:,} sources, {fit.outputs:,} outputs")
            for fit in fits.layouts
        ]
        rows.append(("none of them", f"{fits.unparsed:,} of {fits.keys:,} keys"))
        rows += [("such as" if not at else "", key) for at, key in enumerate(fits.examples)]
        nothing = "no layout fits" if fits.keys else "there are no keys: check the prefix"
        rows.append(("so", f"--layout {fits.best}" if fits.best else nothing))
        _print_rows(rows)
    return ExitCode.DONE if fits.best else ExitCode.FAILED


async def _look(request: Request) -> Fits:
    """Takes keys from each prefix, the same number from all of them at most."""
    settings, fits = request.settings, Fits()
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    share = max(1, _SAMPLE // len(prefixes))
    async with open_s3(request.store) as store:
        await store.check_access(prefixes[0])
        for prefix in prefixes[:_SAMPLE]:
            page = await store.list_page(prefix, max_keys=min(share, LIST_PAGE))
            fits.add(
                entry.key
                for entry in page.objects
                if not entry.key.startswith(settings.state_prefix)
            )
    return fits


def _chosen(values: Values) -> Layout:
    name = values.get("layout_name")
    if not name:
        raise UsageError("no layout is named", hint=f"Known layouts: {', '.join(LAYOUTS)}.")
    return layout(str(name))


def _described(each: Layout) -> dict[str, Any]:
    keys = [_fill_in(each.example, first, first + 9) for first in (0, 10)]
    return {
        "name": each.name,
        "sources": each.example,
        "outputs": each.output_example,
        "content": " or ".join(_CONTENTS[codec] for codec in each.codecs),
        "records": str(each.records),
        "example": keys,
        "becomes": next(iter(_outputs_of(each, keys).values())),
    }


def _fill_in(example: str, first: int, last: int) -> str:
    """A key for what a source is called in words."""
    said = {"topic": "events", "partition": 3, "first": first, "offset": first, "last": last}
    return "dir/" + _PLACEHOLDER.sub(lambda match: str(said[match[1]]), example)


def _tried(chosen: Layout, key: str) -> dict[str, Any]:
    parsed = chosen.parse(key)
    if parsed is None:
        return {"key": key, "kind": None}
    return {
        "key": key,
        "kind": parsed.kind,
        "group": str(parsed.group),
        "directory": parsed.group.directory,
        "topic": parsed.group.topic,
        "partition": parsed.group.partition,
        "first_offset": parsed.first,
        "last_offset": parsed.last,
    }


def _in_words(found: dict[str, Any]) -> str:
    if not found["kind"]:
        return "neither source nor output: left alone"
    where = f"topic {found['topic']}, partition {found['partition']}"
    return f"{found['kind']}: {where}, offsets {found['first_offset']} to {found['last_offset']}"


def _outputs_of(chosen: Layout, keys: Iterable[str]) -> dict[str, str]:
    """What the sources of each group would become if they were joined, by group."""
    sources: dict[GroupId, list[Source]] = {}
    taken = set(keys)
    for key in keys:
        parsed = chosen.parse(key)
        if parsed is not None and parsed.kind == "source":
            entry = ObjectInfo(key, 0, "", 0.0, "")
            sources.setdefault(parsed.group, []).append(source_of(parsed, entry))
    return {
        str(group): chosen.output_key(group, sorted(found, key=lambda s: s.first), taken)
        for group, found in sources.items()
    }


def _print_json(kind: str, fields: dict[str, Any]) -> int:
    print_line(json.dumps({"type": kind} | fields))
    return 0


def _print_rows(rows: list[Row]) -> int:
    with on_stdout():
        print_table(pairs(rows))
    return 0
