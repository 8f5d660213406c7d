"""Every key under the state prefix."""

from __future__ import annotations

import hashlib
import re

from coalesce.model import GroupId

_ENTRY_NAME = re.compile(r"(.+)\.[0-9a-f]{16}\.jsonl\.gz", re.DOTALL)


def leases_prefix(state: str) -> str:
    """What the keys of all leases begin with."""
    return f"{state}runs/"


def lease_key(state: str, run_id: str) -> str:
    """Where a run's lease stands."""
    return f"{leases_prefix(state)}{run_id}"


def records_prefix(state: str) -> str:
    """What the keys of all plan records begin with."""
    return f"{state}groups/"


def record_key(state: str, group: GroupId) -> str:
    """The one key at which a plan of this group can be recorded."""
    return f"{records_prefix(state)}{group}"


def group_of(state: str, key: str) -> GroupId:
    """The group whose plan record stands at this key. Raises ValueError if none can."""
    name, _, partition = key.removeprefix(records_prefix(state)).rpartition("_")
    cut = name.rfind("/") + 1
    return GroupId(name[:cut], name[cut:], int(partition))


def ledger_prefix(state: str) -> str:
    """What the keys of all ledger entries begin with."""
    return f"{state}ledger/"


def entry_key(state: str, output: str, upload_id: str) -> str:
    """Where the ledger entry of one upload of an output stands: those of two uploads never meet."""
    name = hashlib.sha256(upload_id.encode()).hexdigest()[:16]
    return f"{entries_prefix(state, output)}{name}.jsonl.gz"


def entries_prefix(state: str, output: str) -> str:
    """What the keys of all ledger entries of one output begin with."""
    return f"{ledger_prefix(state)}{output}."


def output_of_entry(state: str, key: str) -> str:
    """The output whose ledger entry stands at this key; empty if none can."""
    prefix = ledger_prefix(state)
    name = _ENTRY_NAME.fullmatch(key.removeprefix(prefix)) if key.startswith(prefix) else None
    return name[1] if name else ""


def probe_prefix(state: str, run_id: str) -> str:
    """Where a run's probe objects live for a moment."""
    return f"{state}probe/{hashlib.sha256(run_id.encode()).hexdigest()[:16]}/"
