"""Every option of the commands that work on a bucket, said in every way, and what it does to the
bucket or to what the user sees: not what it becomes in the settings.

An option is said by each of its names on the command line, by each of its variables, and by each of
its names in a configuration file. The other commands are in `test_tool_effects.py`, how the store
is reached in `test_store_effects.py`.
"""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coalesce.cli.app import COMMANDS
from coalesce.cli.options import STORE
from coalesce.storage.attributes import SSE, SSE_KEY
from coalesce.storage.memory import StoredObject
from support import lakes
from support.effects import (
    Case,
    Look,
    check_effect,
    code,
    count,
    everything,
    in_summary,
    named_in,
    outputs,
    state,
    stderr_has,
    stdout_has,
    stdout_is_json,
    writes,
)
from support.inventories import MANIFEST
from support.invoke import Sight, invoke, typed
from support.lakes import DAY

T0, T1, U0, DAILY, MORE = "t_0_0_3", "t_1_0_2", "u_0_0_1", "2026/11/22/t_0_0_1", "more/t_0_0_1"
USUAL_OUTPUTS = [DAILY, T0, T1, U0]
SCOPE = {
    "targets": (["s3://b/more"], [MORE]),
    "bucket": ("other", ["x_0_0_2"]),
    "prefix": (["more", DAY], [DAILY, MORE]),
    "whole_bucket": (True, [DAILY, MORE, T0, T1, U0]),
    "date": ("2026-11-21..2026-11-22", [DAILY]),
    "layout": ("manifest", ["m_0_0_m_0_1.txt"]),
    "manifests": (True, ["m_0_0_m_0_1.txt"]),
    "partition": (["1", "7"], [T1]),
    "topic": (["u*"], [U0]),
    "include": (["*/t_1_*", "data/u_*"], [T1, U0]),
    "exclude": (["*/u_*", "*/t_1_*"], [DAILY, T0]),
    "shard": ("2/4", [T1]),
}
INSTEAD = {"targets": ("bucket", "prefix"), "whole_bucket": ("prefix",)}
planned, verified = named_in("planned"), named_in("verified")


def scope(
    look: Look, seen: Callable[[list[str]], object] = lambda found: found, **more: Any
) -> dict[str, Case]:
    """The options that choose what is worked on; `seen` says how these outputs show."""
    return {
        name: Case(value, look, seen(found), instead=INSTEAD.get(name, ()), **more)
        for name, (value, found) in SCOPE.items()
    }


def batching(outputs_made: Look) -> dict[str, Case]:
    """The options that cut groups into outputs, by how many outputs there are: 4 without them."""
    return {
        "max_files": Case(2, outputs_made, 5),
        "max_size": Case(70, outputs_made, 5),
        # Two sources have 58 bytes: they do not fit into 97% of this.
        "gzip": Case("members", outputs_made, 5, more={"max_size": 59}),
        "min_files": Case(4, outputs_made, 1),
        "min_age": Case("2h", outputs_made, 0),
        "grow": Case("1KB", outputs_made, 1, fill=lakes.small_outputs),
    }


def state_of_whole_bucket(look: Look, seen: object, **more: Any) -> Case:
    """What lies under `--state more` is the program's own."""
    return Case("more", look, seen, never=("prefix",), more={"whole_bucket": True}, **more)


def in_outputs(name: str, value: object, look: Callable[[StoredObject], object]) -> dict[str, Case]:
    """An option of what the outputs say, and what each says then."""

    def seen(sight: Sight) -> list[object]:
        return [look(sight.bucket.objects[key]) for key in sight.outputs]

    return {name: Case(value, seen, [look(MADE[name])] * 2, fill=lakes.described)}


def header(name: str) -> Callable[[StoredObject], object]:
    return lambda stored: stored.attributes.get(name)


def same(value: object, **more: Any) -> Case:
    return Case(value, everything, same=True, **more)


