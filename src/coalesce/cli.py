"""What a user types: options to settings, reports to text or JSON, failures to exit codes."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from coalesce import __version__
from coalesce import demo as demonstration
from coalesce.dataset import Shape
from coalesce.errors import CoalesceError, ConfigurationError, UsageError
from coalesce.pipeline import Event, Run
from coalesce.probe import probe as try_store
from coalesce.probe import probe_prefix, weaker_modes
from coalesce.report import Report, exit_code_of
from coalesce.settings import Settings
from coalesce.storage.s3 import S3Options, open_s3

app = typer.Typer(help="Join many small S3 objects into few large ones; prove it; delete the small ones.", no_args_is_help=True, pretty_exceptions_enable=False)

_STORE_OPTIONS = frozenset(
    {"endpoint_url", "region", "profile", "no_sign_request", "ca_bundle", "no_verify_ssl", "expected_bucket_owner", "request_payer", "addressing"}
)


def _option(*names: str, help: str, **more: Any) -> Any:
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    return typer.Option(*names, help=help, envvar=f"COALESCE_{long.strip('-').replace('-', '_').upper()}", show_default=False, **more)


Targets = Annotated[list[str] | None, typer.Argument(help="s3://bucket/prefix, instead of --bucket and --prefix")]
Bucket = Annotated[str | None, _option("--bucket", "-b", help="bucket")]
Prefix = Annotated[list[str] | None, _option("--prefix", "-p", help="whole path segments; repeatable")]
Endpoint = Annotated[str | None, _option("--endpoint-url", help="another S3 than Amazon's")]
Region = Annotated[str | None, _option("--region", help="region")]
Profile = Annotated[str | None, _option("--profile", help="profile of the AWS configuration")]
Localstack = Annotated[bool, _option("--localstack", "-l", help="http://localstack:4566, eu-west-2, any credentials")]
Output = Annotated[str, _option("--output", help="text or json, on stdout (default text)")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")] = False) -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def _job(name: str, work: Callable[[Run], Awaitable[Report]], help: str) -> None:
    @app.command(name, help=help)
    def command(
        targets: Targets = None,
        bucket: Bucket = None,
        prefix: Prefix = None,
        whole_bucket: Annotated[bool | None, _option("--whole-bucket", help="no prefix at all")] = None,
        date: Annotated[
            str | None,
            _option("--date-to-add", "--date", "-d", help="today, yesterday, 2026-11-22, A..B or NOT_SET: appended to each prefix as yyyy/MM/dd (UTC)"),
        ] = None,
        layout: Annotated[str | None, _option("--layout", help="corporate or manifest (default corporate)")] = None,
        manifests: Annotated[bool, _option("--manifests", "-a", help="--layout manifest")] = False,
        partition: Annotated[list[int] | None, _option("--partition", "-n", help="repeatable; -1 is all (default)")] = None,
        topic: Annotated[list[str] | None, _option("--topic", help="shell pattern; repeatable")] = None,
        include: Annotated[list[str] | None, _option("--include", help="only keys of this shell pattern; repeatable")] = None,
        exclude: Annotated[list[str] | None, _option("--exclude", help="no keys of this shell pattern; repeatable")] = None,
        max_files: Annotated[int | None, _option("--max-files", "--files", "-f", help="sources per output at most (default 1,000,000)")] = None,
        max_size: Annotated[str | None, _option("--max-size", "--size", "-s", help="bytes per output at most (default 128MB)")] = None,
        min_files: Annotated[int | None, _option("--min-files", help="fewer sources than this are left alone (default 2)")] = None,
        min_age: Annotated[str | None, _option("--min-age", help="younger sources are left alone (default 5m)")] = None,
        concurrency: Annotated[int | None, _option("--concurrency", "--threads", "-t", help="GETs in flight at most; 0 is automatic")] = None,
        processes: Annotated[int | None, _option("--processes", help="worker processes; 0 is automatic (one, for now)")] = None,
        multiprocessor: Annotated[bool, _option("--multiprocessor", "-m", help="--processes 0")] = False,
        memory: Annotated[str | None, _option("--memory", help="bytes of bodies in flight (default 128MiB)")] = None,
        state: Annotated[str | None, _option("--state", help="where leases and plan records live (default _coalesce/)")] = None,
        lease: Annotated[str | None, _option("--lease", help="how long a dead run's groups stay untouched (default 60s)")] = None,
        check: Annotated[bool | None, _option("--check/--no-check", help="check each source's content (default on)")] = None,
        no_delete: Annotated[bool | None, _option("--no-delete", help="commit outputs, keep sources")] = None,
        dry_run: Annotated[bool, _option("--dry-run", help="decide, and write nothing")] = False,
        accept_weaker: Annotated[list[str] | None, _option("--accept-weaker", help="the mode that a refusal named; repeatable")] = None,
        max_groups: Annotated[int | None, _option("--max-groups", help="stop cleanly after so many groups")] = None,
        max_bytes: Annotated[str | None, _option("--max-bytes", help="stop cleanly before more source bytes")] = None,
        max_delete: Annotated[int | None, _option("--max-delete", help="stop cleanly before more deletions")] = None,
        deadline: Annotated[str | None, _option("--deadline", help="stop cleanly after this time")] = None,
        error_on_nothing: Annotated[bool | None, _option("--error-on-nothing", help="exit 3 where nothing was to be done")] = None,
        endpoint_url: Endpoint = None,
        region: Region = None,
        profile: Profile = None,
        no_sign_request: Annotated[bool | None, _option("--no-sign-request", help="anonymous")] = None,
        ca_bundle: Annotated[str | None, _option("--ca-bundle", help="file of certificate authorities")] = None,
        no_verify_ssl: Annotated[bool | None, _option("--no-verify-ssl", help="trust any certificate")] = None,
        expected_bucket_owner: Annotated[str | None, _option("--expected-bucket-owner", help="account id")] = None,
        request_payer: Annotated[bool | None, _option("--request-payer", help="the requester pays")] = None,
        addressing: Annotated[str | None, _option("--addressing", help="path, virtual or auto (default)")] = None,
        localstack: Localstack = False,
        summaries: Annotated[str | None, _option("--summaries", "-u", help="without effect", hidden=True)] = None,
        parallelise: Annotated[str | None, _option("--parallelise-batches", "-c", help="without effect", hidden=True)] = None,
        report: Annotated[str | None, _option("--report", help="JSON report to this file")] = None,
        output: Output = "text",
        verbose: Annotated[bool, _option("--verbose", "-v", help="also say what was left alone, and why")] = False,
        config: Annotated[str | None, _option("--config", help="TOML file of these names (default coalesce.toml, if there)")] = None,
    ) -> None:
        given = dict(locals())
        if summaries is not None or parallelise is not None:
            typer.echo("warning: -u and -c have no effect any more", err=True)
        _guarded(lambda: _run(given, name, work))


def _run(given: dict[str, Any], name: str, work: Callable[[Run], Awaitable[Report]]) -> int:
    values = _values(given)
    options = _store_options(values, localstack=given["localstack"])
    settings = _settings(values, given)
    chosen = Run.plan if given["dry_run"] or name == "plan" else work
    as_json, verbose = given["output"] == "json", given["verbose"]
    report = asyncio.run(_with_store(options, settings, chosen, as_json, verbose))
    if given["report"]:
        try:
            Path(given["report"]).write_text(json.dumps(report.as_json(), indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ConfigurationError(f"the report cannot be written to {given['report']!r}: {error}", hint="Choose another --report.") from error
    typer.echo(json.dumps(report.as_json()) if as_json else _text(report))
    return report.exit_code


async def _with_store(options: S3Options, settings: Settings, work: Callable[[Run], Awaitable[Report]], as_json: bool, verbose: bool) -> Report:
    def emit(event: Event) -> None:
        if event["type"] == "left" and not verbose:
            return
        if as_json:
            typer.echo(json.dumps(event))
        elif event["type"] in ("failure", "leased"):
            typer.echo(f"{event['type']}: {event['message']} {event['hint']}", err=True)

    async with open_s3(options) as store:
        run = Run(store, settings, emit)
        await store.check_access()
        task = asyncio.ensure_future(work(run))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stopper(run, task, number))
        try:
            report = await task
        except asyncio.CancelledError:
            report = run.report
        for plan in run.plans:
            for batch in plan.batches:
                emit({"type": "planned", "group": str(plan.group), "key": batch.output, "sources": len(batch.sources), "bytes": batch.size})
        if run.plans and not as_json:
            outputs = [batch for plan in run.plans for batch in plan.batches]
            typer.echo(f"would join {sum(len(b.sources) for b in outputs)} sources of {sum(b.size for b in outputs)} bytes into {len(outputs)} outputs")
        return report


def _stopper(run: Run, task: asyncio.Future[Report], number: int) -> Callable[[], None]:
    def stop() -> None:
        if run.stop.code > 128:
            task.cancel()
        run.stop.request(128 + number)

    return stop


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Option > environment > file; typer has settled the first two."""
    path = Path(given["config"] or "coalesce.toml")
    values: dict[str, Any] = {}
    if given["config"] or path.exists():
        try:
            values = {name.replace("-", "_"): value for name, value in tomllib.loads(path.read_text("utf-8")).items()}
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"the configuration file {str(path)!r}: {error}") from error
    known = {*Settings.model_fields, *_STORE_OPTIONS, "targets"}
    values |= {name: value for name, value in given.items() if name in known and value not in (None, [])}
    return values


