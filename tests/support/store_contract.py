"""What every store must do alike: in memory, on embedded servers, and on the one that
COALESCE_TEST_ENDPOINT names.
"""

import pytest

from coalesce import errors
from coalesce.model import UploadedPart
from coalesce.protocol.probe import probe
from coalesce.storage import checksums
from coalesce.storage.attributes import Attributes
from coalesce.storage.base import Deleted, ObjectStore
from coalesce.storage.capabilities import Capabilities
from coalesce.storage.checksums import Checksum
from support.runs import NoLease

PART = b"x" * (5 * 1024**2)


_SEEN: dict[str, Capabilities] = {}


@pytest.fixture
async def keeps(store: ObjectStore) -> Capabilities:
    """What the probe saw of this store's server; a test of a guarantee that it did not see is
    skipped for it.
    """
    server = getattr(store, "endpoint", "memory")
    if server not in _SEEN:
        _SEEN[server] = await probe(store, "probe/", NoLease())
    return _SEEN[server]


def needs(keeps: Capabilities, name: str) -> None:
    if not getattr(keeps, name):
        pytest.skip(f"the probe measured that this store has no {name}")


async def upload(
    store: ObjectStore, key: str, *bodies: bytes, checksum: Checksum = Checksum.NONE
) -> tuple[str, list[UploadedPart]]:
    created = await store.create_upload(
        key,
        checksum=checksum,
        metadata={"coalesce-plan": "d"},
        attributes=Attributes({"content-type": "application/gzip"}),
    )
    parts = [
        await store.upload_part(
            key,
            created.upload_id,
            n,
            [body],
            checksum=checksum,
            value=checksums.part_checksum([body], checksum),
        )
        for n, body in enumerate(bodies, 1)
    ]
    return created.upload_id, parts


async def test_a_listing_gives_every_key_once_in_pages(store: ObjectStore) -> None:
    keys = sorted(
        [f"a/{name}" for name in ("1", "2 3", "4%5", "6+7", "8/9", "ü", "z=1&b=2")], key=str.encode
    )
    for key in keys:
        await store.put(key, b"1")
    seen, token = [], None
    while True:
        page = await store.list_page("a/", token=token, max_keys=3)
        seen += [entry.key for entry in page.objects]
        token = page.token
        if token is None:
            break
    assert sorted(seen, key=str.encode) == keys


@pytest.mark.parametrize("key", ["a//b", "a/../b", "a/./b"])
async def test_a_key_is_no_path(store: ObjectStore, key: str) -> None:
    try:
        await store.put(f"p/{key}", b"1")
    except errors.BadRequest as refusal:
        pytest.skip(f"this server refuses the key p/{key}: {refusal.code}")
    listed = [entry.key for entry in (await store.list_page("p/")).objects]
    if f"p/{key}" not in listed:
        pytest.skip(f"this server stores p/{key} under the name of a file, {listed}")
    assert (await store.get(f"p/{key}")).data == b"1"


async def test_a_delimiter_groups_keys_into_common_prefixes(store: ObjectStore) -> None:
    for key in ("p/a_0_1", "p/a_0_2", "p/a_1_1", "p/b"):
        await store.put(key, b"1")
    page = await store.list_page("p/", delimiter="_")
    assert ([entry.key for entry in page.objects], page.prefixes) == (["p/b"], ("p/a_",))


async def test_an_odd_key_is_read_and_deleted_as_it_is(store: ObjectStore) -> None:
    for key in ("a b", "a%20b", "a+b", "ü/é", "a=b&c"):
        etag = await store.put(key, key.encode())
        assert (await store.get(key, etag=etag)).data == key.encode()
        assert (await store.delete(key)).deleted is Deleted.DONE
        assert await store.head(key) is None


async def test_create_only_put_keeps_what_is_there(store: ObjectStore) -> None:
    await store.put("k", b"first")
    with pytest.raises(errors.PreconditionFailed):
        await store.put("k", b"second", if_none_match=True)
    assert (await store.get("k")).data == b"first"


async def test_a_put_with_if_match_replaces_only_that_version(store: ObjectStore) -> None:
    old = await store.put("k", b"first")
    new = await store.put("k", b"second", if_match=old)
    with pytest.raises(errors.PreconditionFailed):
        await store.put("k", b"third", if_match=old)
    assert ((await store.get("k")).data, (await store.get("k")).etag) == (b"second", new)


