"""`extract` gives one source back out of its output: all of it, proven by the digest of its
content, or nothing at all. It reads no more of the output than it needs.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce import errors
from coalesce.content.gzip_members import EMPTY_MEMBER, NEWLINE_MEMBER
from coalesce.content.rules import ContentRules
from coalesce.errors import IntegrityError, NotFound
from coalesce.inspect import extraction
from coalesce.inspect.excerpts import Held, excerpt_of
from coalesce.inspect.extraction import Extracted, extract
from coalesce.model import Codec
from coalesce.storage.checksums import crc64
from coalesce.storage.memory import MemoryBucket, MemoryStore
from coalesce.storage.s3 import S3Store
from support.command import coalesce, job
from support.nights import GROUP, night, one_group, output_of
from support.scenarios import copied, is_entry, manifests

STATE = "_coalesce/"

ODD = {
    "two members": gzip.compress(b"a\n", mtime=0) + gzip.compress(b"b\nc\n", mtime=0),
    "no last newline": gzip.compress(b"no newline", mtime=0),
    "nothing": gzip.compress(b"", mtime=0),
    "nothing, then something": gzip.compress(b"", mtime=0) + gzip.compress(b"after\n", mtime=0),
    "a member of one newline last": gzip.compress(b"x", mtime=0) + NEWLINE_MEMBER,
    "one newline": NEWLINE_MEMBER,
    "long": gzip.compress(b"long %d\n" % 10**9 * 5000, mtime=0),
    "last": gzip.compress(b"last\n", mtime=0),
}


def key_of(n: int) -> str:
    return f"{GROUP}_{n}-{n}.jsonl.gz"


def odd() -> MemoryBucket:
    bucket = MemoryBucket()
    for n, body in enumerate(ODD.values()):
        bucket.store(key_of(n), body)
    return bucket


async def taken_out(
    bucket: MemoryBucket, key: str, store: MemoryStore | None = None
) -> tuple[Extracted, bytes]:
    sink = io.BytesIO()
    done = await extract(store or MemoryStore(bucket), STATE, key, sink)
    assert done.bytes == len(sink.getvalue())
    return done, sink.getvalue()


@pytest.mark.parametrize("mode", ["single", "members"])
@pytest.mark.parametrize("name", ODD)
async def test_a_source_comes_back_with_its_content(name: str, mode: str) -> None:
    bucket = odd()
    await night(bucket, gzip=mode)
    assert len([key for key in bucket.objects if key.startswith("data/")]) == 1
    n = list(ODD).index(name)
    _, body = await taken_out(bucket, key_of(n))
    assert gzip.decompress(body) == gzip.decompress(ODD[name])
    if mode == "single":
        inflater = zlib.decompressobj(31)
        inflater.decompress(body)
        assert (inflater.eof, inflater.unused_data) == (True, b"")


@pytest.mark.parametrize("name", [name for name in ODD if not name.startswith("nothing")])
async def test_of_joined_members_it_comes_back_byte_for_byte(name: str) -> None:
    bucket = odd()
    await night(bucket, gzip="members")
    done, body = await taken_out(bucket, key_of(list(ODD).index(name)))
    assert (body, done.identical) == (ODD[name], True)


async def test_lines_come_back_byte_for_byte() -> None:
    bucket = MemoryBucket()
    manifests(bucket)
    bucket.store("data/db.core.topic_0_7-db.core.other_1_14.txt", b"no newline")
    before = dict(bucket.objects)
    await night(bucket, layout="manifest")
    for key, stored in before.items():
        assert key not in bucket.objects
        done, body = await taken_out(bucket, key)
        assert (body, done.identical) == (stored.data, True)


async def test_what_was_joined_unchecked_comes_back_byte_for_byte() -> None:
    bucket = MemoryBucket(min_part_bytes=1000)
    copied(bucket)
    before = dict(bucket.objects)
    await night(bucket, check=False)
    for key, stored in before.items():
        done, body = await taken_out(bucket, key)
        assert (body, done.identical, done.records) == (stored.data, True, None)


async def test_what_nothing_proves_is_not_given() -> None:
    """Joined unchecked, of an ETag that is no MD5, in a store that keeps no checksum by now."""
    bucket = MemoryBucket()
    for n in range(3):
        bucket.store(key_of(n), gzip.compress(b"%d\n" % n, mtime=0), etag=f'"{n}"')
    await night(bucket, check=False)
    (_, body), output = await taken_out(bucket, key_of(1)), f"{GROUP}_0_2.jsonl.gz"
    assert gzip.decompress(body) == b"1\n"  # by the checksum of the whole output
    bucket.objects[output] = dataclasses.replace(bucket.objects[output], checksum={})
    with pytest.raises(IntegrityError, match="nothing proves"):
        await taken_out(bucket, key_of(1))


class Ranges(MemoryStore):
    """Notes what is read of outputs."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.read: list[tuple[int, int]] = []

    async def get(self, key: str, **asked: Any) -> Any:
        if key.startswith("data/"):
            assert asked["etag"] == self.bucket.objects[key].etag
            self.read.append((asked["start"], asked["length"]))
        return await super().get(key, **asked)


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
async def test_one_range_is_read_of_members_and_lines(layout: str) -> None:
    bucket = odd() if layout == "corporate" else MemoryBucket()
    if layout == "manifest":
        manifests(bucket)
    keys = sorted(bucket.objects)
    await night(bucket, layout=layout, gzip="members")
    store = Ranges(bucket)
    for key in keys:
        _, body = await taken_out(bucket, key, store)
        assert len(store.read) == (body != EMPTY_MEMBER)
        assert sum(length for _, length in store.read) <= len(body) + len(NEWLINE_MEMBER)
        store.read.clear()


