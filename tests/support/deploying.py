"""What `ci/deploy.sh` tells CloudFormation, by an `aws` that only notes what it is told."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# Without an end: what the script asks for, such as its stacks, is nothing.
_AWS = """\
#!/bin/sh
[ "$2" = deploy ] || exit 0
for word in "$@"; do printf "%s\\t" "$word" >> "$TOLD"; done
echo >> "$TOLD"
"""


@dataclass(frozen=True)
class Deployment:
    """One stack: its name, its template, and the parameters that it is given."""

    stack: str
    template: str
    parameters: dict[str, str]


def deployments(folder: Path, *arguments: str, **variables: str) -> list[Deployment]:
    """Runs the script with these variables; what it would deploy, in its order."""
    told = folder / "told"
    told.write_text("")
    (folder / "aws").write_text(_AWS)
    (folder / "aws").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TOLD": str(told), **variables}
    script = str(ROOT / "ci/deploy.sh")
    subprocess.run(["sh", script, *arguments], env=environment, check=True, capture_output=True)
    return [_read(line.rstrip("\t").split("\t")) for line in told.read_text().splitlines()]


def _read(words: list[str]) -> Deployment:
    template = Path(words[words.index("--template-file") + 1]).stem
    given = dict(word.split("=", 1) for word in words[words.index("--parameter-overrides") + 1 :])
    return Deployment(words[words.index("--stack-name") + 1], template, given)