def of_other(look: Look, seen: object, **more: Any) -> Case:
    """`--config`, with a file that names another bucket."""
    return Case("other.toml", look, seen, instead=("bucket",), **more)


MADE = {
    "sse": StoredObject(b"", "", 0, headers={SSE: "AES256"}),
    "tags": StoredObject(b"", "", 0, tags={"a": "1", "b": ""}),
    "metadata": StoredObject(b"", "", 0, {"k": "v"}),
    "content_type": StoredObject(b"", "", 0, content_type="text/plain"),
    "content_encoding": StoredObject(b"", "", 0),
}
ATTRIBUTES = {
    "storage_class": Case("none", count(outputs), 1, fill=lakes.described),
    **in_outputs("sse", "AES256", header(SSE)),
    "sse_kms_key_id": Case(
        "alias/other",
        lambda sight: {header(SSE_KEY)(sight.bucket.objects[key]) for key in sight.outputs},
        {"alias/other"},
        fill=lakes.described,
        more={"sse": "aws:kms"},
    ),
    **in_outputs("tags", "a=1,b=", lambda stored: dict(stored.tags)),
    **in_outputs("metadata", "K=v", lambda stored: stored.metadata.get("k")),
    **in_outputs("content_type", "text/plain", header("content-type")),
    **in_outputs("content_encoding", "none", header("content-encoding")),
    "strict_attributes": Case(
        True, in_summary("sources", "left", "attributes"), 2, fill=lakes.described
    ),
}


def lease_seconds(sight: Sight) -> float:
    return float(sight.leases[0]["seconds"])


def stopped(sight: Sight) -> tuple[int, int]:
    return sight.code, len(sight.outputs)


def sources(sight: Sight) -> int:
    return sum("_0-0." in key for key in sight.bucket.objects)


def entries(sight: Sight) -> int:
    return sum(key.startswith("_coalesce/ledger/") for key in sight.bucket.objects)


def processes(sight: Sight) -> list[int]:
    return sight.processes


def quiet(sight: Sight) -> bool:
    return not sight.stdout and not sight.stderr


def output(words: str, **warned: Any) -> dict[str, Case]:
    """The options of what is said, where there is a warning in these `words`."""
    return {
        "report": Case("r.json", writes("r.json"), True),
        "output": Case("json", stdout_is_json, True, never=("output",)),
        "log_level": Case("error", stderr_has(words), False, **warned),
        "log_format": Case("text", stderr_has(f"WARNING {words}"), True, **warned),
        "quiet": Case(True, quiet, True, never=("output",), **warned),
        "no_progress": Case(True, lambda sight: sight.bars, 0, terminal=True, never=("output",)),
        "stats_interval": Case("7s", lambda sight: set(sight.pauses), {7.0}),
    }


