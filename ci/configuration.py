"""Writes the full file of docs/configuration.md from the options themselves: `make docs`. A test
holds it current.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from coalesce.cli.app import COMMANDS
from coalesce.cli.describe import meaning_of
from coalesce.cli.options import Option
from coalesce.cli.request import FILE_NAMES, field_of
from coalesce.settings import format_value

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

BEGIN, END = "<!-- full file: begin -->", "<!-- full file: end -->"
WIDTH = 98

# What a run cannot do without, and examples of what it does without by default.
_NEEDED: dict[str, object] = {"bucket": "my-bucket", "prefix": ["storage/events"]}
_UNSET: dict[str, object] = {
    "grow": "64MB",
    "max_objects": 1_000,
    "max_path_list": 1_000_000,
    "max_groups": 100,
    "max_bytes": "10GB",
    "max_delete": 100_000,
    "deadline": "6h",
}
# Settings that no option is called like.
_MORE = {"delete": "delete the sources once their output is proven: the other side of no-delete"}
_ALSO, _OPPOSITE = "# also: ", "# the opposite: "


def written(text: str) -> str:
    """The page with the file of now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n```toml\n{render()}\n```\n\n{END}{tail}"


def render() -> str:
    """The file: every name that there is, once."""
    known: set[str] = set()
    lines = [*_sections("run", known, as_comment=False)]
    named = {option.name for command in COMMANDS.values() for option in command.options}
    for setting in sorted(FILE_NAMES - named):
        lines += [f"# {_MORE[setting]}", f"{setting} = true", ""]
    lines += ["# Of other commands; without the first sign they count"]
    for name in COMMANDS:
        lines += _sections(name, known, as_comment=True)
    return "\n".join(lines).strip()


def names_in(lines: Iterable[str]) -> Iterator[str]:
    """Every name that a file has, those in its comments too."""
    for line in lines:
        for begin in (_ALSO, _OPPOSITE):
            if line.startswith(begin):
                yield from line.removeprefix(begin).split(", ")
        name, equals, _ = line.removeprefix("#").partition(" = ")
        if equals and name == name.strip():
            yield name


def _sections(command: str, known: set[str], *, as_comment: bool) -> Iterator[str]:
    """The options of a command that are not known yet, by title."""
    for group in COMMANDS[command].groups:
        added = [option for option in group.options if _is_new(option, known)]
        if not added:
            continue
        yield from (f"# {group.title}" + (f": coalesce {command}" if as_comment else ""), "")
        for option in added:
            known.update(option.spellings)
            yield from _entry(command, option, as_comment=as_comment)


def _is_new(option: Option, known: set[str]) -> bool:
    return bool(option.spellings) and option.name != "config" and not known & {*option.spellings}


def _entry(command: str, option: Option, *, as_comment: bool) -> Iterator[str]:
    """One option: its meaning, its other names, its first name and its default."""
    text = meaning_of(command, option)
    yield from textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")
    first, *others = option.spellings
    if option.name in FILE_NAMES and option.name not in option.spellings:
        others.append(option.name)
    for begin, positive in ((_ALSO, True), (_OPPOSITE, False)):
        names = [_dashed(n) for n in others if option.spellings.get(n, True) is positive]
        if names:
            yield begin + ", ".join(names)
    mark = "#" if as_comment or option.name in _UNSET else ""
    yield f"{mark}{_dashed(first)} = {_value(command, option)}"
    yield ""


def _value(command: str, option: Option) -> str:
    """The default, or an example where there is none."""
    for examples in (_NEEDED, _UNSET):
        if option.name in examples:
            return _toml(examples[option.name])
    field = field_of(command, option.name)
    if field is None or isinstance(field.default, bool | str | tuple):
        return _toml(False if field is None else field.default)
    text = format_value(field, field.default).replace(",", "_")
    return text if text.replace("_", "").isdigit() else _toml(text)


def _toml(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}"
    return json.dumps(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), encoding="utf-8")
