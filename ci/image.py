"""Builds the container image, and runs it as a strict scheduler would: `python ci/image.py
{build|size|run} ...`.

`build` uses docker, podman or buildah, whichever is there and answers. Where no registry can be
reached, buildah gets a stand-in for the base image, made by debootstrap: the same Debian and
Python, so that every step of the Dockerfile is still carried out. `run` gives the container nothing
to write on: the root file system is read-only, and there is no volume and no capability. It shares
the host's network, so that it finds a server on the loopback address.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

BASE = "python:3.11-slim-bookworm"
TAG = "coalesce:local"
STAND_IN = "localhost/coalesce-base:stand-in"
ROOT = Path(__file__).parent.parent


def engine() -> str:
    """docker, podman or buildah; ends the program if none answers."""
    for name, probe in (("docker", "info"), ("podman", "info"), ("buildah", "images")):
        if (
            shutil.which(name)
            and subprocess.run([name, probe], capture_output=True, check=False).returncode == 0
        ):
            return name
    sys.exit("no image can be built here: none of docker, podman and buildah answers")


def build(base: str, tag: str) -> None:
    """Builds the Dockerfile on a base image."""
    name = engine()
    if name != "buildah":
        _do(name, "build", "--build-arg", f"BASE={base}", "--tag", tag, str(ROOT))
        return
    if subprocess.run(
        ["buildah", "pull", "--quiet", "--policy", "missing", "--retry", "0", base],
        capture_output=True,
        check=False,
    ).returncode:
        sys.stderr.write(
            f"{base} cannot be pulled: building on a stand-in that debootstrap makes\n"
        )
        base = stand_in()
    _do(
        "buildah",
        "build",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        "--pull-never",
        "--build-arg",
        f"BASE={base}",
        "--tag",
        tag,
        str(ROOT),
    )


def stand_in() -> str:
    """An image with the base's Debian and Python; made once."""
    if (
        subprocess.run(
            ["buildah", "inspect", "--type", "image", STAND_IN], capture_output=True, check=False
        ).returncode
        == 0
    ):
        return STAND_IN
    if shutil.which("debootstrap") is None:
        sys.exit(
            "the base image cannot be pulled, and its stand-in cannot be made without debootstrap"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        _do(
            "debootstrap",
            "--variant=minbase",
            "--include=python3,python3-venv,python3-pip,ca-certificates",
            "bookworm",
            str(root),
        )
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        shutil.rmtree(root / "var/cache/apt")
        shutil.rmtree(root / "var/lib/apt/lists")
        # the host may trust one more, in front of its registries
        authorities = Path("/etc/ssl/certs/ca-certificates.crt")
        shutil.copyfile(authorities, root / authorities.relative_to("/"))
        container = _said("buildah", "from", "scratch")
        _do("buildah", "copy", "--quiet", container, str(root))
        _do(
            "buildah",
            "config",
            "--env",
            f"SSL_CERT_FILE={authorities}",
            "--env",
            f"PIP_CERT={authorities}",
            container,
        )
        _do("buildah", "commit", "--quiet", "--rm", container, STAND_IN)
    return STAND_IN


def run(tag: str, entrypoint: list[str], arguments: list[str], variables: dict[str, str]) -> int:
    """Runs the image; its exit code. `entrypoint` replaces the image's own, unless it is empty.

    Signals are passed on to the container.
    """
    name = engine()
    if name == "buildah":
        return _run_bundle(tag, entrypoint, arguments, variables)
    options = [f"--env={key}={value}" for key, value in variables.items()] + [
        f"--entrypoint={entrypoint[0]}"
    ] * bool(entrypoint)
    strict = [
        "--rm",
        "--read-only",
        "--network=host",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
    ]
    return _passing_signals([name, "run", *strict, *options, tag, *entrypoint[1:], *arguments])


def _run_bundle(
    tag: str, entrypoint: list[str], arguments: list[str], variables: dict[str, str]
) -> int:
    """With an OCI runtime alone: the image's own configuration becomes the bundle's."""
    runtime = (
        shutil.which("runc")
        or shutil.which("crun")
        or sys.exit("buildah's image cannot be run without runc or crun")
    )
    config = json.loads(_said("buildah", "inspect", "--type", "image", tag))["OCIv1"]["config"]
    container = _said("buildah", "from", "--pull-never", tag)
    try:
        with tempfile.TemporaryDirectory() as bundle:
            subprocess.run([runtime, "spec"], cwd=bundle, check=True)
            path = Path(bundle, "config.json")
            spec = json.loads(path.read_text())
            user, _, group = config["User"].partition(":")
            environment = [*config["Env"], *(f"{key}={value}" for key, value in variables.items())]
            spec["root"] = {"path": _said("buildah", "mount", container), "readonly": True}
            spec["process"] |= {
                "terminal": False,
                "user": {"uid": int(user), "gid": int(group)},
                "args": [*(entrypoint or config["Entrypoint"]), *arguments],
                "env": environment,
                "cwd": config.get("WorkingDir") or "/",
                "capabilities": {},
            }
            spec["linux"]["namespaces"] = [
                space for space in spec["linux"]["namespaces"] if space["type"] != "network"
            ]
            path.write_text(json.dumps(spec))
            return _passing_signals(
                [runtime, "run", "--bundle", bundle, f"coalesce-{uuid.uuid4().hex[:12]}"]
            )
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=False)


def _passing_signals(command: list[str]) -> int:
    process = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    return process.wait()


def size(tag: str) -> None:
    """Prints the size of the image's own layers, and of the largest packages in it."""
    script = (
        "cd /opt/coalesce/lib/python3.*/site-packages && du -sm /opt/coalesce . && "
        "du -sm -- */ | sort -rn | head -12"
    )
    run(tag, ["/bin/sh", "-c", script], [], {})


def _do(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _split(typed: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and behind the first `--`."""
    end = typed.index("--") if "--" in typed else len(typed)
    return typed[:end], typed[end + 1 :]


def main() -> int:
    """What was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", default=TAG)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("--base", default=BASE)
    commands.add_parser("size")
    running = commands.add_parser(
        "run", usage="%(prog)s [--env NAME=VALUE] [--entrypoint COMMAND] -- ARGUMENTS..."
    )
    running.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    running.add_argument(
        "--entrypoint", default="", help="a command line in place of the image's own entry point"
    )
    own, arguments = _split(sys.argv[1:])
    given = parser.parse_args(own)
    if given.command == "build":
        build(given.base, given.tag)
        return 0
    if given.command == "size":
        size(given.tag)
        return 0
    return run(
        given.tag,
        given.entrypoint.split(),
        arguments,
        dict(entry.split("=", 1) for entry in given.env),
    )


if __name__ == "__main__":
    sys.exit(main())
