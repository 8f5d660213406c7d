"""Concourse pipelines merged from their parts: by the real spruce where it is on the PATH, and by a
small merge of the same meaning.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
INJECT = re.compile(r"\(\( inject (\S+) \)\)")


def parts(aviator: str) -> list[Path]:
    """The files that an aviator file merges, in its order."""
    (step,) = yaml.safe_load((ROOT / aviator).read_text())["spruce"]
    found = [ROOT / step["base"]]
    for merge in step["merge"]:
        named = (
            path
            for path in sorted((ROOT / merge["with_in"]).iterdir())
            if path.is_file() and re.match(merge["regexp"], path.name)
        )
        found += [path for path in named if path.name not in merge.get("except", ())]
    return found


def merged_by_spruce(aviator: str) -> Any:
    spruce = shutil.which("spruce") or ""
    done = subprocess.run(
        [spruce, "merge", "--prune", "meta", *map(str, parts(aviator))],
        capture_output=True,
        text=True,
        check=True,
    )
    return yaml.safe_load(done.stdout)


def merged(aviator: str) -> Any:
    """What spruce makes of it: maps and lists of named maps are merged, `inject` copies a map under
    the keys beside it, `meta` is pruned.
    """
    whole: Any = {}
    for path in parts(aviator):
        whole = _merge(whole, yaml.safe_load(path.read_text()))
    result = _evaluated(whole, whole)
    result.pop("meta")
    return result


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {
            key: _merge(below[key], above[key])
            if key in below and key in above
            else {**below, **above}[key]
            for key in [*below, *(above.keys() - below.keys())]
        }
    if (
        isinstance(below, list)
        and isinstance(above, list)
        and all(isinstance(item, dict) and "name" in item for item in [*below, *above])
    ):
        named = {item["name"]: item for item in below}
        for item in above:
            named[item["name"]] = (
                _merge(named[item["name"]], item) if item["name"] in named else item
            )
        return list(named.values())
    return above


def _evaluated(value: Any, whole: Any) -> Any:
    if isinstance(value, list):
        return [_evaluated(item, whole) for item in value]
    if not isinstance(value, dict):
        return value
    own = {key: _evaluated(item, whole) for key, item in value.items() if key != "."}
    match = INJECT.fullmatch(str(value.get(".", "")))
    if match is None:
        return own
    source = whole
    for step in match[1].split("."):
        source = source[step]
    return _merge(_evaluated(source, whole), own)
