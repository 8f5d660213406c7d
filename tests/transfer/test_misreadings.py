"""A source that is misread on its way is read again and joined; one that is spoilt where it lies is
left and reported. Gzip shows by itself which is which, text by what the store says of it.
"""

import gzip
import hashlib
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from coalesce.errors import TooLong
from coalesce.report.report import Report
from coalesce.storage.base import Body
from coalesce.storage.checksums import crc64, encode
from coalesce.storage.limits import MIN_PART_BYTES
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support import auditor
from support.runs import new_run
from support.scenarios import contents, is_entry
from support.settings import settings

ODD_ONE = "_0_2-"
PART = 60  # small enough for a source to be read in four ranges


class SmallParts(MemoryBucket):
    """A bucket whose sources are all larger than a part."""

    part_bytes = PART


Spoil = Callable[[bytes], bytes]


def flip(place: int, bit: int) -> Spoil:
    """Another bit in the byte at this place, from the end if it is negative."""

    def spoil(data: bytes) -> bytes:
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << bit
        return bytes(spoilt)

    return spoil


def whole(data: bytes) -> bytes:
    return data


class Misreading(MemoryStore):
    """Each reading of one source from its first byte on is spoilt by the next of `spoils`; the last
    of them holds for all further ones.
    """

    def __init__(self, bucket: MemoryBucket, *spoils: Spoil, kms: bool = False) -> None:
        super().__init__(bucket)
        self.readings = 0
        self.kms = kms
        self._spoils = spoils or (whole,)

    async def get(self, key: str, **asked: Any) -> Body:
        body = await super().get(key, **asked)
        if not key.startswith("data/") or ODD_ONE not in key:
            return replace(body, kms=self.kms)
        start = asked.get("start", 0)
        self.readings += start == 0
        spoil = self._spoils[min(self.readings, len(self._spoils)) - 1]
        read = spoil(self.bucket.objects[key].data)
        length = asked.get("length")
        return replace(
            body, data=read if length is None else read[start : start + length], kms=self.kms
        )


class WithoutMd5(Misreading):
    """A store whose ETags have the form of an MD5 and never are one."""

    md5_etags = property(lambda _: False, lambda _, value: None)


@dataclass(frozen=True)
class Kept:
    """What a store keeps of a source besides its bytes."""

    etag: Callable[[bytes], str]
    checksum: Callable[[bytes], dict[str, str]] = lambda _: {}
    store: type[Misreading] = Misreading
    kms: bool = False


