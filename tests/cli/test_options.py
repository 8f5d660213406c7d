"""Each command takes the options that concern it, says so in its help and in docs/options.md, and
refuses the others.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coalesce import __version__
from coalesce.cli.app import COMMANDS, app
from coalesce.cli.describe import default_of
from coalesce.cli.options import BATCHING, OUTPUT, RUNNING, SCOPE, STORE, Option
from coalesce.cli.request import field_of, parse
from coalesce.exits import ExitCode
from coalesce.naming.layouts import LAYOUTS
from coalesce.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "options.md").read_text("utf-8")
EVERY = {option.long: option for command in COMMANDS.values() for option in command.options}


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app, [*" ".join(words).split(), "--help"])
    assert done.exit_code == 0, done.output
    return done.stdout


def flat(text: str) -> str:
    return " ".join(text.split())


def taken(command: str) -> list[Option]:
    return [option for option in COMMANDS[command].options if option.names]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_the_help_of_its_command_and_in_the_docs(command: str) -> None:
    shown = help_of(command)
    section = PAGE.partition(f"### `coalesce {command}`\n")[2].partition("\n#")[0]
    for option in taken(command):
        lines = [line for line in shown.splitlines() if line.startswith(f"  {option.usage} ")]
        assert len(lines) == (0 if option.hidden else 1), option
        assert f"`{option.long or option.names[0]}`" in section, option


def test_the_page_of_options_is_current() -> None:
    """If not: `make docs`."""
    assert runpy.run_path(str(ROOT / "ci" / "options.py"))["render"]() == PAGE


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_does_not_concern_a_command_is_refused(command: str) -> None:
    known = {name for option in taken(command) for name in option.names}
    others = [o for long, o in EVERY.items() if long and not known.intersection(o.names)]
    assert len(others) + len(known) > 20
    for option in others:
        done = CliRunner().invoke(
            app, [*command.split(), option.long, *(["1"] if option.value else [])]
        )
        assert (done.exit_code, option.long in done.stderr) == (2, True), (option, done.output)


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("recover", {"--max-size", "--max-files", "--min-age", "--topic", "--processes"}),
        ("status", {"--check", "--no-delete", "--lease", "--report", "--deadline"}),
        ("plan", {"--processes", "--max-groups", "--no-delete", "--plan"}),
        ("run", {"--save-plan", "--summaries", "--deep"}),
    ],
)
def test_a_help_shows_only_what_concerns_its_command(command: str, without: set[str]) -> None:
    shown = help_of(command)
    assert not {long for long in without if f"{long} " in shown or f"{long}\n" in shown}


def test_a_dry_run_takes_every_option_of_a_run() -> None:
    assert {o.names for o in COMMANDS["plan"].options} == {o.names for o in COMMANDS["run"].options}


def test_the_help_of_run_is_in_groups() -> None:
    shown = help_of("run").splitlines()
    titles = [group.title for group in (SCOPE, BATCHING, RUNNING, STORE, OUTPUT)]
    assert titles == ["Scope", "Batching", "Running", "Store", "Output and reports"]
    assert [line[:-1] for line in shown if line[:-1] in titles] == titles


@pytest.mark.parametrize("option", taken("run"), ids=lambda option: option.long)
def test_a_default_that_is_shown_is_the_one_of_the_settings(option: Option) -> None:
    """Typed as it is shown, it changes nothing; and nothing is shown that is not the model's."""
    shown = default_of("run", option)
    field = field_of("run", option.name)
    assert "(default" not in option.help or option.name == "config"
    assert (f"(default {shown})" if shown else "") in flat(help_of("run"))
    if field is None or field.is_required() or field.default in (None, "", (), False):
        assert shown in ("", "0"), "a zero is a default to show"
    elif option.name in Settings.model_fields and option.value:
        place = {"bucket": "b", "prefix": ["p"]}
        given = parse(Settings, {**place, option.name: shown.replace(",", "")})
        assert given == parse(Settings, place)
    else:
        assert shown


