"""The CloudFormation templates as plain data."""

from functools import cache
from pathlib import Path
from typing import Any

from cfnlint.decode import decode

AWS = Path(__file__).parent.parent.parent / "deploy/aws"


@cache
def template(name: str) -> Any:
    """A template, its short functions (`!Ref`) as the long ones."""
    decoded, problems = decode(str(AWS / f"{name}.yaml"))
    assert not problems, problems
    return decoded
