"""What a bucket holds and what is done to it, judged by code that shares nothing with the program:
Python's own gzip, and the readers' regular expressions.
"""

import functools
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from coalesce.storage.memory import MemoryBucket, StoredObject

SOURCE = re.compile(
    r"(.*/)?[\w.-]+_\d+_\d+-\d+\.jsonl\.gz|(.*/)?[\w.-]+_\d+_\d+-[\w.-]+_\d+_\d+\.txt"
)
OUTPUT = re.compile(
    r"(.*/)?[\w.-]+_\d+_\d+_\d+\.jsonl\.gz|(.*/)?[\w.-]+_\d+_\d+_[\w.-]+_\d+_\d+\.txt"
)


@functools.lru_cache(50_000)
def records_of(data: bytes, *, zipped: bool) -> Counter[bytes]:
    """The records that a reader meets in one object; one that cannot be read counts as it lies."""
    try:
        text = gzip.decompress(data) if zipped else data
    except (EOFError, OSError, zlib.error):
        return Counter({data: 1})
    return Counter(line for line in text.split(b"\n") if line)


def records(objects: Mapping[str, bytes], prefix: str) -> Counter[bytes]:
    """Every record under a prefix, and how often a reader would meet it."""
    found: Counter[bytes] = Counter()
    for key, data in objects.items():
        if key.startswith(prefix):
            found.update(records_of(data, zipped=key.endswith(".gz")))
    return found


def sources(keys: Iterable[str]) -> list[str]:
    """The keys that are small objects still waiting to be joined."""
    return sorted(key for key in keys if SOURCE.fullmatch(key))