def md5(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def multipart(data: bytes) -> str:
    return f'{md5(data)[:-1]}-2"'


def another(data: bytes) -> str:
    return md5(b"another" + data)


MD5 = Kept(md5)
CRC64 = Kept(multipart, lambda data: {"CRC64NVME": encode(crc64([data]))})
CRC32 = Kept(multipart, lambda data: {"CRC32": b64encode(zlib.crc32(data).to_bytes(4)).decode()})
NOTHING = Kept(multipart, lambda _: {"CRC32": "AAAA-2"})
KMS = Kept(another, kms=True)
FOREIGN = Kept(another, store=WithoutMd5)


def text(n: int) -> bytes:
    return b"".join(b"db.core.topic|0|%d|id-%d-%d\n" % (n, n, m) for m in range(8))


def zipped(n: int) -> bytes:
    return gzip.compress(text(n), 0, mtime=0)


def five_sources(
    kept: Kept, body: Callable[[int], bytes], parts: type[MemoryBucket]
) -> MemoryBucket:
    bucket = parts(min_part_bytes=PART if parts is SmallParts else MIN_PART_BYTES)
    for n in range(5):
        data = body(n)
        key = (
            f"data/t_0_{n}-{n}.jsonl.gz" if body is zipped else f"data/t_0_{n}-db.core.t_1_{n}.txt"
        )
        bucket.store(key, data, etag=kept.etag(data), checksum=kept.checksum(data))
    bucket.now += 1000
    return bucket


async def run(store: MemoryStore, body: Callable[[int], bytes], **more: object) -> Report:
    layout = "corporate" if body is zipped else "manifest"
    return await new_run(store, settings(layout=layout, **more)).coalesce()


async def check(
    kept: Kept,
    body: Callable[[int], bytes],
    spoils: tuple[Spoil, ...],
    *,
    joined: bool,
    readings: int,
    parts: type[MemoryBucket] = MemoryBucket,
    copies: bool = True,
) -> None:
    """Runs once: the records are what they were, and the source is joined or left as corrupt."""
    bucket = five_sources(kept, body, parts)
    bucket.ignores |= frozenset() if copies else {"copy-if-match"}
    before = auditor.records(contents(bucket), "data/")
    store = kept.store(bucket, *spoils, kms=kept.kms)
    report = await run(store, body)
    after = {key: data for key, data in contents(bucket).items() if not is_entry(key)}
    assert auditor.records(after, "data/") == before
    assert store.readings == readings
    left = [] if joined else [key for key in after if ODD_ONE in key]
    assert auditor.sources(after) == left
    assert (report.exit_code, report.sources.left["corrupt"]) == ((0, 0) if joined else (4, 1))
    assert bucket.uploads == {}


# In the middle. The first makes another letter of a letter.
PLAIN, ODD, OTHER = flip(100, 0), flip(100, 7), flip(101, 7)

WHOLE_TEXT = {
    "whole, with its MD5": (MD5, (whole,), True, 1),
    "misread once": (MD5, (PLAIN, whole), True, 2),
    "misread twice": (MD5, (PLAIN, OTHER, whole), True, 3),
    "spoilt where it lies": (MD5, (PLAIN,), False, 2),
    "misread every time": (MD5, (PLAIN, OTHER, flip(0, 1)), False, 3),
    "whole, with its checksum": (CRC64, (whole,), True, 1),
    "misread, with its checksum": (CRC64, (PLAIN, whole), True, 2),
    "spoilt, with its checksum": (CRC64, (PLAIN,), False, 2),
    "spoilt, with another checksum": (CRC32, (PLAIN,), False, 2),
    "with nothing to hold it against": (NOTHING, (whole,), True, 1),
    "odd once": (NOTHING, (ODD, whole), True, 3),
    "another one each time": (NOTHING, (ODD, OTHER, PLAIN), False, 3),
    "under a key of KMS": (KMS, (whole,), True, 1),
    "odd once, under a key of KMS": (KMS, (ODD, whole), True, 3),
    "with an ETag that only looks like an MD5": (FOREIGN, (whole,), True, 1),
    "odd once, with such an ETag": (FOREIGN, (ODD, whole), True, 3),
    "misread once, on such a store, with an MD5": (
        replace(FOREIGN, etag=md5),
        (ODD, whole),
        True,
        2,
    ),
}


@pytest.mark.parametrize("name", WHOLE_TEXT)
async def test_text_is_read_until_it_is_certain(name: str) -> None:
    kept, spoils, joined, readings = WHOLE_TEXT[name]
    await check(kept, text, spoils, joined=joined, readings=readings)


@pytest.mark.parametrize(
    "data",
    [
        b"caf\xe9\n",
        b"\x1b[1mbold\x1b[0m\n",
        b"a\0b\n",
        "\N{LATIN SMALL LETTER E WITH ACUTE}\n".encode(),
    ],
    ids=["Latin-1", "control characters", "NUL", "UTF-8"],
)
@pytest.mark.parametrize("parts", [MemoryBucket, SmallParts])
async def test_text_that_is_odd_by_itself_is_joined_as_it_is(
    data: bytes, parts: type[MemoryBucket]
) -> None:
    """It is only read twice."""

    def body(n: int) -> bytes:
        return text(n) + data * 30

    readings = 1 if data.startswith(b"\xc3") else 2
    await check(NOTHING, body, (whole,), joined=True, readings=readings, parts=parts)


ZIPPED = Kept(multipart)
RANGES = {
    "gzip, whole": (ZIPPED, zipped, (whole,), True, 1),
    "gzip, misread once": (ZIPPED, zipped, (PLAIN, whole), True, 3),
    "gzip, spoilt where it lies": (ZIPPED, zipped, (PLAIN,), False, 2),
    "text, whole": (MD5, text, (whole,), True, 1),
    "text, misread once": (MD5, text, (PLAIN, whole), True, 3),
    "text, spoilt where it lies": (MD5, text, (PLAIN,), False, 2),
    "text, misread every time": (MD5, text, (PLAIN, OTHER, flip(0, 1)), False, 3),
    "text with its checksum, whole": (CRC64, text, (whole,), True, 1),
    "text with its checksum, misread once": (CRC64, text, (PLAIN, whole), True, 3),
    "text with its checksum, spoilt": (CRC64, text, (PLAIN,), False, 2),
    "text with another checksum, spoilt": (CRC32, text, (PLAIN,), False, 2),
    "text with nothing to hold it against": (NOTHING, text, (whole,), True, 1),
    "text, odd once": (NOTHING, text, (ODD, whole), True, 4),
    "text, another one each time": (NOTHING, text, (ODD, OTHER, PLAIN), False, 3),
    "text under a key of KMS": (KMS, text, (whole,), True, 1),
    "text with an ETag that only looks like an MD5": (FOREIGN, text, (whole,), True, 1),
}


@pytest.mark.parametrize("copies", [False, True], ids=["sent", "copied"])
@pytest.mark.parametrize("name", RANGES)
async def test_a_source_that_is_read_in_ranges_is_read_again_before_it_is_left(
    name: str, copies: bool
) -> None:
    """Some of it may have been sent by then: if it was misread, its batch is sent anew."""
    kept, body, spoils, joined, readings = RANGES[name]
    await check(
        kept, body, spoils, joined=joined, readings=readings, parts=SmallParts, copies=copies
    )


@pytest.mark.parametrize("copies", [False, True], ids=["sent", "copied"])
@pytest.mark.parametrize("body", [text, zipped])
@pytest.mark.parametrize("place", [0, PART - 1, PART, 2 * PART + 1, -1])
async def test_a_bit_is_noticed_in_whatever_range_it_flips(
    body: Callable[[int], bytes], place: int, copies: bool
) -> None:
    """If a newline seems to be missing before a copy, all is read anew at once, and sent."""
    kept = MD5 if body is text else ZIPPED
    anew = copies and body is text and place == -1
    for spoils, joined, readings in (
        ((flip(place, 0), whole), True, 2 if anew else 3),
        ((flip(place, 0),), False, 3 if anew else 2),
    ):
        await check(
            kept, body, spoils, joined=joined, readings=readings, parts=SmallParts, copies=copies
        )


@pytest.mark.parametrize("bit", range(8))
async def test_whichever_bit_of_a_manifest_flips_it_is_noticed(bit: int) -> None:
    for place in (0, 57, -1):
        await check(MD5, text, (flip(place, bit),), joined=False, readings=2)


async def test_a_source_that_is_misread_whenever_its_batch_is_sent_costs_no_other() -> None:
    """The readings in between are whole: it is neither certainly spoilt nor ever sent right."""
    bucket = five_sources(ZIPPED, zipped, SmallParts)
    before = auditor.records(contents(bucket), "data/")
    store = Misreading(bucket, *(PLAIN, whole) * 10)
    report = await run(store, zipped)
    assert report.exit_code != 0
    assert [failure.code for failure in report.failures] == ["Misread"]
    assert auditor.records(contents(bucket), "data/") == before
    assert store.readings == 6
    assert (await run(MemoryStore(bucket), zipped)).exit_code == 0


async def test_what_nobody_checks_is_read_once() -> None:
    bucket = five_sources(MD5, text, MemoryBucket)
    store = Misreading(bucket, PLAIN)
    report = await run(store, text, check=False)
    assert (report.exit_code, store.readings) == (0, 1)


class Longer(Misreading):
    """An object that is longer than its listing says, under the same ETag."""

    async def get(self, key: str, **asked: Any) -> Body:
        body = await super().get(key, **asked)
        if key.startswith("data/"):
            assert asked["size"] == len(self.bucket.objects[key].data), "as it was listed"
            if len(body.data) > asked["size"]:
                raise TooLong(f"{key}: longer", key=key)
        return body


@pytest.mark.parametrize("body", [text, zipped])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_body_that_is_longer_than_listed_is_read_again_and_then_left(
    body: Callable[[int], bytes], times: int
) -> None:
    spoils = (*[lambda data: data + b"more\n"] * times, whole)[: 2 if times == 1 else 1]
    kept = replace(MD5, store=Longer)
    # What was deflated cannot be taken back: once a misread source is found whole, the batch is
    # read again.
    readings = 3 if body is zipped and times == 1 else 2
    await check(kept, body, spoils, joined=times == 1, readings=readings)


async def test_many_spoilt_manifests_are_all_found_in_one_reading() -> None:
    """Each is read twice, its neighbours twice at most: once with it, once without it."""
    bucket = MemoryBucket()
    readings: Counter[str] = Counter()

    class Counting(MemoryStore):
        async def get(self, key: str, **asked: Any) -> Body:
            readings[key] += 1
            return await super().get(key, **asked)

    for n in range(200):
        data = text(n)
        bucket.store(
            f"data/t_0_{n}-db.core.t_1_{n}.txt", PLAIN(data) if n % 5 == 2 else data, etag=md5(data)
        )
    bucket.now += 1000
    report = await run(Counting(bucket), text)
    assert (report.exit_code, report.sources.left["corrupt"], report.sources.joined) == (4, 40, 160)
    assert max(count for key, count in readings.items() if key.startswith("data/t_0_")) <= 3
