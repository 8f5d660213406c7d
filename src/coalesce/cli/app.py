"""The `coalesce` command.

What a command does is imported when it is asked for: `--help` should be there at once.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from coalesce.cli import demo, generate, policy, probe, report, status, verify
from coalesce.cli import options as o
from coalesce.cli.exits import exit_with


class _Commands(TyperGroup):
    """Lists the commands in plain text: rich and its Markdown take longer to load than everything
    else here.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_Commands,
    help="Join many small S3 objects into few large ones; prove it; delete the small ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_GENERAL = frozenset({"--help", "--version", "--install-completion", "--show-completion"})


def _version(wanted: bool) -> None:
    if wanted:
        from coalesce import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Joins small objects."""


def _job(name: str, help: str) -> None:
    """Registers one of the commands that take all options of a run."""

    @app.command(name, help=help)
    def command(
        targets: o.Targets = None,
        bucket: o.Bucket = None,
        prefix: o.Prefix = None,
        whole_bucket: o.WholeBucket = None,
        date: o.Date = None,
        layout: o.Layout = None,
        manifests: o.Manifests = False,
        partition: o.Partition = None,
        topic: o.Topic = None,
        include: o.Include = None,
        exclude: o.Exclude = None,
        max_files: o.MaxFiles = None,
        max_size: o.MaxSize = None,
        min_files: o.MinFiles = None,
        min_age: o.MinAge = None,
        check: o.Check = None,
        no_delete: o.NoDelete = None,
        dry_run: o.DryRun = False,
        concurrency: o.Concurrency = None,
        processes: o.Processes = None,
        multiprocessor: o.Multiprocessor = False,
        memory: o.Memory = None,
        shard: o.ShardOf = None,
        plan: o.PlanFrom = None,
        state: o.State = None,
        lease: o.LeaseTime = None,
        accept_weaker: o.AcceptWeaker = None,
        max_groups: o.MaxGroups = None,
        max_bytes: o.MaxBytes = None,
        max_delete: o.MaxDelete = None,
        deadline: o.Deadline = None,
        error_on_nothing: o.ErrorOnNothing = None,
        config: o.Config = None,
        summaries: o.Summaries = None,
        parallelise: o.Parallelise = False,
        endpoint_url: o.Endpoint = None,
        region: o.Region = None,
        profile: o.Profile = None,
        no_sign_request: o.NoSign = None,
        ca_bundle: o.CaBundle = None,
        no_verify_ssl: o.NoVerify = None,
        expected_bucket_owner: o.Owner = None,
        request_payer: o.Payer = None,
        addressing: o.Addressing = None,
        localstack: o.Localstack = False,
        report: o.ReportTo = None,
        save_plan: o.SavePlan = None,
        output: o.Output = None,
        log_level: o.LogLevel = None,
        log_format: o.LogFormat = None,
        quiet: o.Quiet = None,
        verbose: o.Verbose = None,
        no_progress: o.NoProgress = None,
        stats_interval: o.StatsInterval = None,
    ) -> None:
        given = dict(locals())

        def work() -> int:
            # what is loaded here stays: the collector would walk over all of it again and again,
            # now and during the run
            gc.disable()
            from coalesce.cli.jobs import run_job

            gc.freeze()
            gc.enable()
            return run_job(given, "plan" if dry_run else name)

        exit_with(work)


_job("run", "List, join, prove, delete; unfinished groups first.")
_job("plan", "Say what `run` would do, and what it would cost. Writes nothing.")
_job("recover", "Only finish or undo what an earlier run left unfinished.")


app.command("status")(status.command)
app.command("verify")(verify.command)
app.command("report")(report.command)
app.command("policy")(policy.command)
app.command("probe")(probe.command)
app.command("generate")(generate.command)
app.command("demo")(demo.command)


def main() -> None:
    """The `coalesce` command.

    Options without a command are those of `run`: so existing job definitions give them.
    """
    # a container's first process would ignore it until the run listens
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] not in _GENERAL:
        arguments.insert(0, "run")
    app(arguments)