async def test_a_large_source_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = odd()
    await night(bucket, gzip="members")
    monkeypatch.setattr(extraction, "PART_BYTES", 50)
    store = Ranges(bucket)
    _, body = await taken_out(bucket, key_of(list(ODD).index("long")), store)
    assert body == ODD["long"]
    assert len(store.read) > 2
    assert max(length for _, length in store.read) == 50


async def test_one_member_is_read_up_to_the_end_of_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dice = random.Random(1)
    bucket = MemoryBucket()
    texts = [dice.randbytes(3000).hex().encode() + b"\n" for _ in range(20)]
    for n, text in enumerate(texts):
        bucket.store(key_of(n), gzip.compress(text, mtime=0))
    await night(bucket)
    monkeypatch.setattr(extraction, "_READ_BYTES", 1000)
    monkeypatch.setattr(extraction, "_TEXT_BYTES", 700)
    size = len(bucket.objects[f"{GROUP}_0_19.jsonl.gz"].data)
    ends = []
    for n, text in enumerate(texts):
        store = Ranges(bucket)
        _, body = await taken_out(bucket, key_of(n), store)
        assert gzip.decompress(body) == text
        starts = [start for start, _ in store.read]
        assert starts == list(range(0, 1000 * len(starts), 1000))
        ends.append(sum(map(sum, store.read[-1:])))
    assert ends == sorted(ends)
    assert ends[0] < size // 10
    assert ends[-1] <= size


async def test_the_latest_output_that_still_stands_gives_the_source() -> None:
    bucket = one_group(4)
    before = bucket.objects[f"{GROUP}_10-19.jsonl.gz"]
    await night(bucket)
    stored = bucket.objects[output_of(4)]
    with bucket.audit.others():
        bucket.remove(output_of(4))
        bucket.store(f"{GROUP}_10-19.jsonl.gz", before.data)
        bucket.store(f"{GROUP}_0-9.jsonl.gz", before.data)
    second = await night(bucket)
    key = f"{GROUP}_0_19.jsonl.gz"
    done, _ = await taken_out(bucket, f"{GROUP}_10-19.jsonl.gz")
    assert (done.output, done.run_id) == (key, second.run_id)
    with bucket.audit.others():
        bucket.remove(key)
        bucket.store(output_of(4), stored.data, stored.metadata, checksum=stored.checksum)
    done, _ = await taken_out(bucket, f"{GROUP}_10-19.jsonl.gz")
    assert done.output == output_of(4)


