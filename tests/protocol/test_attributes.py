"""What sources say of themselves is not lost with them: their outputs say it, and where sources of
one output differ the report and the ledger do.
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from coalesce import errors
from coalesce.report.report import Report
from coalesce.storage.memory import MemoryBucket, MemoryStore, Request, StoredObject
from support.buckets import contents, records_in, sources
from support.nights import night
from support.scenarios import is_entry, unfinished

OUTPUT = "data/t_0_0_3.jsonl.gz"
SAID: dict[str, Any] = {
    "metadata": {"team": "a"},
    "content_type": "application/x-made-up",
    "storage_class": "STANDARD_IA",
    "headers": {
        "cache-control": "no-cache",
        "content-disposition": 'attachment; filename="x"',
        "content-encoding": "gzip",
        "content-language": "de",
        "expires": "Wed, 21 Oct 2026 07:28:00 GMT",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:key",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
    },
    "tags": {"owner": "x & y", "cost": ""},
}


def filled(count: int = 4, other: dict[int, dict[str, Any]] | None = None) -> MemoryBucket:
    """A group whose sources all say the same, but for what `other` says of some."""
    bucket = MemoryBucket()
    for n, (key, body) in enumerate(sources(1, count).items()):
        bucket.store(key, body, **(SAID | (other or {}).get(n, {})))
    bucket.now += 1000
    return bucket


def key_of(n: int) -> str:
    return f"data/t_0_{n}-{n}.jsonl.gz"


def outputs_in(bucket: MemoryBucket) -> dict[str, StoredObject]:
    return {key: held for key, held in bucket.objects.items() if "coalesce-plan" in held.metadata}


def said_by(held: StoredObject) -> dict[str, Any]:
    return {
        "metadata": {
            name: value for name, value in held.metadata.items() if not name.startswith("coalesce-")
        },
        "content_type": held.content_type,
        "storage_class": held.storage_class,
        "headers": dict(held.headers),
        "tags": dict(held.tags),
    }


def lines_of(bucket: MemoryBucket) -> list[Any]:
    """All lines of the only ledger entry."""
    (entry,) = (held.data for key, held in bucket.objects.items() if is_entry(key))
    return [json.loads(line) for line in gzip.decompress(entry).splitlines()]


class SmallParts(MemoryBucket):
    """A bucket whose runs read and send ten bytes at a time."""

    part_bytes = 10


class Counted(MemoryStore):
    """Counts the requests on the user's objects."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__(bucket)
        self.sent: Counter[str] = Counter()
        self.before = self._count

    async def _count(self, request: Request) -> None:
        self.sent[request.operation] += request.key.startswith("data/")


def refusing(
    bucket: MemoryBucket, operation: str, key: str, error: Callable[[], errors.StorageError]
) -> Counted:
    """A store that refuses every such request."""
    store = Counted(bucket)

    async def before(request: Request) -> None:
        store.sent[request.operation] += request.key.startswith("data/")
        if (request.operation, request.key) == (operation, key):
            raise error()

    store.before = before
    return store


# --- what an output says


async def test_an_output_says_what_its_sources_say() -> None:
    bucket = filled()
    report = await night(bucket)
    assert said_by(bucket.objects[OUTPUT]) == SAID
    assert report.exit_code == 0
    assert report.attributes.model_dump() == {"differing": 0, "not_kept": 0, "example": ""}


async def test_what_the_user_chose_goes_before_what_sources_say() -> None:
    bucket = filled(other={2: {"content_type": "text/plain", "tags": {}}})
    report = await night(
        bucket,
        content_type="application/gzip",
        content_encoding="none",
        metadata="k=v,l=w",
        tags="none",
        storage_class="GLACIER_IR",
        sse="AES256",
    )
    assert said_by(bucket.objects[OUTPUT]) == {
        "metadata": {"k": "v", "l": "w"},
        "content_type": "application/gzip",
        "storage_class": "GLACIER_IR",
        "headers": {
            "cache-control": "no-cache",
            "content-disposition": 'attachment; filename="x"',
            "content-language": "de",
            "expires": "Wed, 21 Oct 2026 07:28:00 GMT",
            "x-amz-server-side-encryption": "AES256",
        },
        "tags": {},
    }
    assert (report.exit_code, report.attributes.differing) == (0, 0)


