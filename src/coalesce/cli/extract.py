"""`coalesce extract`: one source out of an output, to a file or to stdout, once it is proven."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import typer

from coalesce.cli.columns import printable
from coalesce.cli.options import Values
from coalesce.cli.output import on_stdout, print_line
from coalesce.cli.request import ExtractOptions, Request, parse
from coalesce.cli.tables import count_of
from coalesce.errors import ConfigurationError, UsageError
from coalesce.inspect.extraction import Extracted, extract
from coalesce.library.files import check_writable, reason_of
from coalesce.storage.s3 import open_s3

_SPOOLED_IN_MEMORY = 8 * 1024**2


def take_out(values: Values) -> int:
    """Writes the source that the values name; the exit code.

    Raises UsageError, ConfigurationError for a file that cannot be written, or CoalesceError:
    nothing was written then.
    """
    request, options = Request.of(values), parse(ExtractOptions, values)
    keys = request.settings.prefix
    if len(keys) != 1 or not keys[0]:
        raise UsageError("name one source", hint="Write s3://BUCKET/KEY.")
    if request.output.as_json and not options.to_file:
        raise UsageError(
            "stdout carries the source, so --output json has no place",
            hint="Write the source to a file with -o FILE.",
        )
    if options.to_file:
        check_writable(options.to_file, "--to-file")
        sink = _into_file(options.to_file, force=options.force)
    else:
        sink = _onto_stdout()
    with sink as stream:
        done = asyncio.run(_extract(request, keys[0], stream))
    _tell(done, options.to_file, as_json=request.output.as_json)
    return 0


async def _extract(request: Request, key: str, sink: BinaryIO) -> Extracted:
    async with open_s3(request.store) as store:
        await store.check_access(request.settings.state_prefix)
        return await extract(store, request.settings.state_prefix, key, sink)


@contextmanager
def _into_file(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """A file beside this one that takes its place at the end of a block that does not fail."""
    file = Path(path)
    _refuse_existing(file, force=force)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as stream:
            yield stream
        _refuse_existing(file, force=force)
        beside.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path!r}: {reason_of(error)}", hint="Choose another --to-file."
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _refuse_existing(file: Path, *, force: bool) -> None:
    if not force and file.exists():
        raise UsageError(f"{str(file)!r} exists", hint="Choose another name, or give --force.")


@contextmanager
def _onto_stdout() -> Iterator[BinaryIO]:
    """A file whose bytes go to stdout at the end of a block that does not fail."""
    try:
        with tempfile.SpooledTemporaryFile(_SPOOLED_IN_MEMORY) as stream:
            yield cast(BinaryIO, stream)
            stream.seek(0)
            with on_stdout():
                shutil.copyfileobj(stream, sys.stdout.buffer)
    except OSError as error:
        raise ConfigurationError(
            f"cannot keep the source in {tempfile.gettempdir()!r}: {reason_of(error)}",
            hint="Set TMPDIR to a folder with more space, or give -o FILE.",
        ) from error


def _tell(done: Extracted, path: str, *, as_json: bool) -> None:
    if as_json:
        print_line(json.dumps(done.model_dump(mode="json") | {"file": path}))
        return
    how = "byte for byte as it was" if done.identical else "with the content that it had"
    line = f"{done.key}: {count_of(done.bytes, 'byte')} out of {done.output}, {how}"
    typer.echo(printable(line), err=True)