async def test_a_get_of_another_version_is_refused(store: ObjectStore) -> None:
    old = await store.put("k", b"first")
    await store.put("k", b"second")
    with pytest.raises(errors.PreconditionFailed):
        await store.get("k", etag=old)
    with pytest.raises(errors.NotFound):
        await store.get("absent")


async def test_a_range_is_those_bytes(store: ObjectStore) -> None:
    await store.put("k", b"0123456789")
    assert (await store.get("k", start=3, length=4)).data == b"3456"


@pytest.mark.parametrize("checksum", list(Checksum))
async def test_an_upload_becomes_one_object_with_its_metadata(
    store: ObjectStore, keeps: Capabilities, checksum: Checksum
) -> None:
    if checksum not in (Checksum.NONE, keeps.checksum):
        pytest.skip(f"the probe measured {keeps.checksum} on this store")
    upload_id, parts = await upload(store, "k", PART, b"tail", checksum=checksum)
    assert await store.head("k") is None
    assert [(found.key, found.upload_id) for found in await store.list_uploads("k")] == [
        ("k", upload_id)
    ]
    await store.complete_upload(
        "k",
        upload_id,
        parts,
        checksum=checksum,
        value=checksums.encode(checksums.crc64([PART, b"tail"])),
    )
    head = await store.head("k")
    assert head is not None
    assert (head.size, head.metadata.get("coalesce-plan"), head.attributes.get("content-type")) == (
        len(PART) + 4,
        "d",
        "application/gzip",
    )
    assert (await store.get("k")).data == PART + b"tail"
    assert not await store.list_uploads("k")


async def test_a_complete_never_replaces_an_object(store: ObjectStore, keeps: Capabilities) -> None:
    needs(keeps, "create_only_complete")
    upload_id, parts = await upload(store, "k", b"second")
    await store.put("k", b"first")
    with pytest.raises(errors.PreconditionFailed):
        await store.complete_upload("k", upload_id, parts, checksum=Checksum.NONE)
    assert (await store.get("k")).data == b"first"


async def test_an_aborted_upload_never_appears(store: ObjectStore, keeps: Capabilities) -> None:
    needs(keeps, "fence")
    upload_id, parts = await upload(store, "k", b"late")
    await store.abort_upload("k", upload_id)
    await store.abort_upload("k", upload_id)
    with pytest.raises(errors.StorageError):
        await store.complete_upload("k", upload_id, parts, checksum=Checksum.NONE)
    assert await store.head("k") is None


async def test_a_small_part_before_the_last_is_refused_or_joined_whole(store: ObjectStore) -> None:
    """S3 refuses it; a server that accepts it must not lose it."""
    upload_id, parts = await upload(store, "k", b"small", b"last")
    try:
        await store.complete_upload("k", upload_id, parts, checksum=Checksum.NONE)
    except errors.StorageError:
        assert await store.head("k") is None
    else:
        assert (await store.get("k")).data == b"smalllast"


async def test_a_wrong_checksum_of_the_whole_object_is_refused(
    store: ObjectStore, keeps: Capabilities
) -> None:
    if keeps.checksum is not Checksum.CRC64NVME:
        pytest.skip(f"the probe measured {keeps.checksum} on this store")
    upload_id, parts = await upload(store, "k", b"data", checksum=Checksum.CRC64NVME)
    with pytest.raises(errors.StorageError):
        await store.complete_upload(
            "k", upload_id, parts, checksum=Checksum.CRC64NVME, value=checksums.encode(1)
        )
    assert await store.head("k") is None


async def test_a_delete_of_another_version_keeps_the_object(
    store: ObjectStore, keeps: Capabilities
) -> None:
    needs(keeps, "conditional_delete")
    old = await store.put("k", b"first")
    new = await store.put("k", b"second")
    assert (await store.delete("k", etag=old)).deleted is Deleted.CHANGED
    assert (await store.delete("k", etag=new)).deleted is Deleted.DONE
    assert (await store.delete("k")).deleted in (Deleted.DONE, Deleted.ABSENT)


async def test_a_bulk_delete_accounts_for_every_key(
    store: ObjectStore, keeps: Capabilities
) -> None:
    needs(keeps, "conditional_delete_many")
    old = await store.put("changed", b"first")
    await store.put("changed", b"second")
    same = await store.put("same", b"same")
    results = await store.delete_many([("changed", old), ("same", same)])
    assert [(result.key, result.deleted) for result in results] == [
        ("changed", Deleted.CHANGED),
        ("same", Deleted.DONE),
    ]
    assert (await store.get("changed")).data == b"second"


