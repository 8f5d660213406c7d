"""The `coalesce` command: each of its commands, and the options that concern it.

What a command does is imported when it is asked for: `--help` should be there at once.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING, Literal

import typer

from coalesce.cli import options as o
from coalesce.cli.attribute_options import ATTRIBUTES
from coalesce.cli.command import COMMANDS, WIDTH, Commands, add_command, version_option
from coalesce.cli.goal_options import GOALS
from coalesce.cli.history_options import EXTRACTION, HISTORY
from coalesce.cli.layout_options import KEYS, LAYOUT
from coalesce.cli.options import Values
from coalesce.cli.undo_options import UNDOING
from coalesce.cli.work_list_options import WORK_LIST

if TYPE_CHECKING:
    from types import FrameType

    from coalesce.cli.origins import Gathered

__all__ = ["COMMANDS", "app", "main"]

app = typer.Typer(
    cls=Commands,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDTH},
    help="Join many small S3 objects into a few large ones, prove that nothing is missing, then"
    " delete the small ones. Options without a command are those of `run`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to load than all else that the help needs
)

_GENERAL = frozenset(
    {"--help", "-h", "--version", "-V", "--install-completion", "--show-completion"}
)

_PLACE = ("targets", "bucket", "prefix", "whole_bucket")
_LEGACY = ("summaries", "parallelise")
# options of `run` that say nothing to a dry run; `plan` takes them so that a job definition can
# be tried by changing one word
_NOT_PLANNED = (
    "check",
    "no_delete",
    "dry_run",
    "plan",
    "concurrency",
    "processes",
    "multiprocessor",
    "lease",
    "accept_weaker",
    "max_groups",
    "max_bytes",
    "max_delete",
    "deadline",
)
_OF_OUTPUTS = (
    "sse",
    "sse_kms_key_id",
    "tags",
    "metadata",
    "content_type",
    "content_encoding",
    "strict_attributes",
)
_NOT_RECOVERED = (
    "check",
    "no_delete",
    "dry_run",
    "plan",
    "processes",
    "multiprocessor",
    "max_groups",
    "max_bytes",
    "max_delete",
    *_LEGACY,
)
_NOT_UNDONE = (*_NOT_RECOVERED, "ledger")


def _add_list(name: str, text: str) -> typer.Typer:
    """A list of commands under one name, such as `layout list` and `layout show`."""
    found = typer.Typer(cls=Commands, help=text, no_args_is_help=True, rich_markup_mode=None)
    found.callback()(_show_version)
    app.add_typer(found, name=name)
    return found


def _show_version(version: bool = version_option()) -> None:
    pass


app.callback()(_show_version)
config = _add_list("config", "What a run is told, and by whom.")
layout = _add_list("layout", "How sources and outputs are named.")


@add_command(
    app,
    o.SCOPE,
    WORK_LIST,
    o.BATCHING,
    GOALS,
    ATTRIBUTES,
    o.RUNNING,
    o.STORE,
    o.OUTPUT.hide("save_plan"),
)
def run(values: Values) -> int:
    """Join small objects, verify the outputs, delete the sources; finishes interrupted work
    first.
    """
    return _work("run", values)


@add_command(
    app,
    o.SCOPE,
    WORK_LIST,
    o.BATCHING,
    GOALS,
    ATTRIBUTES.hide(*_OF_OUTPUTS),
    o.RUNNING.hide(*_NOT_PLANNED),
    o.STORE,
    o.OUTPUT.hide("metrics_file", "emf", "ping_url"),
)
def plan(values: Values) -> int:
    """Show what `run` would do and what it would cost; writes nothing to the bucket."""
    return _work("plan", values)


@add_command(
    app,
    o.SCOPE.without("partition", "topic", "include", "exclude"),
    o.RUNNING.without(*_NOT_RECOVERED),
    o.STORE,
    o.OUTPUT.without("save_plan"),
)
def recover(values: Values) -> int:
    """Finish or undo what earlier runs left unfinished; starts nothing new."""
    return _work("recover", values)


@add_command(
    app,
    o.SCOPE,
    o.BATCHING,
    ATTRIBUTES.only("storage_class"),
    o.RUNNING.only("state", "config"),
    o.STORE,
    o.OUTPUT.only("output"),
)
def status(values: Values) -> int:
    """Show what is there now, what is unfinished, and what a run would change."""
    from coalesce.cli.status import show

    return show(values)


@add_command(
    app,
    o.SCOPE.without("layout", "manifests"),
    UNDOING,
    o.RUNNING.without(*_NOT_UNDONE),
    o.STORE,
    o.OUTPUT.without("save_plan", "metrics_file", "emf", "ping_url"),
)
def undo(values: Values) -> int:
    """Give outputs back as the sources that they were made of, prove them, then delete the
    outputs.
    """
    from coalesce.cli.undo import give_back

    return give_back(values)


@add_command(
    app,
    o.SCOPE,
    o.VERIFICATION,
    o.RUNNING.only("memory", "state", "config"),
    o.STORE,
    o.OUTPUT.only("output", "no_progress"),
)
def verify(values: Values) -> int:
    """Prove earlier outputs again, by their metadata and the ledger, or with --deep by their
    content.
    """
    from coalesce.cli.verify import prove

    return prove(values)


@add_command(
    app,
    HISTORY,
    o.SCOPE.only("bucket", "prefix", "whole_bucket", "date"),
    o.RUNNING.only("state", "config"),
    o.STORE,
    o.OUTPUT.only("output"),
)
def history(values: Values) -> int:
    """Show where a source went, what an output holds, what a run did, or which source held an
    offset; exits with 1 if nothing is known of it.
    """
    from coalesce.cli.history import answer

    return answer(values)


@add_command(
    app,
    EXTRACTION,
    o.SCOPE.only("bucket", "prefix").hide("prefix"),
    o.RUNNING.only("state", "config"),
    o.STORE,
    o.OUTPUT.only("output"),
)
def extract(values: Values) -> int:
    """Write one source out of the output that it went into, to stdout or a file; writes nothing and
    exits with 4 if it is not what it was.
    """
    from coalesce.cli.extract import take_out

    return take_out(values)


@add_command(
    app, o.REPORTS, o.RUNNING.only("config"), o.STORE, o.MERGED_OUTPUT, o.OUTPUT.only("output")
)
def report(values: Values) -> int:
    """Merge reports of shards, tries and locations; exits with the worst of their codes."""
    from coalesce.cli.report import merge_reports

    return merge_reports(values)


@add_command(
    app,
    o.SCOPE.only(*_PLACE),
    o.POLICY,
    o.RUNNING.only("state", "config"),
    o.STORE.only("region"),
    o.OUTPUT.only("output").hide("output"),
)
def policy(values: Values) -> int:
    """Print the least rights that the job's role needs, or a policy for the bucket."""
    from coalesce.cli.policy import print_policy

    return print_policy(values)