# --- what is not given


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("mode", ["single", "members", "none"])
async def test_of_a_damaged_output_nothing_wrong_is_ever_given(mode: str) -> None:
    """The store shows the checksum that it took in, and returns other bytes: whatever bit it is."""
    bucket, layout = odd(), "corporate"
    if mode == "none":
        bucket, layout = MemoryBucket(), "manifest"
        manifests(bucket)
    before = dict(bucket.objects)
    await night(bucket, gzip="members" if mode == "none" else mode, layout=layout)
    (output,) = (key for key in bucket.objects if key.startswith("data/"))
    whole, hints = bucket.objects[output], set[str]()
    for at in range(0, len(whole.data), max(1, len(whole.data) // 60)):
        bucket.objects[output] = dataclasses.replace(whole, data=flip(whole.data, at))
        for key, stored in before.items():
            try:
                _, body = await taken_out(bucket, key)
            except IntegrityError as error:
                hints.add(error.hint)
            else:
                text = stored.data if mode == "none" else gzip.decompress(stored.data)
                assert (body if mode == "none" else gzip.decompress(body)) == text
    assert hints
    assert not any("sources were kept" in hint for hint in hints)


@pytest.mark.parametrize(
    ("harm", "code"), [("gone", "OutputMissing"), ("another", "LedgerMismatch")]
)
async def test_an_output_that_is_gone_or_another_gives_nothing(harm: str, code: str) -> None:
    bucket = one_group(4)
    await night(bucket)
    with bucket.audit.others():
        if harm == "gone":
            bucket.remove(output_of(4))
        else:
            bucket.store(output_of(4), b"other")
    sink = io.BytesIO()
    with pytest.raises(IntegrityError) as refused:
        await extract(MemoryStore(bucket), STATE, f"{GROUP}_10-19.jsonl.gz", sink)
    assert refused.value.code == code
    assert sink.getvalue() == b""


async def test_a_source_that_no_entry_names_is_not_found() -> None:
    bucket = one_group(4)
    await night(bucket)
    with pytest.raises(NotFound) as refused:
        await taken_out(bucket, f"{GROUP}_11-12.jsonl.gz")
    assert refused.value.code == "NotInLedger"


async def test_a_damaged_entry_is_said_and_not_that_there_is_none() -> None:
    bucket = one_group(4)
    await night(bucket)
    (key,) = (key for key in bucket.objects if is_entry(key))
    bucket.store(key, bucket.objects[key].data[:-5])
    with pytest.raises(errors.RecordDamaged):
        await taken_out(bucket, f"{GROUP}_10-19.jsonl.gz")


# --- what a place must hold

texts = st.binary(max_size=60)

RULES = {
    "single": ContentRules(Codec.GZIP, check=True, single=True),
    "members": ContentRules(Codec.GZIP, check=True),
    "none": ContentRules(Codec.PLAIN, check=True),
}


@given(texts, st.booleans(), st.lists(st.integers(1, 40)))
def test_a_place_of_text_gives_the_content_however_it_is_cut(
    content: bytes, supplied: bool, cuts: list[int]
) -> None:
    data = content + b"\n" * supplied
    held = Held("k", len(data), len(content), crc64([content]))
    assert fed(held, "single", data, cuts) == content


@given(st.lists(texts.filter(bool), min_size=1), st.booleans(), st.lists(st.integers(1, 40)))
def test_a_place_of_members_gives_their_bytes_however_it_is_cut(
    contents: list[bytes], supplied: bool, cuts: list[int]
) -> None:
    content = b"".join(contents)
    body = b"".join(gzip.compress(each, mtime=0) for each in contents)
    data = body + NEWLINE_MEMBER * (supplied and not content.endswith(b"\n"))
    held = Held("k", len(data), len(content), crc64([content]))
    assert fed(held, "members", data, cuts) == body


@given(texts, texts, st.sampled_from(["single", "none"]))
def test_other_text_is_refused(content: bytes, other: bytes, mode: str) -> None:
    if other.removesuffix(b"\n") in (content, content.removesuffix(b"\n")):
        return
    held = Held("k", len(other), len(content), crc64([content]))
    with pytest.raises(IntegrityError):
        fed(held, mode, other, [])


def fed(held: Held, mode: str, data: bytes, cuts: list[int]) -> bytes:
    excerpt, given = excerpt_of(held, RULES[mode]), b""
    for length in [*cuts, len(data)]:
        given += excerpt.feed(data[:length])
        data = data[length:]
    return given + excerpt.finish()


def test_a_place_of_nothing_holds_nothing() -> None:
    for mode in ("single", "members", "none"):
        assert fed(Held("k", 0, 0, 0), mode, b"", []) == b""
        for crc in (0, 1):  # that of nothing, and another
            with pytest.raises(IntegrityError):
                fed(Held("k", 0, 3, crc), mode, b"", [])
    with pytest.raises(IntegrityError):
        fed(Held("k", len(EMPTY_MEMBER), 1, 1), "members", EMPTY_MEMBER, [])


# --- the command


@pytest.mark.timeout(180)
async def test_the_command_writes_the_source_or_nothing(bucket: S3Store, tmp_path: Path) -> None:
    bodies = {}
    for n in range(3):
        key = f"data/t_0_{n}-{n}.jsonl.gz"
        bodies[key] = gzip.compress(b'{"n": %d}\n' % n, mtime=0)
        await bucket.put(key, bodies[key])
    assert coalesce(bucket, *job(bucket, "--gzip", "members")).returncode == 0
    url, key = f"s3://{bucket.bucket}/data/t_0_1-1.jsonl.gz", "data/t_0_1-1.jsonl.gz"
    file = tmp_path / "back.gz"
    done = coalesce(bucket, "extract", url, "-o", str(file))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "byte for byte as it was" in done.stderr
    assert file.read_bytes() == bodies[key]
    assert os.listdir(tmp_path) == ["back.gz"]  # noqa: PTH208
    file.write_bytes(b"mine")
    done = coalesce(bucket, "extract", url, "-o", str(file))
    assert (done.returncode, "--force" in done.stderr) == (2, True)
    assert file.read_bytes() == b"mine"
    done = coalesce(bucket, "extract", url, "-o", str(file), "--force", "--output", "json")
    assert json.loads(done.stdout)["identical"] is True
    assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(bodies[key]).digest()
    done = coalesce(bucket, "extract", url, "--output", "json")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.timeout(180)
async def test_the_command_gives_nothing_of_a_source_that_is_not_as_it_was(
    bucket: S3Store, tmp_path: Path
) -> None:
    for n in range(3):
        await bucket.put(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(b"%d\n" % n, mtime=0))
    assert coalesce(bucket, *job(bucket)).returncode == 0
    (entry,) = (entry.key for entry in (await bucket.list_page("_coalesce/ledger/")).objects)
    header, *rows = gzip.decompress((await bucket.get(entry)).data).splitlines()
    row = json.loads(rows[1])
    row[7] ^= 1
    rows[1] = json.dumps(row).encode()
    await bucket.put(entry, gzip.compress(b"\n".join([header, *rows, b""])))
    file = tmp_path / "back.gz"
    url = f"s3://{bucket.bucket}/data/t_0_1-1.jsonl.gz"
    for words in (["-o", str(file)], []):
        done = coalesce(bucket, "extract", url, *words)
        assert (done.returncode, done.stdout) == (4, ""), done.stderr
        assert "CRC64NVME" in done.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    done = coalesce(bucket, "extract", f"s3://{bucket.bucket}/data/nothing")
    assert (done.returncode, done.stdout) == (1, "")