class Auditor:
    """Stands beside a bucket from now on, sees every change, and writes down whatever breaks a
    promise.

    A record is `owed` as often as it lay there when the audit began, or as others have added it
    since. What others take away or write over is owed no more; what they write twice may be there
    more than once. `excused` records may be missing: others took them in an instant in which no
    program can notice. Outputs are deleted only where they may grow (`grows`), or while an undo may
    be at work (`undoing`), which writes sources too.
    """

    def __init__(
        self,
        bucket: MemoryBucket,
        prefix: str = "data/",
        state: str = "_coalesce/",
        *,
        grows: bool = False,
    ) -> None:
        self.wrong: list[str] = []
        self.changes = 0
        self.undoing = False
        self._bucket = bucket
        self._prefix = prefix
        self._state = state
        self._ledger = f"{state}ledger/"
        self._others = False
        self._grows = grows
        self._present = records(
            {key: stored.data for key, stored in bucket.objects.items()}, prefix
        )
        self._owed = Counter(self._present)
        self._more: Counter[bytes] = Counter()
        bucket.objects = _Watched(bucket.objects, self._object_put, self._object_removed)
        bucket.uploads = _Watched(bucket.uploads, self._upload_begun, lambda *_: None)
        self.begin()

    def begin(self) -> None:
        """From here on a report is held against what is seen."""
        self.written: dict[str, bytes] = {}
        self.removed: list[str] = []
        self._found = self._keys()

    @contextmanager
    def others(self) -> Iterator[None]:
        """What happens in the block is done by others."""
        self._others = True
        try:
            yield
        finally:
            self._others = False

    def excuse(self, data: bytes) -> None:
        """The records of this object may be lost."""
        for record, times in records_of(data, zipped=data[:1] == b"\x1f").items():
            self._owed[record] -= times
            self._more[record] += times

    def check(self, context: str = "") -> None:
        """That every promise was kept so far."""
        assert not self.wrong, f"{context}: {self.wrong}"

    def check_once(self, context: str = "") -> None:
        """That every record is there exactly once."""
        self.check(context)
        assert {r: n for r, n in self._owed.items() if self._present[r] < n} == {}, (
            f"{context}: lost"
        )
        most = self._owed + self._more
        assert {r: n for r, n in self._present.items() if most[r] < n} == {}, f"{context}: repeated"

    def check_quiet(self, context: str = "", *, doubted: bool = False) -> None:
        """That every record is there exactly once, and nothing else is: no record of a plan, no
        lease, no upload.

        `doubted`: others damaged an output, and the record of its plan may stand and say so.
        """
        self.check_once(context)
        assert doubted or self._unfinished() == [], context
        assert doubted or self._bucket.uploads == {}, context

    def check_report(self, report: Any, context: str = "") -> None:
        """That the report of a run from `begin` to now, undisturbed and with nothing to recover,
        says what was seen. Its numbers are counted here anew.
        """
        before, after = self._found, self._keys()
        outputs = [key for key in before if OUTPUT.fullmatch(key)]
        grown = [key for key in outputs if key not in after]
        joined = {*(set(sources(before)) - set(sources(after))), *grown}
        seen = {
            "seen": len(sources(before)) + len(grown),
            "joined": len(joined),
            "deleted": len(self.removed),
            "left": len(before) - len(joined),
            "written": len(self.written),
            "bytes": sum(map(len, self.written.values())),
            "records": records(self.written, "").total(),
            "before": sum(len(f"s3://{report.scope.bucket}/{key},") for key in before),
            "after": sum(len(f"s3://{report.scope.bucket}/{key},") for key in after),
            "groups": len({re.sub(r"_\d+-.*", "", key) for key in sources(before)}),
        }
        said = {
            "seen": report.sources.seen,
            "joined": report.sources.joined,
            "deleted": report.sources.deleted,
            "left": sum(report.sources.left.values()) + len(outputs) - len(grown),
            "written": report.outputs.written,
            "bytes": report.outputs.bytes,
            "records": report.outputs.records,
            "before": report.path_list.before,
            "after": report.path_list.after,
            "groups": report.groups.seen,
        }
        assert said == seen, f"{context}: {said} {seen}"
        assert report.exit_code in (0, 4), context
        assert (report.exit_code == 0) == (not report.failures), context

    def check_counts(
        self, report: Any, context: str = "", *, unanswered: bool = False, silent: bool = False
    ) -> None:
        """That the report of any run that was alone from `begin` to now, whatever it met, counts
        each thing once and as it is seen.

        `unanswered` says that answers were lost: what is absent after a lost answer to a delete
        counts as deleted, whoever deleted it. `silent`: however often it was asked; then a run that
        fails does not know all that it deleted.
        """
        groups, sources, outputs = report.groups, report.sources, report.outputs
        parts = groups.coalesced + groups.left + groups.leased + groups.failed
        assert groups.seen == parts, f"{context}: {groups}"
        assert sources.seen == sources.joined + sum(sources.left.values()), f"{context}: {sources}"
        deleted = sources.deleted + report.recovered.sources_deleted
        unknown = silent and report.exit_code != 0
        assert unknown or deleted >= len(self.removed), f"{context}: {deleted} deleted"
        assert unanswered or deleted == len(self.removed), f"{context}: {deleted} deleted"
        assert outputs.written <= len(self.written), f"{context}: {outputs}"
        if outputs.written < len(self.written):  # one that could not be read back
            assert report.failures, context
            assert report.exit_code != 0, context
        elif unknown or any(failed.message.startswith("listing ") for failed in report.failures):
            return  # what was not listed is not known
        elif report.scope.shard == "0/1" and (groups.seen or report.exit_code == 0):
            scope = tuple(report.scope.prefixes)
            keys = (key for key in self._keys() if key.startswith(scope))
            paths = [f"s3://{report.scope.bucket}/{key}," for key in keys]
            assert report.path_list.after == sum(map(len, paths)), context
            assert outputs.bytes == sum(map(len, self.written.values())), context
            counted = outputs.records  # none are with --no-check
            assert counted in (0, records(self.written, "").total()), context

    def _unfinished(self) -> list[str]:
        """What stands under the state prefix besides the ledger."""
        state = (key for key in self._bucket.objects if key.startswith(self._state))
        return [key for key in state if not key.startswith(self._ledger)]

    def _keys(self) -> list[str]:
        return [key for key in self._bucket.objects if key.startswith(self._prefix)]

    def _object_put(self, key: str, old: StoredObject | None, new: StoredObject) -> None:
        self.changes += 1
        ours = key.startswith(self._prefix)
        if not self._others:
            self._held(
                ours or key.startswith(self._state), f"{key} was written outside of the prefixes"
            )
            self._held(not ours or old is None, f"{key} was written over")
            given_back = self.undoing and bool(SOURCE.fullmatch(key))
            self._held(
                not ours or given_back or bool(OUTPUT.fullmatch(key)),
                f"{key} was written and is no output",
            )
            entry = f"{self._ledger}{key}."
            self._held(
                not ours
                or given_back
                or any(other.startswith(entry) for other in self._bucket.objects),
                f"{key} was written before its ledger entry",
            )
            again = old is not None and old.data == new.data  # after an answer that was lost
            entered = key.startswith(self._ledger)
            self._held(not entered or old is None or again, f"{key} was written over")
        if not ours:
            return
        if old is not None:
            self._gone(key, old)
        found = records_of(new.data, zipped=key.endswith(".gz"))
        if self._others:
            for record, times in found.items():
                (self._more if self._present[record] else self._owed)[record] += times
        else:
            self.written[key] = new.data
        self._present.update(found)

    def _object_removed(self, key: str, old: StoredObject) -> None:
        self.changes += 1
        ours = key.startswith(self._prefix)
        if not self._others:
            self._held(
                ours or key.startswith(self._state), f"{key} was deleted outside of the prefixes"
            )
            given_back = self.undoing and bool(OUTPUT.fullmatch(key))
            self._held(
                not ours or self._grows or given_back or bool(SOURCE.fullmatch(key)),
                f"{key} was deleted and is no source",
            )
            self.removed += [key] if ours else []
        if ours:
            self._gone(key, old)

    def _gone(self, key: str, old: StoredObject) -> None:
        for record, times in records_of(old.data, zipped=key.endswith(".gz")).items():
            self._present[record] -= times
            missing = self._owed[record] - self._present[record]
            if missing > 0 and self._others:
                self._owed[record] -= missing
                self._more[record] += missing
            self._held(
                missing <= 0 or self._others,
                f"{key} was deleted, and {record[:60]!r} cannot be read",
            )

    def _upload_begun(self, _: str, __: object, upload: Any) -> None:
        self._held(
            upload.key.startswith((self._prefix, self._state)),
            f"an upload to {upload.key} was begun outside of the prefixes",
        )

    def _held(self, kept: bool, broken: str) -> None:
        if not kept:
            self.wrong.append(broken)


class _Watched(dict[str, Any]):
    """A dictionary that tells of its changes."""

    def __init__(
        self,
        held: Mapping[str, Any],
        put: Callable[[str, Any, Any], None],
        removed: Callable[[str, Any], None],
    ) -> None:
        super().__init__(held)
        self._put = put
        self._removed = removed

    def __setitem__(self, key: str, value: Any) -> None:
        old = self.get(key)
        super().__setitem__(key, value)
        self._put(key, old, value)

    def __delitem__(self, key: str) -> None:
        old = self[key]
        super().__delitem__(key)
        self._removed(key, old)

    def pop(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        old = self[key]
        del self[key]
        return old