async def test_sources_of_different_storage_classes_are_not_joined() -> None:
    bucket = filled(5, {3: {"storage_class": "STANDARD"}, 4: {"storage_class": "STANDARD"}})
    report = await night(bucket)
    assert {key: held.storage_class for key, held in outputs_in(bucket).items()} == {
        "data/t_0_0_2.jsonl.gz": "STANDARD_IA",
        "data/t_0_3_4.jsonl.gz": "STANDARD",
    }
    assert (report.exit_code, report.attributes.differing) == (0, 0)


# --- requests


async def test_attributes_cost_no_request_for_each_source() -> None:
    bucket = filled(50, {n: {"tags": {}, "metadata": {"n": str(n)}} for n in range(50)})
    store = Counted(bucket)
    await night(bucket, store)
    assert (store.sent["GetObject"], store.sent["GetObjectTagging"]) == (50, 0)
    assert store.sent["HeadObject"] == 2  # of the first source, and of the output


async def test_tags_are_asked_for_only_of_sources_that_have_some() -> None:
    bucket = filled(10, {n: {"tags": {}} for n in range(3, 10)})
    store = Counted(bucket)
    report = await night(bucket, store)
    assert store.sent["GetObjectTagging"] == 4  # the first source twice
    assert report.attributes.differing == 7


@pytest.mark.parametrize("tags", ["none", "a=b"])
async def test_tags_are_not_asked_for_where_the_user_chose_them(tags: str) -> None:
    bucket = filled()
    store = Counted(bucket)
    report = await night(bucket, store, tags=tags)
    assert store.sent["GetObjectTagging"] == 0
    assert bucket.objects["data/t_0_0_3.jsonl.gz"].tags == ({} if tags == "none" else {"a": "b"})
    assert report.attributes.differing == 0


# --- what differs


async def test_sources_that_say_something_else_are_counted_with_an_example() -> None:
    bucket = filled(
        other={1: {"content_type": "a/b"}, 2: {"tags": {"owner": "z"}}, 3: {"metadata": {}}}
    )
    before = records_in(contents(bucket))
    report = await night(bucket)
    assert (report.exit_code, report.attributes.differing) == (0, 3)
    assert report.attributes.example == (
        f"{key_of(1)}: content-type is a/b, of the output application/x-made-up"
    )
    assert said_by(bucket.objects[OUTPUT]) == SAID
    assert records_in(contents(bucket)) == before


async def test_the_ledger_tells_what_every_source_said() -> None:
    """Also where the user chose what the outputs say."""
    other = {1: {"content_type": "a/b"}, 2: {"tags": {"owner": "z"}}, 3: {"metadata": {}}}
    bucket = filled(other=other)
    await night(bucket, content_type="text/plain")
    header, *lines = lines_of(bucket)
    assert header["attributes"] == {
        "content-type": "application/x-made-up",
        "x-amz-meta-team": "a",
        "x-amz-storage-class": "STANDARD_IA",
        "tags": SAID["tags"],
        **SAID["headers"],
    }
    assert [line[9:] for line in lines] == [
        [],
        [{"content-type": "a/b"}],
        [{"tags": {"owner": "z"}}],
        [{"x-amz-meta-team": None}],
    ]


async def test_a_million_different_values_are_not_all_held() -> None:
    """What is too much to keep is counted, and the ledger says that it is not there."""
    value = "v" * 1800
    bucket = filled(4000, {n: {"metadata": {"n": f"{value}{n}"}} for n in range(4000)})
    report = await night(bucket)
    header, *lines = lines_of(bucket)
    noted = sum(len(line) > 9 for line in lines)
    assert report.attributes.differing == 3999
    assert (noted + header["unnoted"], 1000 < noted < 3000) == (3999, True)


async def test_a_store_that_drops_what_an_output_was_to_say_is_reported() -> None:
    bucket = filled()
    bucket.ignores = frozenset({"attributes"})
    report = await night(bucket)
    assert (report.exit_code, report.sources.joined) == (0, 4)
    assert (report.attributes.differing, report.attributes.not_kept) == (0, 1)
    assert report.attributes.example == (
        f"{OUTPUT}: content-type is binary/octet-stream, asked for was application/x-made-up"
    )


async def test_a_copied_source_is_not_looked_at_for_its_attributes() -> None:
    """The store copies it, and no GET says anything."""
    bucket = filled(other={1: {"content_type": "a/b"}})
    bucket.min_part_bytes = 1
    report = await night(bucket, check=False)
    assert (report.exit_code, report.requests["UploadPartCopy"] > 0) == (0, True)
    assert report.attributes.differing == 0
    bucket = filled(other={1: {"content_type": "a/b"}})
    bucket.min_part_bytes = 1
    report = await night(bucket, check=False, strict_attributes=True)
    assert report.sources.left["attributes"] == 2