async def test_a_copied_part_is_of_the_version_that_was_asked_for(
    store: ObjectStore, keeps: Capabilities
) -> None:
    needs(keeps, "copy_condition")
    old = await store.put("source", b"first!")
    new = await store.put("source", PART)
    created = await store.create_upload("k", checksum=Checksum.CRC64NVME, metadata={})

    async def copy(etag: str, length: int) -> UploadedPart:
        return await store.copy_part(
            "k",
            created.upload_id,
            1,
            source="source",
            etag=etag,
            start=0,
            length=length,
            checksum=Checksum.CRC64NVME,
        )

    with pytest.raises(errors.PreconditionFailed):
        await copy(old, 6)
    part = await copy(new, len(PART))
    await store.complete_upload(
        "k",
        created.upload_id,
        [part],
        checksum=Checksum.CRC64NVME,
        value=checksums.encode(checksums.crc64([PART])),
    )
    assert (await store.get("k")).data == PART


DESCRIBED = {
    "content-type": "application/x-made-up; charset=utf-8",
    "content-encoding": "gzip",
    "content-language": "de, en",
    "content-disposition": 'attachment; filename="a b.gz"',
    "cache-control": "max-age=5, private",
    "expires": "Wed, 21 Oct 2026 07:28:00 GMT",
    "x-amz-meta-team": "a = b; c",
    "x-amz-server-side-encryption": "AES256",
}


async def put_described(store: ObjectStore, attributes: Attributes) -> None:
    """Uploads an object that says this of itself; skips where the server refuses it."""
    try:
        created = await store.create_upload(
            "k", checksum=Checksum.NONE, metadata={"coalesce-plan": "d"}, attributes=attributes
        )
    except (errors.BadRequest, errors.NotImplementedByStore) as refusal:
        pytest.skip(f"this server refuses it: {refusal.code}")
    part = await store.upload_part(
        "k", created.upload_id, 1, [b"x"], checksum=Checksum.NONE, value=""
    )
    await store.complete_upload("k", created.upload_id, [part], checksum=Checksum.NONE)


@pytest.mark.parametrize("name", DESCRIBED)
async def test_an_object_says_of_itself_what_its_upload_said(store: ObjectStore, name: str) -> None:
    await put_described(store, Attributes({name: DESCRIBED[name]}))
    head, body = await store.head("k"), await store.get("k")
    part = await store.get("k", start=0, length=1)
    assert head is not None
    assert (head.tags, head.archived) == (0, False)
    assert head.attributes == body.attributes == part.attributes
    assert not any(found.startswith("x-amz-meta-coalesce-") for found in body.attributes)
    if name not in head.attributes:
        pytest.skip("this server drops it")
    assert head.attributes[name] == DESCRIBED[name]


async def test_a_kms_key_is_named_by_every_answer(store: ObjectStore) -> None:
    asked = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:us-east-1:0:key/k",
    }
    await put_described(store, Attributes(asked))
    head, body = await store.head("k"), await store.get("k")
    assert head is not None
    if "x-amz-server-side-encryption" not in head.attributes:
        pytest.skip("this server drops it")
    assert asked.items() <= head.attributes.items()
    assert asked.items() <= body.attributes.items()


async def test_tags_are_counted_and_read_as_they_were_set(store: ObjectStore) -> None:
    tags = {"owner": "a b+c", "cost/center": "1=2@3", "empty": ""}
    await put_described(store, Attributes(tags=tags))
    found = await store.get_tags("k")
    if not found:
        pytest.skip("this server drops the tags of an upload")
    head, body = await store.head("k"), await store.get("k")
    assert head is not None
    assert (found, head.tags, body.tags) == (tags, 3, 3)


async def test_an_object_without_tags_has_none(store: ObjectStore) -> None:
    await store.put("k", b"1")
    assert (await store.get_tags("k"), (await store.get("k")).tags) == ({}, 0)
    with pytest.raises(errors.NotFound):
        await store.get_tags("absent")


async def test_an_upload_is_listed_with_the_storage_class_that_it_asked_for(
    store: ObjectStore,
) -> None:
    await put_described(store, Attributes(storage_class="STANDARD_IA"))
    (entry,) = (await store.list_page("k")).objects
    if entry.storage_class == "STANDARD":
        pytest.skip("this server knows one storage class")
    assert entry.storage_class == "STANDARD_IA"