WATCHED = {
    "metrics_file": Case("m.prom", writes("m.prom"), True),
    "emf": Case(True, stdout_has('"_aws"'), True),
    "ping_url": Case("http://127.0.0.1:1/x", stderr_has("cannot call --ping-url"), True),
}
OUTPUT = output("-u and -c are accepted, but have no effect", more={"summaries": "3"})
LEGACY = {
    "summaries": Case("3", stderr_has("no effect"), True),
    "parallelise": Case(True, stderr_has("no effect"), True),
}
ONE_TOPIC: dict[str, object] = {"topic": ["t"], "partition": ["0"], "exclude": ["data/2026/*"]}
RUN = {
    **scope(outputs),
    "max_objects": Case(1, code, 2),
    "max_path_list": Case(9, code, 2),
    "files_from": Case("list.txt", outputs, ["t_0_1_2"]),
    "inventory": Case(f"s3://other/{MANIFEST}", outputs, [T0], others=lakes.inventory),
    **batching(count(outputs)),
    **ATTRIBUTES,
    "check": Case(False, code, 0, fill=lakes.spoilt),
    "no_delete": Case(True, sources, 5),
    "ledger": Case(False, entries, 0),
    "dry_run": Case(True, planned, USUAL_OUTPUTS),
    "plan": Case("plan.jsonl", outputs, [T1], never=("min_age",)),
    "concurrency": Case(1, lambda sight: sight.most_read, 1),
    "processes": Case(2, processes, [2]),
    "multiprocessor": Case(True, processes, [3], more={"processes": 2}, instead=("processes",)),
    "memory": Case("64MiB", processes, [2], more={"processes": 4}),
    "state": Case("elsewhere", state, True),
    "lease": Case("77s", lease_seconds, 77.0),
    "accept_weaker": Case(["overwrite-race"], code, 0, fill=lakes.weak),
    "max_groups": Case(1, stopped, (12, 1)),
    "max_bytes": Case(70, stopped, (12, 1), more=ONE_TOPIC | {"max_files": 2}),
    "max_delete": Case(2, stopped, (12, 1), more=ONE_TOPIC | {"max_files": 2}),
    "deadline": Case("1ms", stopped, (12, 0)),
    "error_on_nothing": Case(True, code, 3, fill=lakes.empty),
    "config": of_other(outputs, ["x_0_0_2"]),
    "save_plan": Case("saved.jsonl", code, 2),
    **OUTPUT,
    **WATCHED,
    "verbose": Case(True, stdout_has('{"type": "left"'), True, fill=lakes.spoilt),
    **LEGACY,
}
NOT_PLANNED = (
    "check",
    "no_delete",
    "ledger",
    "dry_run",
    "concurrency",
    "processes",
    "multiprocessor",
    "lease",
    "accept_weaker",
    "max_groups",
    "max_bytes",
    "max_delete",
)
PLAN = {
    **scope(planned),
    "max_objects": Case(1, code, 2),
    "max_path_list": Case(9, code, 2),
    "files_from": Case("list.txt", planned, ["t_0_1_2"]),
    "inventory": Case(f"s3://other/{MANIFEST}", planned, [T0], others=lakes.inventory),
    **batching(count(planned)),
    **{name: same(RUN[name].value) for name in NOT_PLANNED},
    **{name: same(ATTRIBUTES[name].value, more=ATTRIBUTES[name].more) for name in ATTRIBUTES},
    "storage_class": Case("none", count(planned), 1, fill=lakes.described),
    "plan": Case("plan.jsonl", code, 2),
    "memory": Case("64MiB", in_summary("plan", "memory_bytes"), 204 * 1024**2),
    "state": state_of_whole_bucket(planned, USUAL_OUTPUTS),
    "deadline": Case("1h", everything, same=True),
    "error_on_nothing": Case(True, code, 3, fill=lakes.empty),
    "config": of_other(planned, ["x_0_0_2"]),
    "save_plan": Case("saved.jsonl", writes("saved.jsonl"), True),
    **OUTPUT,
    **{name: same(case.value) for name, case in WATCHED.items()},
    "verbose": Case(True, stdout_has('{"type": "left"'), True, more={"min_files": 4}),
    **LEGACY,
}


def settled(sight: Sight) -> int:
    return int(sight.last["recovered"]["groups"])