# --- --strict-attributes


def kinds(names: str) -> MemoryBucket:
    """Sources whose content types these letters stand for."""
    return filled(len(names), {n: {"content_type": f"a/{name}"} for n, name in enumerate(names)})


@pytest.mark.parametrize(
    ("names", "made", "left"),
    [
        ("aaaa", {"0_3": "a"}, 0),
        ("aabaa", {"0_1": "a", "3_4": "a"}, 1),
        ("baaaa", {"1_4": "a"}, 1),
        ("aabb", {"0_1": "a", "2_3": "b"}, 0),
        ("abcaa", {"3_4": "a"}, 3),
        ("abab", {}, 4),
    ],
)
async def test_only_neighbours_that_say_the_same_are_joined(
    names: str, made: dict[str, str], left: int
) -> None:
    bucket = kinds(names)
    before = records_in(contents(bucket))
    report = await night(bucket, strict_attributes=True)
    assert {key: held.content_type for key, held in outputs_in(bucket).items()} == {
        f"data/t_0_{offsets}.jsonl.gz": f"a/{name}" for offsets, name in made.items()
    }
    assert (report.exit_code, report.failures) == (0, [])
    assert report.sources.left["attributes"] == left
    assert report.sources.joined + left == report.sources.seen
    assert records_in(contents(bucket)) == before
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])
    if "b" in names:
        assert "content-type is a/" in report.attributes.example


async def test_a_spoilt_source_among_unlike_ones_is_reported_as_spoilt() -> None:
    bucket = kinds("aabbbb")
    bucket.store(
        key_of(4),
        bucket.objects[key_of(4)].data[:-4],
        content_type="a/b",
        **{name: value for name, value in SAID.items() if name != "content_type"},
    )
    report = await night(bucket, strict_attributes=True)
    assert (report.exit_code, report.sources.left["corrupt"]) == (4, 1)
    assert sorted(outputs_in(bucket)) == ["data/t_0_0_1.jsonl.gz", "data/t_0_2_3.jsonl.gz"]


async def test_unlike_sources_that_are_read_in_ranges_are_not_joined() -> None:
    bucket = SmallParts(objects=kinds("aabb").objects, min_part_bytes=1)
    before = records_in(contents(bucket))
    report = await night(bucket, strict_attributes=True)
    assert sorted(outputs_in(bucket)) == ["data/t_0_0_1.jsonl.gz", "data/t_0_2_3.jsonl.gz"]
    assert report.exit_code == 0
    assert records_in(contents(bucket)) == before


# --- the first source


def refused(kind: type[errors.StorageError]) -> Callable[[], errors.StorageError]:
    return lambda: kind("made up", key=key_of(0), operation="HeadObject")


@pytest.mark.parametrize("kind", [errors.AccessDenied, errors.BadRequest, errors.Archived])
async def test_a_first_source_that_cannot_be_read_is_planned_around(
    kind: type[errors.StorageError],
) -> None:
    bucket = filled()
    store = refusing(bucket, "HeadObject", key_of(0), refused(kind))
    report = await night(bucket, store)
    assert list(outputs_in(bucket)) == ["data/t_0_1_3.jsonl.gz"]
    assert key_of(0) in bucket.objects
    assert (report.exit_code, [failure.key for failure in report.failures]) == (1, [key_of(0)])
    why = "archived" if kind is errors.Archived else "failed"
    assert (report.sources.left[why], report.sources.joined) == (1, 3)
    assert store.sent["CreateMultipartUpload"] == 1  # there never was one with the first source
    assert (bucket.uploads, unfinished(bucket)) == ({}, [])


async def test_a_first_source_in_an_archive_tier_leaves_no_upload_behind() -> None:
    """The listing says nothing of the archive tiers of Intelligent-Tiering."""
    bucket = filled()

    class Tiered(Counted):
        async def head(self, key: str) -> Any:
            found = await super().head(key)
            if key == key_of(0):
                object.__setattr__(found, "archived", True)
            return found

    store = Tiered(bucket)
    report = await night(bucket, store)
    assert list(outputs_in(bucket)) == ["data/t_0_1_3.jsonl.gz"]
    assert report.sources.left["archived"] == 1
    assert store.sent["CreateMultipartUpload"] == 1


