"""An inventory says which groups have anything to join, or nothing at all."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.errors import ConfigurationError, ListingError
from coalesce.listing.inventory import GroupsFound, find_groups
from coalesce.model import GroupId
from coalesce.naming.layouts import layout
from coalesce.naming.shards import WHOLE, Shard
from coalesce.settings import outermost
from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import filled
from support.inventories import FIELDS, MANIFEST, VERSIONS, inventory_of, row, store_inventory


async def read(place: MemoryBucket, shard: Shard = WHOLE) -> GroupsFound:
    """What an inventory of the bucket `b` shows under `data/`."""
    found = GroupsFound(("data/",), "_coalesce/", layout("corporate"), shard)
    await find_groups(MemoryStore(place), MANIFEST, "b", found)
    return found


def group(number: int) -> GroupId:
    return GroupId("data/", "t", number)


@pytest.mark.parametrize("files", [1, 3])
async def test_it_shows_the_groups_under_the_prefixes_that_have_enough_sources(files: int) -> None:
    bucket = filled(5, 7)
    bucket.store("data/t_7_0-0.jsonl.gz", b"the only one")
    bucket.store("data/t_8_0_9.jsonl.gz", b"an output")
    bucket.store("data/t_8_10_19.jsonl.gz", b"another")
    bucket.store("other/t_0_0-1.jsonl.gz", b"elsewhere")
    bucket.store("other/t_0_2-3.jsonl.gz", b"elsewhere")
    found = await read(inventory_of(bucket, files=files))
    assert found.leads(2).groups == {group(number) for number in range(5)}
    assert found.leads(1).groups == {*map(group, range(5)), group(7)}
    assert found.leads(8).groups == frozenset()


def test_outputs_that_grow_are_something_to_join() -> None:
    found = GroupsFound(("data/",), "_coalesce/", layout("corporate"), WHOLE, grow=True)
    found.add("data/t_8_0_9.jsonl.gz")
    found.add("data/t_8_10-10.jsonl.gz")
    found.add("data/t_9_0_9.jsonl.gz")
    assert found.leads(2).groups == {group(8)}


@pytest.mark.parametrize(
    ("prefix", "count"), [("logs/2026/11/26/14/05/", 0), ("logs/2026/11/26/14/", 1)]
)
def test_a_group_that_begins_above_the_prefixes_is_not_worked_on(prefix: str, count: int) -> None:
    found = GroupsFound((prefix,), "_coalesce/", layout("fluent-bit"), WHOLE)
    for second in range(9):
        found.add(f"logs/2026/11/26/14/05/0{second}-objectVxQ2aZ9k.gz")
    assert len(found.leads(2).groups) == count


def test_shards_share_groups_of_many_directories_out() -> None:
    shards = (Shard(index, 3) for index in range(3))
    shares = [
        GroupsFound(("logs/",), "_coalesce/", layout("fluent-bit"), shard) for shard in shards
    ]
    for found in shares:
        for hour in range(20):
            for number in range(4):
                found.add(f"logs/2026/11/26/{hour:02}/{number:02}/00-objectVxQ2aZ9k.gz")
    groups = [group for found in shares for group in found.leads(4).groups]
    assert len(groups) == len(set(groups)) == 20


async def test_shards_share_the_groups_out() -> None:
    place = inventory_of(filled(9, 2))
    shares = [(await read(place, Shard(index, 3))).leads(2).groups for index in range(3)]
    assert sorted(one for share in shares for one in share) == [group(n) for n in range(9)]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
async def test_any_key_is_read_as_it_was_written(name: str) -> None:
    bucket = MemoryBucket()
    bucket.store(f"data/{name}/t_0_0-1.jsonl.gz", b"x")
    found = await read(inventory_of(bucket))
    assert list(found.sources) == [GroupId(f"data/{name}/", "t", 0)]


@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 2500), min_size=1, max_size=6),
    st.integers(0, 9000),
    st.sampled_from(["", "data/", "data/x/"]),
)
def test_groups_are_listed_by_the_fewest_requests(
    sizes: dict[int, int], others: int, directory: str
) -> None:
    found = GroupsFound(("",), "_coalesce/", layout("corporate"), WHOLE)
    groups = {GroupId(directory, "t", number): size for number, size in sizes.items()}
    found.sources.update(groups)
    found.keys.update(groups)
    found.directory_keys[directory] = sum(sizes.values()) + others
    leads = found.leads(1)
    apart = sum(-(-size // 1000) for size in sizes.values())
    together = -(-(sum(sizes.values()) + others) // 1000)
    assert leads.groups == groups.keys()
    assert all(one.prefix.startswith(outermost(leads.prefixes)) for one in groups)
    if directory and together < apart:
        assert leads.prefixes == (directory,)
    else:
        assert sorted(leads.prefixes) == sorted(one.prefix for one in groups)


async def test_old_versions_and_delete_markers_are_not_there() -> None:
    bucket, place, fields = filled(1, 4), MemoryBucket(), (*FIELDS, *VERSIONS)
    first, second, third, _ = bucket.objects
    lines = [
        row(first, bucket, fields),
        row(first, bucket, fields, IsLatest="false"),
        row(second, bucket, fields, IsDeleteMarker="true", ETag="", Size=""),
        row(second, bucket, fields, IsLatest="false"),
        row(third, bucket, fields, IsLatest="false"),
    ]
    store_inventory(place, [lines], fields)
    assert (await read(place)).sources == {group(0): 1}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"sourceBucket": "other"}, "of the bucket 'other'"),
        ({"fileFormat": "ORC"}, "format ORC"),
        ({"fileFormat": "Parquet"}, "format Parquet"),
        ({"fileSchema": "Bucket, Size"}, "fields Bucket, Size"),
        ({"files": "none"}, "not a manifest"),
    ],
)
async def test_what_is_no_inventory_of_this_bucket_is_refused(
    said: dict[str, object], words: str
) -> None:
    place = MemoryBucket()
    store_inventory(place, [], **said)
    with pytest.raises(ConfigurationError, match=words) as raised:
        await read(place)
    assert raised.value.hint


async def test_a_manifest_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=MANIFEST):
        await read(MemoryBucket())


def cut(body: bytes) -> bytes:
    return body[:-9]


def flip(body: bytes) -> bytes:
    return body[:20] + bytes([body[20] ^ 1]) + body[21:]


def lengthen(body: bytes) -> bytes:
    return body + b"x"


def empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("spoil", [cut, flip, lengthen, empty])
@pytest.mark.parametrize("summed", [True, False])
async def test_nothing_is_known_where_a_file_cannot_be_read(
    spoil: Callable[[bytes], bytes], summed: bool
) -> None:
    place = inventory_of(filled(4, 4))
    if not summed:
        body = place.objects[MANIFEST].data
        place.store(MANIFEST, body.replace(b"MD5checksum", b"unknown"))
    key = "inv/b/daily/data/1.csv.gz"
    place.store(key, spoil(place.objects[key].data))
    with pytest.raises(ListingError, match=key):
        await read(place)


async def test_a_file_that_was_replaced_or_is_gone_is_not_what_the_manifest_says() -> None:
    bucket, key = filled(4, 4), "inv/b/daily/data/1.csv.gz"
    place, other = inventory_of(bucket), inventory_of(bucket, "data/t_0_")
    place.store(key, other.objects[key].data)
    with pytest.raises(ListingError, match=key):
        await read(place)
    place.remove(key)
    with pytest.raises(ListingError, match=key):
        await read(place)


@pytest.mark.parametrize("line", ['"b","data/t_0_9-9.jsonl.gz"', '"b'], ids=["fields", "quotes"])
async def test_nothing_is_known_where_a_row_cannot_be_read(line: str) -> None:
    bucket, place = filled(), MemoryBucket()
    store_inventory(place, [[row(key, bucket, FIELDS) for key in bucket.objects], [line]])
    with pytest.raises(ListingError):
        await read(place)


async def test_a_file_of_a_large_inventory_is_read_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coalesce.listing.inventory._CHUNK_BYTES", 7)
    monkeypatch.setattr("coalesce.listing.inventory._TEXT_BYTES", 5)
    found = await read(inventory_of(filled(2, 9)))
    assert found.sources == {group(0): 9, group(1): 9}
