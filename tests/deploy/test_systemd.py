"""The systemd units and the crontab line: verified by systemd itself, and tried."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UNITS = ROOT / "deploy/systemd"
INSTALLED = "/opt/coalesce/bin/coalesce"

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze on the PATH"
)
flock = pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock on the PATH")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they would be for a location, with the program where this environment has it:
    systemd looks whether it is there.
    """
    for name in ("service", "timer"):
        text = (
            (UNITS / f"coalesce@.{name}")
            .read_text()
            .replace(INSTALLED, str(Path(sys.executable).parent / "coalesce"))
        )
        for file in (f"coalesce@.{name}", f"coalesce@main.{name}"):
            (tmp_path / file).write_text(text)
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False
    )


@systemd
def test_systemd_finds_nothing_wrong(units: Path) -> None:
    done = analyze(
        "verify",
        "--man=no",
        str(units / "coalesce@main.service"),
        str(units / "coalesce@main.timer"),
    )
    assert (done.returncode, done.stderr) == (0, "")


@systemd
def test_the_service_is_not_exposed(units: Path) -> None:
    """Level 1.2 of 10 when this was written; systemd calls below 2 "OK" and more than 9
    "UNSAFE".
    """
    done = analyze(
        "security", "--offline=true", "--threshold=15", str(units / "coalesce@main.service")
    )
    assert done.returncode == 0, done.stdout


@systemd
def test_the_timer_fires_at_half_past_two_utc() -> None:
    (calendar,) = re.findall(
        r"^OnCalendar=(.+)$", (UNITS / "coalesce@.timer").read_text(), re.MULTILINE
    )
    done = analyze("calendar", "--iterations=2", calendar)
    assert done.returncode == 0
    assert len(re.findall(r"02:30:00 UTC$", done.stdout, re.MULTILINE)) >= 2


def codes(setting: str) -> set[int]:
    (value,) = re.findall(
        rf"^{setting}=(.+)$", (UNITS / "coalesce@.service").read_text(), re.MULTILINE
    )
    return {int(code) for code in value.split()}


def test_exit_codes_mean_to_systemd_what_they_mean_to_us() -> None:
    assert codes("SuccessExitStatus") == {11, 12, 130, 143}
    assert codes("RestartForceExitStatus") == {75}


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
    command = line().split(maxsplit=6)[6].replace("/run/lock/", f"{tmp_path}/")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
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
