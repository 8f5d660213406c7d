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
  over="lowerdir=/$folder,upperdir=/mnt/$folder,workdir=/mnt/$folder.work"
  mount -t overlay overlay -o "$over" "/$folder"
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


# A systemd on a copy of the whole file system, with this machine's network and no more of it.
_BOOT = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cat > /mnt/root/etc/systemd/system/sandbox.service <<'END'
[Service]
Type=oneshot
WorkingDirectory={root}
ExecStart=/bin/sh -ex /mnt/lines
StandardOutput=file:/mnt/out
StandardError=file:/mnt/err
ExecStopPost=/bin/systemctl exit $EXIT_STATUS
END
exec systemd-nspawn --quiet --directory=/mnt/root --register=no --keep-unit --bind={folder}:/mnt \\
  --console=pipe --boot systemd.unit=sandbox.service
"""


def boot(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of shell as `run` does, where systemd is the first process.

    Args:
        folder: an empty one, for the lines and what they print.
        lines: the first that fails is the last.
    """
    (folder / "lines").write_text("\n".join(lines))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _BOOT.format(root=ROOT, folder=folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    out, err = ((folder / name) for name in ("out", "err"))
    if not out.exists():
        raise AssertionError(f"systemd did not come up: {done.stdout}{done.stderr}")
    return subprocess.CompletedProcess(lines, done.returncode, out.read_text(), err.read_text())
