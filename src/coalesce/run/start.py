"""How a run starts: its id, its look at the store, and its report if it cannot start at all."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import replace

from coalesce import __version__
from coalesce.content.attributes import AttributeRules
from coalesce.errors import CoalesceError, ConfigurationError
from coalesce.model import Records
from coalesce.naming.own_layouts import check_sample
from coalesce.protocol.lease import Claim
from coalesce.protocol.probe import probe
from coalesce.protocol.session import GroupRules
from coalesce.protocol.state import probe_prefix
from coalesce.report.account import Account, new_report
from coalesce.report.events import RunEvent
from coalesce.report.report import Report
from coalesce.run.workload import Workload
from coalesce.settings import Settings
from coalesce.storage.base import ObjectStore
from coalesce.storage.capabilities import Capabilities, admit
from coalesce.storage.checksums import Checksum


def new_run_id() -> str:
    """Returns an id that no other run has. Ids sort by time."""
    return f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


def report_failure(
    settings: Settings, error: CoalesceError, emit: Callable[[RunEvent], None]
) -> Report:
    """Returns the report of a run that could not open its bucket."""
    prefixes = settings.prefixes(dt.datetime.now(dt.UTC).date())
    account = Account(new_report(new_run_id(), settings, prefixes), emit, settings.max_size)
    account.add_failure(error)
    return account.report


async def try_own_layout(store: ObjectStore, workload: Workload) -> None:
    """Tries a user's own layout on some keys that are there, before anything is begun.

    Raises ConfigurationError if it cannot name their outputs, StorageError.
    """
    layout, state = workload.layout, workload.settings.state_prefix
    if not layout.data.own:
        return
    page = await store.list_page(workload.prefixes[0])
    try:
        check_sample(layout, (e.key for e in page.objects if not e.key.startswith(state)))
    except ValueError as error:
        raise ConfigurationError(
            f"[layout.{layout.name}] {error}",
            code="BadLayout",
            hint=f"Try it with `coalesce layout test {layout.name} KEY`.",
        ) from error


async def probe_store(
    store: ObjectStore, lease: Claim, workload: Workload, report: Report
) -> GroupRules:
    """Tries which guarantees the store keeps, and notes them in the report.

    Returns the rules for all groups. Raises StoreRefused if deleting would not be safe.
    """
    settings = workload.settings
    capabilities = await probe(store, probe_prefix(settings.state_prefix, report.run_id), lease)
    report.store.capabilities = capabilities.as_dict()
    report.store.mode = admit(capabilities, settings.accept_weaker)
    return GroupRules(
        state=settings.state_prefix,
        run_id=report.run_id,
        version=__version__,
        layout=workload.layout,
        known=settings.known_layouts,
        limits=replace(workload.limits, copy=_may_copy(settings, capabilities)),
        capabilities=capabilities,
        # A header can only be taken out of what is looked at.
        check=settings.check or workload.layout.records is Records.CSV_HEADER,
        delete=settings.delete,
        ledger=settings.ledger,
        attributes=AttributeRules.of(settings),
    )


def _may_copy(settings: Settings, capabilities: Capabilities) -> bool:
    """Decides whether the store may copy sources into outputs by itself.

    Only if the store copies no other version than the listed one, and if it keeps a checksum of the
    whole output. What is copied unread says nothing of its attributes.
    """
    return (
        (settings.check or not settings.strict_attributes)
        and capabilities.copy_condition
        and capabilities.checksum is Checksum.CRC64NVME
    )
