"""The commands: what was typed becomes a run, and its report an exit code."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from coalesce import __version__, demo
from coalesce.cli import options as o
from coalesce.cli import policy, status, verify
from coalesce.cli import report as report_command
from coalesce.cli.output import Voice, check_writable, exit_with, voice_of, write_report
from coalesce.cli.plans import planned_settings, read_plan, save_plan
from coalesce.dataset import Shape
from coalesce.errors import CoalesceError, UsageError
from coalesce.lease import Lease, LeaseRecord
from coalesce.pipeline import Run, new_run_id, refused
from coalesce.planfile import PlanFile
from coalesce.probe import probe, probe_prefix, weaker_modes
from coalesce.report import Report, exit_code_of, worst
from coalesce.settings import Settings, as_directory
from coalesce.sharding import WHOLE
from coalesce.status import look
from coalesce.storage.s3 import S3Options, S3Store, open_s3
from coalesce.workers import Workers, processes_for

app = typer.Typer(help="Join many small S3 objects into few large ones; prove it; delete the small ones.", no_args_is_help=True, pretty_exceptions_enable=False)

_log = logging.getLogger(__name__)

_GENERAL = frozenset({"--help", "--version", "--install-completion", "--show-completion"})
_JOBS = {"run": Run.coalesce, "plan": Run.plan, "recover": Run.recover}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")] = False) -> None:
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
        exit_with(lambda: _run(given, "plan" if dry_run else name))


def _run(given: dict[str, Any], job: str) -> int:
    values = o.gathered(given)
    voice = voice_of(values)
    if given["summaries"] is not None or given["parallelise"]:
        _log.warning("-u and -c have no effect any more")
    for path in filter(None, (values.get("report"), values.get("save_plan"))):
        check_writable(path)
    plan, saved, path = values.get("plan"), values.get("save_plan"), values.get("report")
    if plan and job != "run":
        raise UsageError(f"--plan is for `run`, not for `{job}`")
    if saved and job != "plan":
        raise UsageError(f"--save-plan is for `plan`, not for `{job}`")
    planned = asyncio.run(read_plan(plan, values)) if plan else None
    settings = planned_settings(values, planned, dt.datetime.now(dt.UTC).date()) if planned else o.settings_of(values)
    if saved and settings.shard != WHOLE:
        raise UsageError("a plan is written for all shards at once", hint="Leave --shard to `run --plan`, or say --shard 0/1.")
    store_options = o.store_options_of({**values, "bucket": settings.bucket})
    processes = processes_for(settings.processes, settings.memory) if job == "run" else 1
    workers = Workers(processes, partial(open_s3, store_options)) if processes > 1 else None
    return asyncio.run(_report(settings, store_options, job, voice, path, saved, planned, workers))


async def _report(
    settings: Settings,
    store_options: S3Options,
    job: str,
    voice: Voice,
    path: str | None,
    saved: str | None,
    planned: PlanFile | None,
    workers: Workers | None,
) -> int:
    """Runs, and writes the report whatever comes of it."""
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(open_s3(store_options))
        except CoalesceError as error:
            return await _told(refused(settings, error, voice.emit), voice, path, store_options)
        run = Run(store, settings, voice.emit, endpoint=store.endpoint, planned=planned, workers=workers)
        try:
            await _until_stopped(run, _JOBS[job], voice)
            if saved and not run.report.exit_code:
                await save_plan(saved, run, settings, store_options)
        finally:
            code = await _told(run.report, voice, path, store_options)
    return code


async def _told(report: Report, voice: Voice, path: str | None, store_options: S3Options) -> int:
    """Prints and writes the report; its exit code, or a worse one if it cannot be written."""
    voice.summary(report)
    try:
        if path:
            await write_report(report, path, store_options)
    except CoalesceError as error:
        _log.error("%s. %s", error.message, error.hint)
        return worst(report.exit_code, exit_code_of(error))
    return report.exit_code


async def _until_stopped(run: Run, job: Callable[[Run], Awaitable[Report]], voice: Voice) -> None:
    """The first signal stops the run between outputs, the second cancels it."""
    task = asyncio.ensure_future(job(run))
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if run.stop.code > 128:
            task.cancel()
        else:
            _log.warning("%s: ending after what is under way; once more to end at once", signal.Signals(number).name)
        run.interrupt(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with voice.progress(run.report):
        try:
            await task
        except asyncio.CancelledError:
            if not run.stop:
                raise


_job("run", "List, join, prove, delete; unfinished groups first.")
_job("plan", "Say what `run` would do, and what it would cost. Writes nothing.")
_job("recover", "Only finish or undo what an earlier run left unfinished.")


app.command("status")(status.command)
app.command("verify")(verify.command)
app.command("report")(report_command.command)
app.command("policy")(policy.command)


@app.command("probe")
def _probe(
    bucket: o.Bucket = None,
    state: o.State = None,
    endpoint_url: o.Endpoint = None,
    region: o.Region = None,
    profile: o.Profile = None,
    localstack: o.Localstack = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """Which guarantees this store really keeps; exit code 10 if `run` would refuse it."""
    given = dict(locals())

    async def work() -> int:
        values = o.gathered(given)
        async with open_s3(o.store_options_of(values)) as store:
            await store.check_access()
            state, run_id = as_directory(values.get("state", Settings.model_fields["state"].default)), new_run_id()
            async with Lease(store, state, LeaseRecord(run_id=run_id), time.monotonic).held():
                seen = await probe(store, probe_prefix(state, run_id))
        needs = weaker_modes(seen)
        if as_json:
            typer.echo(json.dumps(seen.as_dict() | {"needs": sorted(needs)}))
        else:
            for name, value in seen.as_dict().items():
                typer.echo(f"{name:24} {value if isinstance(value, str) else 'yes' if value else 'no'}")
            for mode, what in needs.items():
                typer.echo(f"`run` needs --accept-weaker {mode}: the store does not keep {what}")
        return 10 if needs else 0

    exit_with(lambda: asyncio.run(work()))


@app.command("generate")
def _generate(
    bucket: o.Bucket = None,
    prefix: Annotated[str, o.option("--prefix", "-p", help="where to (default data/)")] = "data/",
    layout: Annotated[str, o.option("--layout", help="corporate (default) or manifest")] = "corporate",
    topics: Annotated[int, o.option("--topics", help="topics (default 2)")] = 2,
    partitions: Annotated[int, o.option("--partitions", help="partitions of each topic (default 3)")] = 3,
    objects: Annotated[int, o.option("--objects", help="objects in all (default 1000)")] = 1000,
    records: Annotated[int, o.option("--records", help="records of each object (default 10)")] = 10,
    record_bytes: Annotated[int, o.option("--record-bytes", help="bytes of each record (default 600)")] = 600,
    seed: Annotated[int, o.option("--seed", help="the same seed makes the same data (default 1)")] = 1,
    gaps: Annotated[float, o.option("--gaps", help="share of objects behind a gap in the offsets, 0 to 1")] = 0.0,
    overlaps: Annotated[float, o.option("--overlaps", help="share of objects that overlap the one before, 0 to 1")] = 0.0,
    spoilt: Annotated[float, o.option("--spoilt", help="share of objects that are cut short, 0 to 1")] = 0.0,
    endpoint_url: o.Endpoint = None,
    region: o.Region = None,
    profile: o.Profile = None,
    localstack: o.Localstack = False,
) -> None:
    """Write a realistic data set into a bucket."""
    given = dict(locals())

    async def work() -> int:
        shape = Shape(prefix, layout, ("",), topics, partitions, objects, records, record_bytes, seed, gaps, overlaps, spoilt)
        async with open_s3(o.store_options_of(o.gathered(given))) as store:
            await store.check_access()
            typer.echo(f"{await demo.fill(store, shape):,} objects written under s3://{bucket}/{prefix}")
        return 0

    exit_with(lambda: asyncio.run(work()))


@app.command("demo")
def _demo(objects: Annotated[int, o.option("--objects", help="objects to join (default 5000)")] = 5000) -> None:
    """The whole job on an embedded S3 server: no account, no Docker."""
    exit_with(lambda: asyncio.run(_demonstrate(objects)))


async def _demonstrate(count: int) -> int:
    shape = Shape("storage/", days=("2026/11/20/", "2026/11/21/", "2026/11/22/"), topics=3, partitions=4, objects=count)
    settings = Settings.model_validate({"bucket": "demo", "prefix": ["storage"], "min_age": 0})
    voice = voice_of({"log_format": "text"})
    with demo.embedded_server() as url:
        store_options = S3Options("demo", endpoint_url=url, region="us-east-1", access_key="test", secret_key="test", addressing="path")
        async with open_s3(store_options) as store:
            await store.create_bucket()
            typer.echo(f"Writing {count:,} small objects of {shape.records} records each to {url}/demo/storage/")
            await demo.fill(store, shape)
            before, first = await demo.inspect(store, "storage/", "corporate")
            await _show(store, settings)
        typer.echo(f"\nBefore: {first}\nRunning: coalesce run -b demo -p storage --min-age 0\n")
        async with open_s3(store_options) as store:
            run = Run(store, settings, voice.emit)
            async with voice.progress(run.report):
                report = await run.coalesce()
        voice.summary(report)
        async with open_s3(store_options) as store:
            after, last = await demo.inspect(store, "storage/", "corporate")
            state = (await store.list_page("_coalesce/")).objects
            uploads = await store.list_uploads("")
            typer.echo()
            await _show(store, settings)
    typer.echo(f"\nAfter:  {last}")
    whole = before == after and max(after.values()) == 1 and not state and not uploads
    typer.echo("Proof:  read anew from the bucket, every record is there exactly once" if whole else "Proof:  FAILED: the records before and after differ")
    return report.exit_code if whole else 4


async def _show(store: S3Store, settings: Settings) -> None:
    typer.echo("coalesce status -b demo -p storage --min-age 0\n")
    Console(highlight=False, soft_wrap=True).print(status.status_table(await look(store, settings)))


def main() -> None:
    """The `coalesce` command. Options without a command are those of `run`: so existing job definitions give them."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # a container's first process would ignore it until the run listens
    arguments = sys.argv[1:]
    if arguments and arguments[0].startswith("-") and arguments[0] not in _GENERAL:
        arguments.insert(0, "run")
    app(arguments)