def test_nothing_but_the_models_says_a_default() -> None:
    source = (ROOT / "src" / "coalesce" / "cli" / "options.py").read_text("utf-8")
    assert source.count("(default") == 1, "that of --config, which is no setting"


@pytest.mark.parametrize("words", [[], ["config"], *(command.split() for command in COMMANDS)])
def test_h_and_version_are_known_on_every_level(words: list[str]) -> None:
    assert CliRunner().invoke(app, [*words, "-h"]).stdout == help_of(*words)
    for option in ("-V", "--version"):
        done = CliRunner().invoke(app, [*words, option])
        assert (done.exit_code, done.stdout) == (0, f"coalesce {__version__}\n")


def test_without_words_it_shows_the_help_and_exits_with_2() -> None:
    done = subprocess.run([sys.executable, "-m", "coalesce"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert {f"  {name} " for name in COMMANDS} == {
        f"  {name} " for name in COMMANDS if f"\n  {name} " in done.stderr
    }


@pytest.mark.parametrize("words", ["--help", "-V", "run -h", "config --help", "config show -V"])
def test_a_help_that_finds_no_space_says_so_in_one_line(words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coalesce", *words.split()],
        stdout=os.open("/dev/full", os.O_WRONLY),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 10
    assert done.stderr == "error: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("words", ["--help", "run -h", "config --help"])
def test_a_help_that_nobody_reads_to_its_end_is_quiet(words: str) -> None:
    """`coalesce --help | head` and the like."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "coalesce", *words.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_list_of_commands_names_only_its_own() -> None:
    shown = help_of("config")
    assert "config show" in shown
    assert "recover" not in shown


def test_every_command_says_in_which_form_it_answers() -> None:
    assert {name for name in COMMANDS if "output" in {o.name for o in COMMANDS[name].options}} == {
        *COMMANDS
    }


def test_the_help_says_what_each_exit_code_means() -> None:
    shown = flat(help_of())
    for code in ExitCode:
        assert f"{code.value} {code.meaning}" in shown


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--layout", set(LAYOUTS)),
        ("--output", {"text", "json"}),
        ("--log-level", {"debug", "info", "warning", "error"}),
        ("--log-format", {"auto", "text", "json"}),
        ("--addressing", {"path", "virtual", "auto"}),
        ("--accept-weaker", {"delete-race", "overwrite-race", "no-exclusion"}),
    ],
)
def test_completion_offers_the_values(option: str, values: set[str]) -> None:
    variables = {
        "_COALESCE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"coalesce run {option} ",
        "COMP_CWORD": "3",
    }
    done = CliRunner().invoke(app, [], env=variables, prog_name="coalesce")
    assert set(done.stdout.split()) == values, done.output


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        ("--help", "pydantic rich aiobotocore botocore aiohttp awscrt asyncio"),
        ("--version", "pydantic rich aiobotocore botocore aiohttp awscrt asyncio"),
        ("run --help", "rich aiobotocore botocore aiohttp awscrt"),
    ],
)
def test_help_is_there_at_once_because_it_loads_little(words: str, heavy: str) -> None:
    program = (
        "import sys; from coalesce.cli import main; sys.argv[1:] = sys.stdin.read().split()\n"
        "try: main()\n"
        "finally: print('loaded', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=words, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.split()
    assert loaded[0] == "loaded"
    assert not set(heavy.split()).intersection(loaded)


def test_options_without_effect_are_taken_and_said_once() -> None:
    words = [
        "plan",
        "-b",
        "b",
        "-p",
        "p",
        "-u",
        "3",
        "-c",
        "--endpoint-url",
        "http://127.0.0.1:1/x?y",
    ]
    done = CliRunner().invoke(app, [*words, "--log-format", "text", "--no-sign-request"])
    assert done.exit_code == 10, done.output
    assert done.stderr.count("no effect") == 1
