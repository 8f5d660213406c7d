"""Which guarantees a store keeps, and whether they are enough to delete anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from coalesce.errors import StoreRefused
from coalesce.storage.checksums import Checksum


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The guarantees that the probe saw the store keep.

    `checksum` is the strongest protection of an upload among them.
    """

    create_only_put: bool
    conditional_put: bool
    conditional_get: bool
    create_only_complete: bool
    fence: bool
    conditional_delete: bool
    conditional_delete_many: bool
    copy_condition: bool
    upload_metadata: bool
    checksum: Checksum

    def as_dict(self) -> dict[str, bool | str]:
        """For the report."""
        return {
            name: value.value if isinstance(value, Checksum) else value
            for name, value in asdict(self).items()
        }


CREATE_ONLY_PUT = "create-only writes (If-None-Match on PutObject)"
CONDITIONAL_PUT = "conditional replacement (If-Match on PutObject)"

_DEMANDS = (
    ("create_only_put", "no-exclusion", CREATE_ONLY_PUT),
    ("conditional_put", "no-exclusion", CONDITIONAL_PUT),
    ("fence", "no-exclusion", "the finality of aborts (a Complete after one made an object)"),
    (
        "create_only_complete",
        "overwrite-race",
        "create-only outputs (If-None-Match on CompleteMultipartUpload)",
    ),
)


def weaker_modes(capabilities: Capabilities) -> dict[str, str]:
    """The modes that a user would have to accept on such a store, with the guarantee that each
    does without.
    """
    modes = {
        mode: what for name, mode, what in reversed(_DEMANDS) if not getattr(capabilities, name)
    }
    if not (capabilities.conditional_delete or capabilities.conditional_delete_many):
        modes["delete-race"] = (
            "conditional deletes (If-Match on DeleteObject, ETag in DeleteObjects)"
        )
    return modes


def admit(capabilities: Capabilities, accepted: tuple[str, ...]) -> str:
    """The mode of a run on this store: `full`, or the weaker ones that it needs, joined by `+`.

    `accepted` are the modes that the user accepts. Raises StoreRefused, which names the others; for
    a store that drops metadata there is nothing to accept.
    """
    if not capabilities.upload_metadata:
        raise StoreRefused(
            "this store does not keep the metadata of multipart uploads",
            hint="Without it an output cannot be recognised after a crash; use another store.",
        )
    needed = weaker_modes(capabilities)
    missing = [mode for mode in needed if mode not in accepted]
    if missing:
        what = "; ".join(needed[mode] for mode in missing)
        options = " ".join(f"--accept-weaker {mode}" for mode in missing)
        raise StoreRefused(
            f"this store does not guarantee {what}",
            hint=f"To run all the same, if you can rule out the races this allows: {options}",
        )
    return "+".join(sorted(needed)) or "full"
