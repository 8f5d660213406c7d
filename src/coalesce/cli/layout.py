"""`coalesce layout`: the layouts, what they take a key for, and which of them fits a bucket."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from coalesce.cli.columns import Row
from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_line
from coalesce.cli.request import LayoutOptions, OutputOptions, Request, parse
from coalesce.cli.tables import pairs, print_table
from coalesce.errors import UsageError
from coalesce.exits import ExitCode
from coalesce.model import Codec, GroupId, ObjectInfo, Source
from coalesce.naming.fits import Fits
from coalesce.naming.foreign import foreign
from coalesce.naming.guesses import propose
from coalesce.naming.layout_data import Offsets
from coalesce.naming.layouts import Layout, layout, source_of
from coalesce.naming.own_layouts import OwnLayout
from coalesce.storage.limits import LIST_PAGE
from coalesce.storage.s3 import open_s3

_SAMPLE = 1000
_CONTENTS = {
    Codec.GZIP: "gzip",
    Codec.PLAIN: "plain lines",
    Codec.ZSTD: "zstd",
    Codec.BZIP2: "bzip2",
}


def list_layouts(values: Values) -> int:
    """Prints every layout's name and what it names; the exit code. Raises UsageError."""
    known = _known(values)
    if parse(OutputOptions, values).as_json:
        for each in known.values():
            _print_json("layout", _described(each))
        return 0
    shown = ((each.name, each.data) for each in known.values())
    return _print_rows(
        [(name, f"{data.example} becomes {data.output_example}") for name, data in shown]
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
    joinable = [key for key in fits.others if foreign(key) is None]
    proposal = None if fits.best else propose(joinable)
    if request.output.as_json:
        _print_json(
            "guess",
            {
                "keys": fits.keys,
                "unparsed": fits.unparsed,
                "layouts": [asdict(fit) for fit in fits.layouts],
                "examples": fits.examples,
                "best": fits.best,
                "foreign": dict(fits.foreign),
                "proposal": proposal.model_dump(mode="json", exclude_defaults=True)
                if proposal
                else None,
            },
        )
    else:
        _print_rows(_guess_rows(fits, proposal is not None))
        for line in _as_toml(proposal) if proposal else ():
            print_line(line)
    return ExitCode.DONE if fits.best else ExitCode.FAILED


def _guess_rows(fits: Fits, proposed: bool) -> list[Row]:
    rows: list[Row] = [
        (fit.layout, f"{fit.sources:,} sources, {fit.outputs:,} outputs")
        for fit in fits.layouts
        if fit.sources or fit.outputs
    ]
    rows.append(("none of them", f"{fits.unparsed:,} of {fits.keys:,} keys"))
    rows += [("such as" if not at else "", key) for at, key in enumerate(fits.examples)]
    rows += [("left alone", _foreign_in_words(fits, what)) for what in fits.foreign]
    nothing = "no layout fits" if fits.keys else "there are no keys: check the prefix"
    if proposed:
        nothing = "no layout fits; try this one, in the configuration file, with `layout test`:"
    rows.append(("so", f"--layout {fits.best}" if fits.best else nothing))
    return rows


def _foreign_in_words(fits: Fits, what: str) -> str:
    kind = next(kind for key in fits.others if (kind := foreign(key)) and kind.what == what)
    return f"{fits.foreign[what]:,} like {what}: {kind.why} {kind.instead}"


def _as_toml(said: OwnLayout) -> list[str]:
    """The table of a configuration file that says the same."""
    fields = said.model_dump(mode="json", exclude_defaults=True)
    plain = {name for name, value in fields.items() if isinstance(value, str) and "'" not in value}
    return ["[layout.mine]"] + [
        f"{name} = '{value}'" if name in plain else f"{name} = {json.dumps(value)}"
        for name, value in fields.items()
    ]


async def _look(request: Request) -> Fits:
    """Takes keys from each prefix, the same number from all of them at most."""
    settings = request.settings
    fits = Fits(settings.known_layouts)
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


def _known(values: Values) -> Mapping[str, Layout]:
    """All layouts, those of the configuration file among them. Raises UsageError."""
    return parse(LayoutOptions, values).known


def _chosen(values: Values) -> Layout:
    name, known = values.get("layout_name"), _known(values)
    if not name:
        raise UsageError("no layout is named", hint=f"Known layouts: {', '.join(known)}.")
    return layout(str(name), known)


def _described(each: Layout) -> dict[str, Any]:
    data = each.data
    outputs = _outputs_of(each, data.samples)
    return {
        "name": each.name,
        "sources": data.example,
        "outputs": data.output_example,
        "content": " or ".join(_CONTENTS[codec] for codec in each.codecs),
        "records": each.records.value,
        "example": list(data.samples),
        "becomes": next(iter(outputs.values()), ""),
        "described": data.described,
    }


def _tried(chosen: Layout, key: str) -> dict[str, Any]:
    parsed = chosen.parse(key)
    if parsed is None:
        other = foreign(key)
        why = f"It looks like {other.what}: {other.why} {other.instead}" if other else ""
        return {"key": key, "kind": None, "why": why}
    return {
        "key": key,
        "kind": parsed.kind,
        "group": str(parsed.group),
        "directory": parsed.group.directory,
        "topic": parsed.group.topic,
        "partition": None if parsed.group.partition < 0 else parsed.group.partition,
        "first_offset": None if chosen.offsets is Offsets.NONE else parsed.first,
        "last_offset": parsed.last if chosen.offsets is Offsets.RANGE else None,
    }


def _in_words(found: dict[str, Any]) -> str:
    if not found["kind"]:
        return " ".join(filter(None, ("neither source nor output: left alone.", found["why"])))
    said = [f"{found['kind']}: topic {found['topic']}"]
    if found["partition"] is not None:
        said.append(f"partition {found['partition']}")
    if found["last_offset"] is not None:
        said.append(f"offsets {found['first_offset']} to {found['last_offset']}")
    elif found["first_offset"] is not None:
        said.append(f"from offset {found['first_offset']} on")
    return ", ".join(said)


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
        str(group): chosen.output_key(group, sorted(found, key=lambda s: (s.first, s.last)), taken)
        for group, found in sources.items()
    }


def _print_json(kind: str, fields: dict[str, Any]) -> int:
    print_line(json.dumps({"type": kind} | fields))
    return 0


def _print_rows(rows: list[Row]) -> int:
    with on_stdout():
        print_table(pairs(rows))
    return 0
