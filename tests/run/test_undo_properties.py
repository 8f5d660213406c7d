"""Whatever lies in the bucket and whatever the options say: a run and an undo together change
nothing.
"""

import asyncio
import gzip
from dataclasses import dataclass, field
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from coalesce.report.report import Report
from coalesce.run.undoing import Wanted
from coalesce.settings import Settings
from coalesce.storage.memory import MemoryStore, StoredObject
from support.auditor import Auditor
from support.buckets import data_in, unfinished_in
from support.runs import new_run
from support.scenarios import AuditedBucket
from support.settings import settings
from support.timeless import Timeless
from support.undos import content_of

DIRECTORIES = ["data/", "data/a b+c/", "data/x_1_2/", "data//", "data/\x01/"]
PARTS = [b"one\n", b"", b"\n", b"two\nthree\n", b"no newline", b"long " * 40 + b"\n"]
SAID = st.fixed_dictionaries(
    {
        "content_type": st.sampled_from(["", "application/gzip", "text/plain"]),
        "metadata": st.sampled_from([{}, {"team": "a"}, {"team": "b"}]),
        "tags": st.sampled_from([{}, {}, {"owner": "x"}]),
        "storage_class": st.sampled_from(["STANDARD", "STANDARD_IA"]),
    }
)


@dataclass
class Lake:
    """Objects, and how they are joined."""

    objects: dict[str, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    part: int = 8 * 1024**2

    def bucket(self) -> AuditedBucket:
        bucket = AuditedBucket(min_part_bytes=min(self.part, 5 * 1024**2))
        bucket.part_bytes = self.part
        for key, (body, said) in self.objects.items():
            bucket.store(key, body, **said)
        bucket.now += 1000
        bucket.audit = Auditor(bucket)
        return bucket


@st.composite
def lakes(draw: st.DrawFn) -> Lake:
    lake, gzipped, check, said = Lake(), draw(st.booleans()), draw(st.booleans()), draw(SAID)
    lake.part = draw(st.sampled_from([8 * 1024**2, 40, 100]))
    for _ in range(draw(st.integers(1, 3))):
        prefix = f"{draw(st.sampled_from(DIRECTORIES))}{draw(st.sampled_from(['t', 'a_1']))}_0_"
        for n in range(draw(st.integers(2, 7))):
            parts = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3))
            if not check:  # only what is whole is joined rightly then
                parts = [part for part in parts if part[-1:] == b"\n"] or [b"one\n"]
            body = b"".join(gzip.compress(part, mtime=0) for part in parts)
            if not gzipped:
                body = b"".join(parts) or b"x"
            end = f"{n * 10 + 9}.jsonl.gz" if gzipped else f"u_1_{n + 7}.txt"
            # What the store copies nobody looks at: then all say the same.
            lake.objects[f"{prefix}{n * 10}-{end}"] = (body, draw(SAID) if check else said)
    lake.options = {
        "layout": "corporate" if gzipped else "manifest",
        "check": check,
        "max_files": draw(st.integers(2, 8)),
        "max_size": draw(st.sampled_from([128_000_000, 400, 150])),
        "strict_attributes": draw(st.booleans()),
        "storage_class": draw(st.sampled_from(["source", "none"])),
        "metadata": draw(st.sampled_from(["source", "none"])),
        "content_type": draw(st.sampled_from(["source", "text/x-made-up"])),
    }
    if check and gzipped:
        lake.options["gzip"] = draw(st.sampled_from(["single", "members"]))
    return lake


def timeless(bucket: AuditedBucket, chosen: Settings, *, undoes: bool) -> Report:
    with asyncio.Runner(loop_factory=lambda: Timeless(bucket)) as runner:
        clock = runner.get_loop().time
        run = new_run(MemoryStore(bucket), chosen, clock=clock)
        return runner.run(run.undo(Wanted()) if undoes else run.coalesce())


def said_by(stored: StoredObject) -> tuple[Any, ...]:
    return stored.attributes, dict(stored.tags), stored.storage_class


@given(lakes())
def test_a_run_and_an_undo_together_change_nothing(lake: Lake) -> None:
    """Neither names nor records nor their order, nor what sources say of themselves."""
    bucket = lake.bucket()
    before = dict(bucket.objects)
    report = timeless(bucket, settings(**lake.options), undoes=False)
    assert report.exit_code == 0, report.failures
    event(f"{report.outputs.written} outputs")
    exact = lake.options.get("gzip") == "members" or not lake.options["check"]
    bucket.now += 1000
    bucket.audit.undoing = True
    written = report.outputs.written
    report = timeless(bucket, settings(), undoes=True)
    assert (report.exit_code, report.undone.outputs) == (0, written), report.failures
    assert data_in(bucket.objects).keys() == before.keys()
    for key, old in before.items():
        new = bucket.objects[key]
        assert content_of(key, new.data) == content_of(key, old.data), key
        assert said_by(new) == said_by(old), key
        if (exact or key.endswith(".txt")) and len(new.data) == len(old.data):
            assert new.data == old.data, key
    assert unfinished_in(bucket.objects) == []
    bucket.audit.check_quiet()