RECOVER = {
    "targets": Case(
        ["s3://b/more"], settled, 0, instead=("bucket", "prefix"), fill=lakes.unfinished
    ),
    "bucket": Case("other", settled, 0, fill=lakes.unfinished),
    "prefix": Case(["more"], settled, 0, fill=lakes.unfinished),
    "whole_bucket": Case(
        True, settled, 2, fill=lakes.unfinished, instead=("prefix",), more={"prefix": ["more"]}
    ),
    **{
        name: same(SCOPE[name][0], fill=lakes.unfinished)
        for name in ("date", "layout", "manifests", "shard")
    },
    "ledger": Case(False, entries, 0, fill=lakes.unfinished),
    "concurrency": Case(3, in_summary("concurrency", "reads"), 3),
    "memory": Case("64MiB", lambda sight: sight.memory, [64 * 1024**2]),
    "state": Case("elsewhere", settled, 0, fill=lakes.unfinished),
    "lease": Case("77s", lease_seconds, 77.0),
    "accept_weaker": Case(["overwrite-race"], code, 0, fill=lakes.weak),
    "deadline": Case("1ms", code, 12, fill=lakes.unfinished),
    "error_on_nothing": Case(True, code, 3, fill=lakes.empty),
    "config": of_other(settled, 0, fill=lakes.unfinished),
    **output("run ", fill=lakes.unfinished, more={"prefix": ["more"]}),
    **WATCHED,
    "verbose": same(True),
}


def would_join(sight: Sight) -> dict[str, int]:
    return {t["topic"]: t["would_join"] for t in sight.last["topics"] if t["would_join"]}


def would_write(sight: Sight) -> int:
    return sum(topic["would_write"] for topic in sight.last["topics"])


def by_topic(found: list[str]) -> dict[str, int]:
    """The sources of these outputs, by topic."""
    counts: dict[str, int] = {}
    for name in found:
        topic = name.rpartition("/")[2][0]
        counts[topic] = counts.get(topic, 0) + int(name.removesuffix(".txt")[-1]) + 1
    return counts


STATUS = {
    **scope(would_join, by_topic),
    **batching(would_write),
    "storage_class": Case("none", would_write, 1, fill=lakes.described),
    "state": state_of_whole_bucket(would_join, by_topic(USUAL_OUTPUTS)),
    "config": of_other(would_join, {"x": 3}),
    "output": OUTPUT["output"],
}
JOINED = {"fill": lakes.joined, "others": lakes.joined_other}
VERIFY = {
    **scope(verified, **JOINED),
    "deep": Case(True, code, 4, fill=lakes.damaged),
    "memory": Case("32MiB", lambda sight: sight.most_read, 2, more={"deep": True}, **JOINED),
    "state": state_of_whole_bucket(verified, USUAL_OUTPUTS, **JOINED),
    "config": of_other(verified, ["x_0_0_2"], **JOINED),
    "output": OUTPUT["output"],
    "no_progress": Case(
        True, lambda sight: sight.bars, 0, terminal=True, never=("output",), **JOINED
    ),
}
told = named_in("output")
HISTORY = {
    "targets": Case(
        ["s3://b/data/u_0_1-1.jsonl.gz"], told, [U0], instead=("bucket", "prefix"), **JOINED
    ),
    "run": Case("nobody's", code, 1, **JOINED),
    "offset": Case("u:0:1", told, [U0], more={"prefix": ["data"]}, **JOINED),
    "bucket": Case("other", told, [], **JOINED),
    "prefix": Case(["data/u_0_0_1.jsonl.gz"], told, [U0], **JOINED),
    "whole_bucket": Case(
        True, told, [DAILY, MORE, T0], instead=("prefix",), more={"offset": "t:0:1"}, **JOINED
    ),
    "date": Case(
        "2026-11-22", told, [DAILY], more={"offset": "t:0:1", "prefix": ["data"]}, **JOINED
    ),
    "state": Case("elsewhere", state, True, **JOINED),
    "config": of_other(told, [], **JOINED),
    "output": Case("json", stdout_is_json, True, never=("output",), **JOINED),
}


def taken(sight: Sight) -> bytes:
    """The content of the source that was written, nothing if none was."""
    file = sight.folder / "taken.gz"
    return gzip.decompress(file.read_bytes()) if file.exists() else b""


