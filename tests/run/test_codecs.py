"""Whatever codec a layout has and whatever its records are: every record is in the outputs exactly
once and in order, whatever happens on the way.
"""

import base64
import bz2
import gzip
import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
from awscrt import checksums

from coalesce.content.bzip2_streams import Bzip2Compressor, Bzip2Streams
from coalesce.errors import IntegrityError, Unavailable
from coalesce.inspect.extraction import Extracted, extract
from coalesce.inspect.verify import verify
from coalesce.model import Codec, Records
from coalesce.report.report import Report
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request
from support.buckets import contents, data_in, unfinished_in
from support.codecs import MAKE, READ, Logs, known, members_in, settings_for, summed
from support.runs import new_run
from support.scenarios import dying, is_entry, run

HEADER = b"id,name\n"


class SmallParts(MemoryBucket):
    """A bucket whose sources are all larger than a part."""

    part_bytes = 10


@dataclass(frozen=True)
class Case:
    """A kind of content, and how it is joined."""

    codec: Codec
    records: Records
    mode: str

    @property
    def layout(self) -> Logs:
        return Logs(self.codec, self.records)

    @property
    def is_one_member(self) -> bool:
        if self.codec is Codec.PLAIN:
            return False
        return self.mode == "single" or self.records is Records.CSV_HEADER

    def body(self, text: bytes) -> bytes:
        return MAKE[self.codec](text)

    def key(self, n: int) -> str:
        return f"data/t_0_{n}-{n}{self.layout.ending}"

    def texts(self) -> list[bytes]:
        """Of sources: several records, no last newline, long ones, and none."""
        lines = [b"a\nb\n", b"no newline", b"%d\n" % 10**9 * 50, b"more\n", b"last\n"]
        header = HEADER if self.records is Records.CSV_HEADER else b""
        return [header + text for text in lines]

    def joined(self, texts: list[bytes]) -> bytes:
        """What a reader is to find in the output of these."""
        if self.records is Records.OPAQUE:
            return b"".join(texts)
        ended = [text if text.endswith(b"\n") else text + b"\n" for text in texts]
        if self.records is Records.CSV_HEADER:
            return HEADER + b"".join(text.removeprefix(HEADER) for text in ended)
        return b"".join(ended)