def _settings(values: dict[str, Any], given: dict[str, Any]) -> Settings:
    values = {name: value for name, value in values.items() if name not in _STORE_OPTIONS}
    if given["manifests"]:
        values["layout"] = "manifest"
    if given["multiprocessor"]:
        values["processes"] = 0
    if given["no_delete"]:
        values["delete"] = False
    return _validated(values)


def _validated(values: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise UsageError("; ".join(lines)) from error


def _store_options(values: dict[str, Any], *, localstack: bool) -> S3Options:
    targets = values.pop("targets", None) or []
    for target in targets:
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        if not target.startswith("s3://") or values.setdefault("bucket", bucket) != bucket:
            raise UsageError(f"{target!r}: targets are s3://bucket/prefix of one bucket")
        values["prefix"] = [*values.get("prefix", ()), prefix]
    local = {"endpoint_url": "http://localstack:4566", "region": "eu-west-2", "access_key": "test", "secret_key": "test"} if localstack else {}
    names = ("endpoint_url", "region", "profile", "ca_bundle", "expected_bucket_owner", "request_payer", "addressing")
    chosen = {name: values[name] for name in names if name in values}
    flags = {"sign": not values.get("no_sign_request", False), "verify_ssl": not values.get("no_verify_ssl", False)}
    return S3Options(**{"bucket": values.get("bucket", ""), **local, **chosen, **flags})


def _text(report: Report) -> str:
    sources, outputs = report.sources, report.outputs
    left = ", ".join(f"{count} {why}" for why, count in sources.left.items() if count) or "none"
    rows = [
        f"groups    {report.groups.seen} seen, {report.groups.coalesced} coalesced, {report.groups.leased} leased, {report.groups.failed} failed",
        f"sources   {sources.seen} seen, {sources.joined} joined, {sources.deleted} deleted; left: {left}",
        f"outputs   {outputs.written} written, {outputs.recovered} recovered, {outputs.bytes} bytes, {outputs.records} records",
        f"requests  {sum(report.requests.values())} (${report.cost_usd:.4f}), {report.retries} retries",
        f"time      {report.seconds} s, CPU {report.cpu_seconds} s, peak memory {report.peak_rss_bytes // 2**20} MiB; store mode {report.store.mode or '-'}",
        f"exit      {report.exit_code}",
    ]
    return "\n".join(rows)


def _guarded(work: Callable[[], int]) -> None:
    try:
        code = work()
    except CoalesceError as error:
        typer.echo(f"error: {error.message} {error.hint}".rstrip(), err=True)
        code = exit_code_of(error)
    raise typer.Exit(code)


_job("run", Run.coalesce, "List, join, prove, delete; unfinished groups first.")
_job("plan", Run.plan, "Say what `run` would do. Writes nothing.")
_job("recover", Run.recover, "Only finish or undo what an earlier run left unfinished.")


@app.command("probe", help="Which guarantees this store really keeps.")
def _probe(
    bucket: Bucket = None,
    state: Annotated[str, _option("--state", help="where the trial objects live for a moment")] = "_coalesce/",
    endpoint_url: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    localstack: Localstack = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    given = {"bucket": bucket, "endpoint_url": endpoint_url, "region": region, "profile": profile}
    options = _store_options({name: value for name, value in given.items() if value}, localstack=localstack)

    async def work() -> int:
        async with open_s3(options) as store:
            await store.check_access()
            seen = await try_store(store, probe_prefix(state, "probe"))
        facts = {**seen.as_dict(), "needs": sorted(weaker_modes(seen))}
        typer.echo(json.dumps(facts) if as_json else "\n".join(f"{name:24} {value}" for name, value in facts.items()))
        return 10 if facts["needs"] else 0

    _guarded(lambda: asyncio.run(work()))


@app.command("generate", help="Write a realistic data set into a bucket.")
def _generate(
    bucket: Bucket = None,
    prefix: Annotated[str, _option("--prefix", "-p", help="where to")] = "data/",
    layout: Annotated[str, _option("--layout", help="corporate or manifest")] = "corporate",
    topics: Annotated[int, _option("--topics", help="topics")] = 2,
    partitions: Annotated[int, _option("--partitions", help="partitions of each topic")] = 3,
    objects: Annotated[int, _option("--objects", help="objects in all")] = 1000,
    records: Annotated[int, _option("--records", help="records of each object")] = 10,
    record_bytes: Annotated[int, _option("--record-bytes", help="bytes of each record")] = 600,
    seed: Annotated[int, _option("--seed", help="the same seed makes the same data")] = 1,
    gaps: Annotated[float, _option("--gaps", help="share of objects behind a gap in the offsets")] = 0.0,
    overlaps: Annotated[float, _option("--overlaps", help="share of objects that overlap the one before")] = 0.0,
    endpoint_url: Endpoint = None,
    region: Region = None,
    profile: Profile = None,
    localstack: Localstack = False,
) -> None:
    given = {"bucket": bucket, "endpoint_url": endpoint_url, "region": region, "profile": profile}
    options = _store_options({name: value for name, value in given.items() if value}, localstack=localstack)
    shape = Shape(prefix, layout, ("",), topics, partitions, objects, records, record_bytes, seed, gaps, overlaps)

    async def work() -> int:
        async with open_s3(options) as store:
            await store.check_access()
            typer.echo(f"{await demonstration.fill(store, shape)} objects written under s3://{bucket}/{prefix}")
        return 0

    _guarded(lambda: asyncio.run(work()))


@app.command("demo", help="The whole job on an embedded S3 server: no account, no Docker.")
def _demo(objects: Annotated[int, _option("--objects", help="objects to join")] = 5000) -> None:
    _guarded(lambda: asyncio.run(_demonstrate(objects)))


async def _demonstrate(count: int) -> int:
    shape = Shape("storage/", days=("2026/11/20/", "2026/11/21/", "2026/11/22/"), topics=3, partitions=4, objects=count)
    with demonstration.embedded_server() as url:
        options = S3Options("demo", endpoint_url=url, region="us-east-1", access_key="test", secret_key="test", addressing="path")
        async with open_s3(options) as store:
            await store.create_bucket()
            typer.echo(f"writing {count} small objects of {shape.records} records into {url}/demo/storage/ ...")
            await demonstration.fill(store, shape)
            before, objects = await demonstration.read_records(store, "storage/", "corporate")
            typer.echo(f"before    {objects} objects, {before.total()} records")
            report = await Run(store, _validated({"bucket": "demo", "prefix": ["storage"], "min_age": 0})).coalesce()
            typer.echo(_text(report))
            after, objects = await demonstration.read_records(store, "storage/", "corporate")
            state = (await store.list_page("_coalesce/")).objects
    typer.echo(f"after     {objects} objects, {after.total()} records")
    whole = before == after and max(after.values()) == 1 and not state
    typer.echo("proof     every record is there exactly once" if whole else "proof     FAILED: the records before and after differ")
    return report.exit_code if whole else 4


def main() -> None:
    """The `coalesce` command."""
    app()
