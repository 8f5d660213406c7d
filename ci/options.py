"""Writes docs/options.md from the commands themselves: `make docs`. A test holds it current."""

from __future__ import annotations

from pathlib import Path

from coalesce.cli.app import COMMANDS
from coalesce.cli.command import Command
from coalesce.cli.describe import default_of, meaning_of
from coalesce.cli.options import Option
from coalesce.cli.origins import file_spellings

PAGE = Path(__file__).parent.parent / "docs" / "options.md"

INTRODUCTION = """\
# Options

<!-- Written by `make docs` from the commands themselves. Do not edit it here. -->

`coalesce COMMAND --help` shows the same. Each option can be set on the command line, by a variable,
or in a TOML file, by the names in the tables: [configuration.md](configuration.md) says which of
them counts, and how values are written. Options without a command are those of `run`.
"""


def render() -> str:
    """The page's text."""
    commands = "\n".join(_command(command) for command in COMMANDS.values())
    tables = "\n".join(_table(title, rows) for title, rows in _sections().items())
    return f"{INTRODUCTION}\n## Commands\n\n{commands}\n{tables}"


def _command(command: Command) -> str:
    lines = [f"### `coalesce {command.name}`", "", f"{command.help}", ""]
    for title, options in command.sections.items():
        names = ", ".join(f"`{option.long or option.usage}`" for option in options)
        lines.append(f"- [{title}](#{_anchor(title)}): {names}")
    hidden = [option.long or option.names[0] for option in command.options if option.hidden]
    if hidden:
        names = ", ".join(f"`{name}`" for name in hidden)
        lines.append(f"- also accepted, though not in the help: {names}")
    return "\n".join([*lines, ""])


def _sections() -> dict[str, dict[Option, list[str]]]:
    """Every option that a help shows, with the commands that take it, by title."""
    found: dict[str, dict[Option, list[str]]] = {}
    for command in COMMANDS.values():
        for title, options in command.sections.items():
            for option in options:
                found.setdefault(title, {}).setdefault(option, []).append(command.name)
    return found


def _table(title: str, options: dict[Option, list[str]]) -> str:
    lines = [
        f"## {title}",
        "",
        "| option | meaning | default | variable | in a file | commands |",
        "|---|---|---|---|---|---|",
    ]
    for option, commands in options.items():
        default = default_of(commands[0], option)
        cells = (
            f"`{option.usage}`",
            meaning_of(commands[0], option).replace("|", "\\|"),
            f"`{default}`" if default else "",
            ", ".join(f"`{variable}`" for variable in option.variables),
            ", ".join(f"`{name}`" for name in _file_names(option)),
            ", ".join(commands),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _file_names(option: Option) -> list[str]:
    known = file_spellings([option], ())
    return [name.replace("_", "-") for name in option.spellings if name in known]


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
