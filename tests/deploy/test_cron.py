"""The crontab line: installed as the docs tell, and started by a real cron at half past two."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Store
from support import sandbox
from support.buckets import check_finished, data_in, fill, look
from support.command import coalesce
from support.typed import commands

ROOT = Path(__file__).parent.parent.parent
cron = shutil.which("cron", path="/usr/sbin:/sbin")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)

flock = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock on the PATH")


def line() -> str:
    (found,) = [
        line
        for line in (ROOT / "deploy/cron/coalesce").read_text().splitlines()
        if re.match(r"\d", line)
    ]
    return found


def test_the_crontab_line_has_its_fields() -> None:
    minute, hour, *days, user, command = line().split(maxsplit=6)
    assert (minute, hour, days, user) == ("30", "2", ["*"] * 3, "coalesce")
    assert "%" not in command  # cron would make a newline of it


@flock
def test_a_second_run_does_not_start_beside_a_slow_first_one(tmp_path: Path) -> None:
    """The line itself, with a stand-in for the program that tells of its start and waits to be let
    go.
    """
    (tmp_path / "coalesce").write_text(
        f"#!/bin/sh\necho started\nread answer < {tmp_path}/gate\nexit 75\n"
    )
    (tmp_path / "coalesce").chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    command = line().split(maxsplit=6)[6]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    first = subprocess.Popen(
        ["/bin/sh", "-c", command], env=environment, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        second = subprocess.run(
            ["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False
        )
        (tmp_path / "gate").write_text("\n")
    assert (second.returncode, second.stdout) == (0, "")
    assert first.returncode == 75


# Says as whom and with what it was started.
STAND_IN = """#!/bin/sh
{ id -un; pwd; printf '%s\\n' "$@"; } > /opt/coalesce/told
"""


@flock
@pytest.mark.skipif(
    cron is None or FAKETIME is None, reason="needs cron and libfaketime, both packages of Debian"
)
@pytest.mark.skipif(not sandbox.available(), reason="needs root, unshare and overlay mounts")
async def test_a_real_cron_runs_what_the_docs_tell_to_install(bucket: S3Store) -> None:
    """Line by line, with a stand-in for the program; the clock of cron alone is set to shortly
    before half past two. What cron started is then done on a real server, with another bucket,
    prefix and date.
    """
    user, install, copy = commands("deploy.md", "cron")
    assert install == "python3 -m venv /opt/coalesce && /opt/coalesce/bin/pip install ."
    done = sandbox.run(
        "mkdir -p /etc/cron.d /var/spool/cron /opt/coalesce/bin",
        "for folder in /etc/cron.d /var/spool/cron; do mount -t tmpfs tmpfs $folder; done",
        "mkdir /var/spool/cron/crontabs",
        ": > /etc/crontab",
        "mkfifo -m 666 /opt/coalesce/told",
        f"cat > /opt/coalesce/bin/coalesce <<'END'\n{STAND_IN}END",
        "chmod 755 /opt/coalesce/bin/coalesce",
        user,
        copy,
        f"TZ=UTC LD_PRELOAD={FAKETIME} FAKETIME='@2026-11-26 02:29:58' {cron} -f &",
        "timeout 60 cat /opt/coalesce/told",
        "find /var/lib/coalesce -user coalesce -name '*.lock' >&2",
    )
    assert (done.returncode, done.stderr) == (0, "/var/lib/coalesce/main.lock\n"), done
    name, home, *words = done.stdout.splitlines()
    assert (name, home) == ("coalesce", "/var/lib/coalesce")

    await fill(bucket, 2, 3)
    other = {"my-bucket": bucket.bucket, "corporate_storage/ucfs_main": "data"}
    words = [{**other, "yesterday": "NOT_SET"}.get(word, word) for word in words]
    ran = coalesce(bucket, *words, COALESCE_MIN_AGE="0")
    assert ran.returncode == 0, ran.stderr
    held = await look(bucket)
    assert len(data_in(held)) == 2
    check_finished(held)