EXTRACT = {
    "targets": Case(
        ["s3://b/data/u_0_0-0.jsonl.gz"],
        taken,
        b'{"n": 0}\n',
        instead=("bucket", "prefix"),
        **JOINED,
    ),
    "to_file": Case("taken.gz", taken, b'{"n": 1}\n', never=("to_file",), **JOINED),
    "force": Case(True, code, 0, more={"to_file": "other.toml"}, **JOINED),
    "bucket": Case("other", taken, b"", **JOINED),
    "prefix": Case(["data/u_0_0-0.jsonl.gz"], taken, b'{"n": 0}\n', **JOINED),
    "state": Case("elsewhere", state, True, **JOINED),
    "config": of_other(taken, b"", **JOINED),
    "output": Case("json", stdout_is_json, True, **JOINED),
}
undone, WITH_MANIFESTS = named_in("undone"), "m_0_0_m_0_1.txt"  # outputs of every layout
UNDO = {
    **{
        name: case
        for name, case in scope(undone, **JOINED).items()
        if name not in ("layout", "manifests")
    },
    "whole_bucket": Case(
        True, undone, [DAILY, WITH_MANIFESTS, MORE, T0, T1, U0], instead=("prefix",), **JOINED
    ),
    "exclude": Case(["*/u_*", "*/t_1_*"], undone, [DAILY, WITH_MANIFESTS, T0], **JOINED),
    "run": Case("another", undone, [], **JOINED),
    "dry_run": Case(True, planned, [DAILY, WITH_MANIFESTS, T0, T1, U0], **JOINED),
    "concurrency": Case(3, in_summary("concurrency", "reads"), 3, **JOINED),
    "memory": Case("64MiB", lambda sight: sight.memory, [64 * 1024**2], **JOINED),
    "state": Case("elsewhere", undone, [], **JOINED),
    "lease": Case("77s", lease_seconds, 77.0, **JOINED),
    "accept_weaker": Case(["overwrite-race"], code, 0, fill=lakes.weak),
    "deadline": Case("1ms", code, 12, **JOINED),
    "error_on_nothing": Case(True, code, 3, fill=lakes.empty),
    "config": of_other(undone, ["x_0_0_2"], **JOINED),
    **output("run ", fill=lakes.unfinished, more={"prefix": ["more"]}),
    "verbose": same(True, **JOINED),
}
CASES = {
    "run": RUN,
    "plan": PLAN,
    "recover": RECOVER,
    "undo": UNDO,
    "status": STATUS,
    "verify": VERIFY,
    "history": HISTORY,
    "extract": EXTRACT,
}
_PLACE: dict[str, object] = {"bucket": "b", "prefix": ["data"], "output": "json"}
USUAL = {name: _PLACE | {"min_age": "0"} for name in ("run", "plan", "status")} | {
    "recover": _PLACE,
    "undo": _PLACE,
    "verify": _PLACE,
    "history": _PLACE | {"prefix": ["data/t_0_0_3.jsonl.gz"]},
    "extract": {"bucket": "b", "prefix": ["data/t_0_1-1.jsonl.gz"], "to_file": "taken.gz"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the commands are started: with a saved plan and a configuration file."""
    (tmp_path / "other.toml").write_text('bucket = "other"\n')
    (tmp_path / "list.txt").write_text("data/t_0_1-1.jsonl.gz\ndata/t_0_2-2.jsonl.gz\n")
    asked = USUAL["plan"] | {"include": ["data/t_1*"], "save_plan": "plan.jsonl"}
    done = invoke(["plan", *typed("plan", asked)], {"b": lakes.lake()}, folder=tmp_path)
    assert done.code == 0, done.stderr
    return tmp_path


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command, cases in CASES.items() for name in cases]
)
def test_an_option_has_its_effect_however_it_is_said(command: str, name: str, folder: Path) -> None:
    check_effect(command, name, CASES[command][name], USUAL[command], folder)


@pytest.mark.parametrize("command", CASES)
def test_no_option_is_forgotten(command: str) -> None:
    known = {option.name for option in COMMANDS[command].options}
    assert CASES[command].keys() == known - {option.name for option in STORE.options}
