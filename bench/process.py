"""Whole processes, measured from outside (Linux): wall and CPU time with all descendants, and
memory at the peak.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A command that did not end well: its exit code and the end of what it said."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"exit code {code}: {said.strip()[-2000:]}")
        self.code, self.said = code, said


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: seconds, CPU seconds (user and system), those of the whole machine, bytes of
    memory at the peak, those of the largest process, and what was written to stdout.
    """

    wall: float
    cpu: float
    machine: float
    peak: int
    largest: int
    said: str


def measured(command: list[str], environment: Mapping[str, str]) -> Cost:
    """Runs a command to its end. Raises Failed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun, busy = time.perf_counter(), machine_cpu()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        memory = _Memory(process.pid)
        memory.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall, machine = time.perf_counter() - begun, machine_cpu() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
        memory.join()
        out.seek(0)
        err.seek(0)
        said, complained = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode:
        raise Failed(process.returncode, complained or said)
    return Cost(wall, usage.ru_utime + usage.ru_stime, machine, memory.peak, memory.largest, said)


class _Memory(threading.Thread):
    """The greatest sum of the high-water marks of the processes that are alive at once, and the
    highest of them.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = self.largest = 0
        self._pid = pid

    def run(self) -> None:
        while any(marks := list(map(_high_water, family(self._pid)))):
            self.peak, self.largest = max(self.peak, sum(marks)), max(self.largest, *marks)
            time.sleep(SAMPLE_SECONDS)


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in listed.read_text().split():
                yield from family(int(child))


def _high_water(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def machine_cpu() -> float:
    """CPU seconds of everything on the machine since it began (proc(5), stat), waiting not
    counted.
    """
    user, nice, system, _, _, interrupts, soft, stolen, *_ = (
        Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return sum(map(int, (user, nice, system, interrupts, soft, stolen))) / TICKS


def process_cpu(pid: int) -> float:
    """CPU seconds of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_until_connected(command: list[str], environment: Mapping[str, str]) -> float:
    """CPU seconds that a command takes until it opens its first connection to `{port}`; it is ended
    there.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        words = [word.format(port=server.getsockname()[1]) for word in command]
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            server.accept()
            return sum(map(_cpu, Path(f"/proc/{process.pid}/task").iterdir()))
        finally:
            process.kill()
            process.wait()


def _cpu(task: Path) -> float:
    return int((task / "schedstat").read_text().split()[0]) / 1e9