CASES = {
    f"{codec}-{records}-{mode}": Case(codec, records, mode)
    for codec, records, mode in product(Codec, Records, ("single", "members"))
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def filled(
    case: Case, bucket: MemoryBucket | None = None, bodies: dict[int, bytes] | None = None
) -> MemoryBucket:
    """A bucket with a source of each text; some bodies are others."""
    bucket = bucket or MemoryBucket()
    for n, text in enumerate(case.texts()):
        bucket.store(case.key(n), (bodies or {}).get(n, case.body(text)))
    bucket.now += 1000
    return bucket


async def night(
    case: Case, bucket: MemoryBucket, store: MemoryStore | None = None, **more: object
) -> Report:
    bucket.now += 1000
    with known(case.layout) as layout:
        chosen = settings_for(layout, **({"gzip": case.mode} | more))
        return await new_run(store or MemoryStore(bucket), chosen).coalesce()


def outputs_of(bucket: MemoryBucket) -> dict[str, bytes]:
    """In the order of their offsets."""
    found = {k: v.data for k, v in bucket.objects.items() if "coalesce-plan" in v.metadata}
    return dict(sorted(found.items(), key=lambda item: int(item[0].split("_")[2])))


def the_output(bucket: MemoryBucket) -> bytes:
    (data,) = outputs_of(bucket).values()
    assert set(data_in(bucket.objects)) == set(outputs_of(bucket))
    assert unfinished_in(bucket.objects) == []
    assert not bucket.uploads
    return data


def check_output(case: Case, bucket: MemoryBucket) -> None:
    """That nothing is there but one output of all sources."""
    output = the_output(bucket)
    assert READ[case.codec](output) == case.joined(case.texts())
    if case.codec in (Codec.ZSTD, Codec.BZIP2):
        assert (members_in(case.codec, output) == 1) == case.is_one_member


@pytest.mark.parametrize("kind", [MemoryBucket, SmallParts], ids=["whole", "in ranges"])
async def test_every_record_is_in_the_output_once_and_in_order(
    case: Case, kind: type[MemoryBucket]
) -> None:
    bucket = filled(case, kind())
    report = await night(case, bucket)
    assert (report.exit_code, report.sources.deleted) == (0, 5), report.failures
    check_output(case, bucket)
    lines = case.joined(case.texts()).count(b"\n") - (case.records is Records.CSV_HEADER)
    assert report.outputs.records == (0 if case.records is Records.OPAQUE else lines)


async def test_what_is_not_checked_is_joined_byte_for_byte_unless_a_header_has_to_go(
    case: Case,
) -> None:
    bucket = filled(case)
    before = b"".join(data_in(contents(bucket)).values())
    report = await night(case, bucket, check=False, gzip="members")
    assert (report.exit_code, report.sources.deleted) == (0, 5), report.failures
    if case.records is Records.CSV_HEADER:
        check_output(case, bucket)
    else:
        assert the_output(bucket) == before


def cut_short(case: Case, body: bytes) -> bytes:
    return body[:-1]


def another_codec(case: Case, body: bytes) -> bytes:
    """Plain text behind a name that says otherwise; what is compressed behind one that does not."""
    return b"id,name\nplain\n" if case.codec is not Codec.PLAIN else gzip.compress(b"id,name\n1\n")


SPOIL: dict[str, Callable[[Case, bytes], bytes]] = {
    "cut short": cut_short,
    "another codec": another_codec,
}


@pytest.mark.parametrize("kind", [MemoryBucket, SmallParts], ids=["whole", "in ranges"])
@pytest.mark.parametrize("how", SPOIL)
async def test_a_spoilt_source_is_kept_and_told_and_its_neighbours_are_joined(
    case: Case, how: str, kind: type[MemoryBucket]
) -> None:
    opaque = case.records is Records.OPAQUE
    if case.codec is Codec.PLAIN and (how == "cut short" or opaque):
        return  # text does not tell, the listed length does; and opaque text may be anything
    spoilt = SPOIL[how](case, case.body(case.texts()[2]))
    bucket = filled(case, kind(), {2: spoilt})
    report = await night(case, bucket)
    assert (report.exit_code, report.sources.left["corrupt"], report.sources.deleted) == (4, 1, 4)
    assert [failure.key for failure in report.failures] == [case.key(2)]
    assert bucket.objects[case.key(2)].data == spoilt
    texts = case.texts()
    assert [READ[case.codec](data) for data in outputs_of(bucket).values()] == [
        case.joined(texts[:2]),
        case.joined(texts[3:]),
    ]


async def test_a_header_unlike_the_others_cuts_the_batch(case: Case) -> None:
    if case.records is not Records.CSV_HEADER:
        return
    bucket = MemoryBucket()
    headers = [HEADER, HEADER, b"name,id\n", b"name,id\n", HEADER]
    for n, header in enumerate(headers):
        bucket.store(case.key(n), case.body(header + b"%d,x\n" % n))
    bucket.now += 1000
    report = await night(case, bucket)
    assert (report.exit_code, report.failures) == (0, [])
    assert (report.sources.joined, report.sources.left["header"]) == (4, 1)
    assert set(data_in(bucket.objects)) == {case.key(4), *outputs_of(bucket)}
    assert [READ[case.codec](data) for data in outputs_of(bucket).values()] == [
        HEADER + b"0,x\n1,x\n",
        b"name,id\n2,x\n3,x\n",
    ]


async def test_a_lone_source_with_its_own_header_is_kept_and_told_with_the_reason(
    case: Case,
) -> None:
    if case.records is not Records.CSV_HEADER:
        return
    bucket = SmallParts()
    for n in range(5):
        header = b"name,id\n" if n == 2 else HEADER
        bucket.store(case.key(n), case.body(header + b"%d,some name\n" % n))
    bucket.now += 1000
    report = await night(case, bucket)
    assert (report.exit_code, report.failures) == (0, [])
    assert (report.sources.joined, report.sources.left["header"]) == (4, 1)
    assert case.key(2) in bucket.objects


def entry_of(bucket: MemoryBucket) -> tuple[dict[str, Any], list[list[Any]]]:
    (key,) = filter(is_entry, bucket.objects)
    header, *rows = map(json.loads, gzip.decompress(bucket.objects[key].data).splitlines())
    return header, rows


async def test_the_ledger_says_where_each_source_is_and_what_it_held(case: Case) -> None:
    bucket = filled(case)
    await night(case, bucket)
    header, rows = entry_of(bucket)
    plain = case.codec is Codec.PLAIN
    mode = "none" if plain else "single" if case.is_one_member else "members"
    assert (header["gzip"], header["codec"], header["kind"]) == (mode, case.codec, case.records)
    data = the_output(bucket)
    assert header["size"] == len(data)
    assert header["crc64"] == base64.b64encode(checksums.crc64nvme(data).to_bytes(8)).decode()
    if case.is_one_member:
        data = READ[case.codec](data)
    held, at = b"", 0
    for (key, _, _, _, records, start, length, crc, size), text in zip(
        rows, case.texts(), strict=True
    ):
        assert (start, crc, size) == (at, checksums.crc64nvme(text), len(text)), key
        at += length
        part = data[start:at]
        held += part if case.is_one_member else READ[case.codec](part)
        lines = case.joined([text]).count(b"\n") - (case.records is Records.CSV_HEADER)
        assert records == (None if case.records is Records.OPAQUE else lines)
    assert at == len(data)
    assert held == case.joined(case.texts())


async def test_outputs_are_proven_again_by_reading_them(case: Case) -> None:
    bucket = filled(case)
    report = await night(case, bucket)
    with known(case.layout) as layout:
        result = await verify(MemoryStore(bucket), settings_for(layout), deep=True)
        assert (result.exit_code, result.proven) == (0, 1), result.failures
        assert result.records == report.outputs.records
        assert (result.recorded, result.digests) == (1, len(case.texts()))
        (key,) = outputs_of(bucket)
        stored = bucket.objects[key]
        bucket.store(key, stored.data[:-1], stored.metadata)
        result = await verify(MemoryStore(bucket), settings_for(layout), deep=True)
        assert [failure.code for failure in result.failures] == ["LedgerMismatch"]
        for entry in list(filter(is_entry, bucket.objects)):
            bucket.remove(entry)
        result = await verify(MemoryStore(bucket), settings_for(layout), deep=True)
    unended = case.codec is Codec.PLAIN
    noticed = not (unended and case.records is Records.OPAQUE)
    assert (result.exit_code, result.failed) == ((4, 1) if noticed else (0, 0))
    if noticed:
        code = "NoLastNewline" if unended else f"Truncated{case.codec.capitalize()}"
        assert [failure.code for failure in result.failures] == [code]


async def test_each_source_comes_back_out_of_the_output(case: Case) -> None:
    """With its own header, and without the newline that it lacked."""
    bucket = filled(case)
    await night(case, bucket)
    for n, text in enumerate(case.texts()):
        sink = io.BytesIO()
        done = await taken_out(case, bucket, n, sink)
        assert READ[case.codec](sink.getvalue()) == text
        assert done.bytes == len(sink.getvalue())
        if case.codec in (Codec.ZSTD, Codec.BZIP2):
            assert members_in(case.codec, sink.getvalue()) == 1
        if not case.is_one_member:
            assert done.identical


@pytest.mark.parametrize("name", ["gzip-lines-single", "gzip-lines-members", "plain-lines-single"])
async def test_an_entry_of_an_earlier_version_says_as_much(name: str) -> None:
    """It names neither the codec nor the kind of records."""
    case = CASES[name]
    bucket = filled(case)
    await night(case, bucket)
    (key,) = filter(is_entry, bucket.objects)
    header, rows = entry_of(bucket)
    del header["codec"], header["kind"]
    body = b"".join(json.dumps(line).encode() + b"\n" for line in (header, *rows))
    bucket.store(key, gzip.compress(body), bucket.objects[key].metadata)
    with known(case.layout) as layout:
        result = await verify(MemoryStore(bucket), settings_for(layout), deep=True)
    assert (result.exit_code, result.digests) == (0, len(case.texts())), result.failures
    sink = io.BytesIO()
    await taken_out(case, bucket, 1, sink)
    assert READ[case.codec](sink.getvalue()) == case.texts()[1]


async def test_a_source_that_is_another_in_the_output_is_told_and_does_not_come_back(
    case: Case,
) -> None:
    """The output has another text of the same length in one place, and is a sound file."""
    bucket = filled(case)
    await night(case, bucket)
    (key,) = outputs_of(bucket)
    stored = bucket.objects[key]
    texts = [text.replace(b"no newline", b"an0newline") for text in case.texts()]
    if case.is_one_member or case.codec is Codec.PLAIN:
        changed, lengths = case.body(case.joined(texts)), []
    else:
        pieces = [ended(case, text) for text in texts]
        changed, lengths = b"".join(pieces), [len(piece) for piece in pieces]
    bucket.store(key, changed, stored.metadata)
    restate(bucket, changed, lengths)
    with known(case.layout) as layout:
        result = await verify(MemoryStore(bucket), settings_for(layout), deep=True)
    assert [failure.code for failure in result.failures] == ["SourceNotProven"]
    assert "source 2 of 5" in result.failures[0].message
    with pytest.raises(IntegrityError) as caught:
        await taken_out(case, bucket, 1, io.BytesIO())
    assert caught.value.code == "SourceNotProven"
    await taken_out(case, bucket, 0, io.BytesIO())


async def taken_out(case: Case, bucket: MemoryBucket, n: int, sink: io.BytesIO) -> Extracted:
    with known(case.layout):
        return await extract(MemoryStore(bucket), "_coalesce/", case.key(n), sink)


def ended(case: Case, text: bytes) -> bytes:
    """The members that a source becomes, with the newline that it lacks."""
    supplied = case.body(b"\n") if not text.endswith(b"\n") else b""
    return case.body(text) + (b"" if case.records is Records.OPAQUE else supplied)


def restate(bucket: MemoryBucket, data: bytes, lengths: list[int]) -> None:
    """Makes the ledger entry say that its output has these bytes, in places of these lengths."""
    (key,) = filter(is_entry, bucket.objects)
    header, rows = entry_of(bucket)
    header["size"] = len(data)
    header["crc64"] = base64.b64encode(checksums.crc64nvme(data).to_bytes(8)).decode()
    at = 0
    for row, length in zip(rows, lengths, strict=False):
        row[5], row[6] = at, length
        at += length
    body = b"".join(json.dumps(line).encode() + b"\n" for line in (header, *rows))
    bucket.store(key, gzip.compress(body), bucket.objects[key].metadata)


async def die_after_complete(case: Case, bucket: MemoryBucket) -> None:
    store = MemoryStore(bucket)

    async def after(request: Request) -> None:
        if request.operation == "CompleteMultipartUpload" and request.key.startswith("data/"):
            dying(store, 0, answered=True)

    store.after = after
    with known(case.layout) as layout:
        assert await run(store, settings_for(layout, gzip=case.mode)) is None
    bucket.now += 1000
    assert len(outputs_of(bucket)) == 1
    for key in list(filter(is_entry, bucket.objects)):
        bucket.remove(key)


@pytest.mark.parametrize("gone", [0, 1, 3])
async def test_without_its_ledger_entry_an_output_is_proven_by_reading_all(
    case: Case, gone: int
) -> None:
    """Some sources may be deleted already, the one with the header too."""
    bucket = filled(case)
    await die_after_complete(case, bucket)
    for n in range(gone):
        bucket.remove(case.key(n))
    report = await night(case, bucket)
    assert (report.exit_code, report.outputs.recovered) == (0, 1), report.failures
    check_output(case, bucket)


async def test_without_its_ledger_entry_an_output_that_lacks_a_record_costs_no_source(
    case: Case,
) -> None:
    bucket = filled(case)
    await die_after_complete(case, bucket)
    (key,) = outputs_of(bucket)
    stored = bucket.objects[key]
    less = READ[case.codec](stored.data).replace(b"more\n", b"")
    bucket.store(key, case.body(less), stored.metadata)
    report = await night(case, bucket)
    assert (report.exit_code, report.outputs.recovered) == (4, 0)
    assert all(case.key(n) in bucket.objects for n in range(5))


@pytest.mark.parametrize("ignores", ["checksum", "copy-if-match checksum delete-many-etag"])
async def test_a_store_that_keeps_no_checksum_gets_the_same_outputs(
    case: Case, ignores: str
) -> None:
    bucket = filled(case, MemoryBucket(ignores=frozenset(ignores.split())))
    report = await night(case, bucket)
    assert (report.exit_code, report.sources.deleted) == (0, 5), report.failures
    check_output(case, bucket)


ZSTD = CASES["zstd-lines-single"]
CSV = CASES["zstd-csv-header-single"]


async def requests_of(case: Case) -> list[Request]:
    bucket = filled(case)
    store = MemoryStore(bucket)
    sent: list[Request] = []

    async def before(request: Request) -> None:
        sent.append(request)

    store.before = before
    assert (await night(case, bucket, store, max_files=3)).exit_code == 0
    return sent


@pytest.mark.parametrize("case", [ZSTD, CSV], ids=["lines", "csv-header"])
@pytest.mark.parametrize(
    "answered", [False, True], ids=["before the store acts", "with the answer lost"]
)
async def test_killed_at_any_request_the_next_run_ends_with_every_record_once(
    case: Case, answered: bool
) -> None:
    texts = case.texts()
    for number, request in enumerate(await requests_of(case), 1):
        if "/probe/" in request.key:
            continue
        bucket = filled(case)
        with known(case.layout) as layout:
            chosen = settings_for(layout, max_files=3)
            await run(dying(MemoryStore(bucket), number, answered=answered), chosen)
        context = f"killed at request {number}: {request.operation} {request.key}"
        for _ in range(2):
            assert (await night(case, bucket, max_files=3)).exit_code == 0, context
        outputs = outputs_of(bucket)
        assert set(data_in(bucket.objects)) == set(outputs), context
        assert unfinished_in(bucket.objects) == [], context
        found = [READ[case.codec](data) for data in outputs.values()]
        assert found == [case.joined(texts[:3]), case.joined(texts[3:])], context


@pytest.mark.parametrize("case", [ZSTD], ids=["lines"])
async def test_an_answer_that_is_lost_does_no_harm(case: Case) -> None:
    for number, request in enumerate(await requests_of(case), 1):
        if "/probe/" in request.key:
            continue
        bucket = filled(case)
        store = MemoryStore(bucket)

        async def after(seen: Request, number: int = number) -> None:
            if seen.number == number:
                raise Unavailable("the connection broke", key=seen.key, operation=seen.operation)

        store.after = after
        context = f"answer lost of request {number}: {request.operation} {request.key}"
        await night(case, bucket, store, max_files=3)
        for _ in range(2):
            assert (await night(case, bucket, max_files=3)).exit_code == 0, context
        found = b"".join(READ[case.codec](data) for data in outputs_of(bucket).values())
        assert found == case.joined(case.texts()), context
        assert set(data_in(bucket.objects)) == set(outputs_of(bucket)), context


class Misreading(MemoryStore):
    """Each reading of the third source, from its first byte on, gives the next of these bodies; the
    last holds for all further ones. `kms` says of all that their ETags are no MD5s.
    """

    def __init__(self, bucket: MemoryBucket, bodies: list[bytes], *, kms: bool) -> None:
        super().__init__(bucket)
        self.readings = 0
        self._bodies = bodies
        self._kms = kms

    async def get(self, key: str, **asked: Any) -> Any:
        body = await super().get(key, **asked)
        body = replace(body, kms=self._kms)
        if not key.startswith("data/t_0_2-"):
            return body
        start = asked.get("start", 0)
        self.readings += start == 0
        read = self._bodies[min(self.readings, len(self._bodies)) - 1]
        length = asked.get("length")
        return replace(body, data=read if length is None else read[start : start + length])


UNSUMMED = b"abcdefgh\n"
# A zstd source without a checksum, and what it is when a letter was misread.
READINGS = {
    name: MAKE[Codec.ZSTD](UNSUMMED).replace(b"abc", letters)
    for name, letters in {"right": b"abc", "wrong": b"abd", "other": b"abx"}.items()
}


@pytest.mark.parametrize("mode", ["single", "members"])
@pytest.mark.parametrize("kind", [MemoryBucket, SmallParts], ids=["whole", "in ranges"])
@pytest.mark.parametrize(
    ("kms", "misread", "joined"),
    [
        (False, [], True),
        (False, ["wrong", "right"], True),
        (False, ["wrong"], False),
        (True, [], True),
        (True, ["wrong", "right"], True),
        (True, ["wrong", "right", "other"], False),
    ],
)
async def test_zstd_without_a_checksum_is_joined_once_its_bytes_are_certain(
    mode: str, kind: type[MemoryBucket], kms: bool, misread: list[str], joined: bool
) -> None:
    """By the MD5 in its ETag; or where that is none, by two readings that agree."""
    case = CASES[f"zstd-lines-{mode}"]
    assert len({READ[Codec.ZSTD](reading) for reading in READINGS.values()}) == 3
    right = READINGS["right"]
    bucket = filled(case, kind(), {2: right})
    store = Misreading(bucket, [READINGS[name] for name in misread] or [right], kms=kms)
    report = await night(case, bucket, store)
    texts = case.texts()
    texts[2] = UNSUMMED
    found = [READ[Codec.ZSTD](data) for data in outputs_of(bucket).values()]
    if joined:
        assert report.exit_code == 0, report.failures
        assert found == [case.joined(texts)]
    else:
        assert (report.exit_code, report.sources.left["corrupt"]) == (4, 1)
        assert bucket.objects[case.key(2)].data == right
        assert found == [case.joined(texts[:2]), case.joined(texts[3:])]


async def test_zstd_with_checksums_is_read_once() -> None:
    """They say that the bytes are right, where neither the store nor the ETag does."""
    bucket = MemoryBucket()
    for n in range(3):
        bucket.store(ZSTD.key(n), summed(b"%d\n" % n), etag='"of-2-parts"')
    bucket.now += 1000
    store = MemoryStore(bucket)
    read: list[str] = []

    async def before(request: Request) -> None:
        if request.operation == "GetObject" and request.key.startswith("data/"):
            read.append(request.key)

    store.before = before
    assert (await night(ZSTD, bucket, store)).exit_code == 0
    assert sorted(read) == [ZSTD.key(n) for n in range(3)]


@pytest.mark.parametrize("mode", ["single", "members"])
async def test_the_event_loop_does_not_wait_for_bzip2(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes many times as long as the other codecs, to take apart and to make."""
    worked: set[int] = set()

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            worked.add(threading.get_ident())
            return function(*arguments)

        return note

    monkeypatch.setattr(Bzip2Streams, "decoder", noting(Bzip2Streams.decoder))
    monkeypatch.setattr(Bzip2Compressor, "deflate", noting(Bzip2Compressor.deflate))
    monkeypatch.setattr(Bzip2Compressor, "finish", noting(Bzip2Compressor.finish))
    case = CASES[f"bzip2-lines-{mode}"]
    bucket = filled(case)
    assert (await night(case, bucket)).exit_code == 0
    assert worked
    assert threading.get_ident() not in worked


async def test_bzip2_streams_of_any_level_are_joined() -> None:
    case = CASES["bzip2-lines-single"]
    bucket = MemoryBucket()
    for n in range(9):
        bucket.store(case.key(n), bz2.compress(b"%d\n" % n, n + 1))
    bucket.now += 1000
    assert (await night(case, bucket)).exit_code == 0
    assert READ[Codec.BZIP2](the_output(bucket)) == b"".join(b"%d\n" % n for n in range(9))