@add_command(
    config, o.SCOPE, WORK_LIST, o.BATCHING, GOALS, ATTRIBUTES, o.RUNNING, o.STORE, o.OUTPUT
)
def config_show(values: Gathered) -> int:
    """Show every setting of a run with its value, and where that came from."""
    from coalesce.cli.config import show_settings

    return show_settings(values)


@add_command(layout, o.RUNNING.only("config"), o.OUTPUT.only("output"))
def layout_list(values: Values) -> int:
    """Show the layouts that there are."""
    from coalesce.cli.layout import list_layouts

    return list_layouts(values)


@add_command(layout, LAYOUT, o.RUNNING.only("config"), o.OUTPUT.only("output"))
def layout_show(values: Values) -> int:
    """Show all that one layout says."""
    from coalesce.cli.layout import show_layout

    return show_layout(values)


@add_command(layout, LAYOUT, KEYS, o.RUNNING.only("config"), o.OUTPUT.only("output"))
def layout_test(values: Values) -> int:
    """Show what each key is taken for, and how an output of them is named; exits with 1 if one is
    neither a source nor an output.
    """
    from coalesce.cli.layout import try_keys

    return try_keys(values)


@add_command(
    layout,
    o.SCOPE.only(*_PLACE, "date"),
    o.RUNNING.only("state", "config"),
    o.STORE,
    o.OUTPUT.only("output"),
)
def layout_guess(values: Values) -> int:
    """Look at up to 1,000 keys, and show which layout fits how many, or propose one; exits with 1
    if none fits.
    """
    from coalesce.cli.layout import guess_layout

    return guess_layout(values)


@add_command(
    app,
    o.SCOPE.only("targets", "bucket", "prefix").hide("prefix"),
    o.RUNNING.only("state", "config"),
    o.STORE,
    o.PROBE_OUTPUT,
    o.OUTPUT.only("output"),
)
def probe(values: Values) -> int:
    """Try which guarantees the store keeps; exits with 10 if `run` would refuse it."""
    from coalesce.cli.probe import try_store

    return try_store(values)


@add_command(
    app,
    o.SCOPE.only("targets", "bucket"),
    o.DATA_SET,
    o.RUNNING.only("config"),
    o.STORE,
    o.OUTPUT.only("output", "quiet", "no_progress"),
)
def generate(values: Values) -> int:
    """Write a realistic data set into a bucket."""
    from coalesce.cli.generate import write_data_set

    return write_data_set(values)


@add_command(app, o.DEMO, o.OUTPUT.only("output"))
def demo(values: Values) -> int:
    """Run the whole job on an embedded S3 server; needs no account and no Docker."""
    from coalesce.cli.demo import demonstrate

    return demonstrate(values)


def _work(job: Literal["run", "plan", "recover"], values: Values) -> int:
    # the collector would walk over everything that is loaded here again and again, now and during
    # the run, and never find anything to collect
    gc.disable()
    from coalesce.cli.jobs import run_job

    gc.freeze()
    gc.enable()
    return run_job(job, values)


def main() -> None:
    """The `coalesce` command.

    Options without a command are those of `run`: so existing job definitions give them.
    """
    # the first process of a container ignores SIGTERM unless it handles it, and the run begins to
    # do so only later
    signal.signal(signal.SIGTERM, _end)
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] not in _GENERAL:
        arguments.insert(0, "run")
    app(arguments)


def _end(number: int, frame: FrameType | None) -> None:
    from coalesce.exits import code_of_signal

    sys.exit(code_of_signal(number))
