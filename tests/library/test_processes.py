"""Worker processes of a process that is somebody else's: only where that is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, fill, look, records_in
from support.command import environment

PROGRAM = """
import sys
import threading

import coalesce


def main() -> None:
    settings = coalesce.Settings(
        bucket=sys.argv[1], prefix=["data"], min_age=0, max_files=4, processes=int(sys.argv[3])
    )
    store = coalesce.S3(endpoint_url=sys.argv[2], region="us-east-1", addressing="path")
    reports = []
    thread = threading.Thread(target=lambda: reports.append(coalesce.run(settings, store=store)))
    thread.start()
    thread.join()
    print(reports[0].exit_code, reports[0].processes, reports[0].sources.deleted)


if __name__ == "__main__":
    main()
"""


def joined(bucket: S3Store, program: Path, wanted: int) -> subprocess.CompletedProcess[str]:
    """What a program says that joins everything in the bucket."""
    program.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, str(program), bucket.bucket, bucket.endpoint, str(wanted)],
        env=environment(bucket.endpoint),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("wanted", "taken"), [(0, 1), (2, 2)])
async def test_they_are_started_anew_and_only_as_many_as_the_settings_say(
    bucket: S3Store, wanted: int, taken: int, tmp_path: Path
) -> None:
    await fill(bucket, 2, 12)
    before = records_in(await look(bucket))
    done = joined(bucket, tmp_path / "program.py", wanted)
    assert (done.stdout.split(), done.stderr) == (["0", str(taken), "24"], "")
    held = await look(bucket)
    assert records_in(held) == before
    check_finished(held)