async def test_any_number_of_first_sources_that_cannot_be_read_are_planned_around() -> None:
    """The oldest sources are the first to go to an archive tier."""
    bucket = MemoryBucket()
    for n in range(12):
        bucket.store(key_of(n), gzip.compress(b"%d\n" % n))
    bucket.now += 1000
    cold = {key_of(n) for n in range(8)}

    class Tiered(Counted):
        async def head(self, key: str) -> Any:
            found = await super().head(key)
            if key in cold:
                object.__setattr__(found, "archived", True)
            return found

    report = await night(bucket, Tiered(bucket))
    assert list(outputs_in(bucket)) == ["data/t_0_8_11.jsonl.gz"]
    assert report.sources.left["archived"] == 8
    assert report.sources.deleted == 4
    assert cold <= bucket.objects.keys()


@pytest.mark.parametrize("gone", [False, True])
async def test_a_first_source_that_changed_makes_the_group_be_listed_again(gone: bool) -> None:
    bucket = filled()
    store = Counted(bucket)
    done = False

    async def before(request: Request) -> None:
        nonlocal done
        store.sent[request.operation] += request.key.startswith("data/")
        if (request.operation, request.key) == ("HeadObject", key_of(0)) and not done:
            done = True
            assert store.sent["CreateMultipartUpload"] == 0
            if gone:
                bucket.remove(key_of(0))
            else:
                bucket.store(key_of(0), gzip.compress(b"new\n", mtime=0), **SAID)

    store.before = before
    report = await night(bucket, store)
    (output,) = outputs_in(bucket)
    assert output == ("data/t_0_1_3.jsonl.gz" if gone else OUTPUT)
    assert (report.exit_code, store.sent["CreateMultipartUpload"]) == (0, 1)
    assert (b"new" in records_in(contents(bucket))) is not gone


async def test_a_store_in_trouble_at_the_first_source_keeps_everything() -> None:
    bucket = filled()
    before = contents(bucket)
    store = refusing(bucket, "HeadObject", key_of(0), refused(errors.Unavailable))
    report = await night(bucket, store)
    assert report.exit_code == 75
    assert {key: data for key, data in contents(bucket).items() if key in before} == before
    assert (bucket.uploads, outputs_in(bucket)) == ({}, {})


# --- refusals


async def failed(bucket: MemoryBucket, store: MemoryStore | None = None, code: int = 1) -> Report:
    """A run that joins nothing and leaves nothing behind."""
    before = set(bucket.objects)
    report = await night(bucket, store)
    assert (report.exit_code, report.sources.joined) == (code, 0)
    assert set(bucket.objects) == before
    assert bucket.uploads == {}
    return report


@pytest.mark.parametrize("n", [0, 2])
async def test_tags_that_may_not_be_read_keep_the_sources(n: int) -> None:
    bucket = filled(other={m: {"tags": {}} for m in range(4) if m != n})

    def denied() -> errors.StorageError:
        return errors.AccessDenied("403", key=key_of(n), operation="GetObjectTagging")

    report = await failed(bucket, refusing(bucket, "GetObjectTagging", key_of(n), denied), 10)
    (failure,) = report.failures
    assert (failure.key, failure.code) == (key_of(n), "AccessDenied")
    assert "s3:GetObjectTagging" in failure.hint
    assert "--tags none" in failure.hint
    report = await night(bucket, tags="none")
    assert (report.exit_code, report.sources.joined) == (0, 4)


async def test_a_source_that_vanishes_before_its_tags_are_read_has_changed() -> None:
    bucket = filled()
    store = Counted(bucket)

    async def before(request: Request) -> None:
        if (request.operation, request.key) == ("GetObjectTagging", key_of(2)):
            bucket.objects.pop(key_of(2), None)

    store.before = before
    report = await night(bucket, store)
    assert (report.exit_code, sorted(outputs_in(bucket))) == (0, ["data/t_0_0_3.jsonl.gz"])
    assert report.sources.joined == 3


async def test_metadata_that_leaves_no_room_for_our_own_keeps_the_sources() -> None:
    bucket = filled(other={n: {"metadata": {"k": "v" * 2000}} for n in range(4)})
    (failure,) = (await failed(bucket)).failures
    assert (failure.code, failure.key) == ("AttributesTooLarge", OUTPUT)
    assert "--metadata none" in failure.hint
    assert (await night(bucket, metadata="none")).sources.joined == 4


async def test_a_refused_upload_says_which_option_may_help() -> None:
    bucket = filled()

    def denied() -> errors.StorageError:
        return errors.AccessDenied("403", key=OUTPUT, operation="CreateMultipartUpload")

    report = await failed(bucket, refusing(bucket, "CreateMultipartUpload", OUTPUT, denied), 10)
    hint = report.failures[0].hint
    for option in ("--storage-class none", "--sse none", "--tags none"):
        assert option in hint
