"""Names the tools that are not on this machine, and the checks that are skipped without them: `make
bootstrap`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# Any one of the tools is enough: what it checks, and where it comes from.
CHECKS: dict[tuple[str, ...], tuple[str, str]] = {
    ("chromium", "chromium-browser", "google-chrome"): (
        "the HTML report as a browser shows it",
        "the distribution's chromium",
    ),
    ("java",): ("outputs read by the JDK", "the distribution's JDK"),
    ("mvn",): ("outputs read by the AWS SDK, Hadoop and Spark", "the distribution's maven"),
    ("go",): ("real servers: versitygw, MinIO", "https://go.dev/dl"),
    ("npm",): ("real servers: s3rver", "the distribution's npm"),
    ("docker",): ("docker-compose.yml", "docker with its compose plugin"),
    ("kubectl", "kustomize"): ("the Kubernetes overlays", "https://kubernetes.io/releases"),
    ("systemd-analyze",): ("the systemd units", "the distribution's systemd"),
    ("systemd-nspawn",): ("the documented lines under a real systemd", "systemd-container"),
    ("cron",): ("the crontab line, started by a real cron", "the distribution's cron"),
    ("unshare",): ("cron and systemd files in a sandbox", "the distribution's util-linux"),
    ("flock",): ("the crontab line", "the distribution's util-linux"),
    ("terraform", "tofu"): ("the Terraform module's variables", "https://opentofu.org"),
    ("checkov",): ("the templates against checkov's rules", "pipx install checkov"),
    ("aws",): ("the pipelines' scripts with the real CLI", "make test-deploy"),
    ("shellcheck",): ("the shell scripts", "make test-deploy"),
    ("aviator",): ("the pipelines as aviator sets them", "https://github.com/herrjulz/aviator"),
    ("spruce",): ("the pipelines as spruce merges them", "https://github.com/geofffranks/spruce"),
    ("fly",): ("the pipelines as Concourse reads them", "the first page of your Concourse"),
    ("actionlint",): ("the GitHub workflows", "https://github.com/rhysd/actionlint"),
}


def skipped(has: Callable[[str], object]) -> list[str]:
    """A line for each check without a tool; `has` says whether a tool is there."""
    return [
        f"  {' or '.join(tools):48} {what} ({where})"
        for tools, (what, where) in CHECKS.items()
        if not any(map(has, tools))
    ]


def main() -> None:
    """Prints them; nothing where every tool is there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if lines := skipped(lambda tool: shutil.which(tool, path=path)):
        print("Ready. Not on this machine, so the tests skip what needs it:", *lines, sep="\n")


if __name__ == "__main__":
    main()
