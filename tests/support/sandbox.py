"""A view of this machine in which a command may change everything and nothing is changed."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# Namespaces of its own: what it mounts is gone with it, and so is every process that it began.
_ENTER = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"]
_COVER = """
mount -t tmpfs tmpfs /mnt
for folder in etc var; do
  mkdir "/mnt/$folder" "/mnt/$folder.work"
  mount -t overlay overlay -o "lowerdir=/$folder,upperdir=/mnt/$folder,workdir=/mnt/$folder.work" "/$folder"
done
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /run
mkdir -m 1777 /run/lock
"""


@cache
def available() -> bool:
    """Whether this user and kernel can make one."""
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run([*_ENTER, _COVER], capture_output=True, check=False).returncode == 0
    )


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of shell at the root of the repository, until the first that fails.

    /etc and /var are as they are on this machine, /opt and /run are empty, and all four may be
    written to.
    """
    return subprocess.run(
        [*_ENTER, "\n".join([_COVER, *lines])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
