"""Requests that get no answer and reach the store later, and clients that are told when to fail."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from coalesce import errors
from coalesce.storage.base import OpenUpload
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request

T = TypeVar("T")

# Requests of a run that are counted together, and which of them, from 1: those of one operation,
# all of the `WORK`, or all of the `PROBE`, which is nowhere else counted in.
Moment = tuple[str, int]
WORK, PROBE = "work", "probe"


@dataclass(frozen=True)
class OnItsWay:
    """A request whose sender has given it up, or has died."""

    operation: str
    key: str
    land: Callable[[], object]


class Client(MemoryStore):
    """A client for which something happens at one moment.

    `at` is the number of the request at that moment, once it has come. `gives_up` says which
    requests get this failure for an answer; they are `late`, and reach the bucket when somebody
    lets them land. A bucket that ignores `list-uploads` has no such request.
    """

    def __init__(self, bucket: MemoryBucket, moment: Moment, late: list[OnItsWay]) -> None:
        super().__init__(bucket)
        self.at = 1_000_000
        self.gives_up: Callable[[Request], BaseException | None] = lambda _: None
        self._counted, self._left = moment
        self._late = late

    async def list_uploads(self, prefix: str) -> list[OpenUpload]:
        if "list-uploads" in self.bucket.ignores:
            raise errors.NotImplementedByStore("made up")
        return await super().list_uploads(prefix)

    async def _request(self, operation: str, key: str, apply: Callable[[], T]) -> T:
        number = self._requests + 1
        if self._counted in ((PROBE,) if is_of_probe(key) else (WORK, operation)):
            self._left -= 1
            if self._left == 0:
                self.at = number
        failure = self.gives_up(Request(number, operation, key))
        if failure is not None:
            self._requests = number
            self.usage.requests[operation] += 1
            self._late.append(OnItsWay(operation, key, apply))
            raise failure
        return await super()._request(operation, key, apply)


def is_of_probe(key: str) -> bool:
    return "/probe/" in key


def land_all(late: list[OnItsWay]) -> None:
    """What is on its way arrives, and is refused or not."""
    while late:
        with suppress(errors.StorageError):
            late.pop(0).land()


class Late(MemoryStore):
    """The first Complete of an output gets no answer. The store is still at it, so the upload seems
    to be gone; its effect comes when `land` is called.

    `repeated`: the client itself sends the request again, and hands on the answer to that.
    """

    repeated = False

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.under_way: tuple[str, str, Any, Sequence[Any], dict[str, Any]] | None = None

    async def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Any], **more: Any
    ) -> None:
        if self.under_way is None and key.startswith("data/"):
            self.under_way = key, upload_id, self.bucket.uploads.pop(upload_id), parts, more
            if not self.repeated:
                raise errors.Unavailable("no answer", key=key)
            try:
                await super().complete_upload(key, upload_id, parts, **more)
            except errors.NoSuchUpload as error:
                error.repeated = True
                raise
        await super().complete_upload(key, upload_id, parts, **more)

    async def land(self) -> None:
        assert self.under_way is not None
        key, upload_id, upload, parts, more = self.under_way
        self.bucket.uploads[upload_id] = upload
        await MemoryStore(self.bucket).complete_upload(key, upload_id, parts, **more)
