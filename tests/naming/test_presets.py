"""Names as the programs write them that write such objects, and what becomes of them."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.model import Codec, ObjectInfo, Source
from coalesce.naming.foreign import foreign
from coalesce.naming.layouts import LAYOUTS, Layout, ParsedKey, layout, source_of
from coalesce.naming.shards import Shard
from coalesce.naming.sources import Places, Sources

OTHERS = [name for name in LAYOUTS if name not in ("corporate", "manifest")]
UUID = "fddd7a0e-fad9-4f7e-9bce-00ae5debc563"
ALB = "AWSLogs/123456789012/elasticloadbalancing/us-east-2/2022/05/01/123456789012_"
ALB += "elasticloadbalancing_us-east-2_"
FLOW = "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/123456789012_vpcflowlogs_us-east-1_"

# Layout, keys of one group in order, and what the output of them is called.
NAMES = [
    (
        "kafka-connect",
        [f"topics/clicks/partition=3/clicks+3+{n:010}.json" for n in (0, 500, 1000)],
        "topics/clicks/partition=3/clicks+3+0000000000_0000001000.json",
    ),
    (
        "kafka-connect",
        [f"topics/a.b_c-d/region=eu/a.b_c-d+12+{n:010}.json.gz" for n in (7, 9)],
        "topics/a.b_c-d/region=eu/a.b_c-d+12+0000000007_0000000009.json.gz",
    ),
    (
        "kafka-connect",
        [f"topics/t/year=2026/month=11/day=26/hour=15/t+0+{n:010}.bin.gz" for n in (1, 2)],
        "topics/t/year=2026/month=11/day=26/hour=15/t+0+0000000001_0000000002.bin.gz",
    ),
    (
        "kafka-connect",  # Confluent's with `file.delim` `-`; a start of more than ten digits
        ["topics/t/partition=0/t-0-9999999999.bin", "topics/t/partition=0/t-0-10000000001.bin"],
        "topics/t/partition=0/t-0-9999999999_10000000001.bin",
    ),
    (
        "kafka-connect",  # Aiven's: no zeros in front, so that the listing is in another order
        ["logs/my-topic-1-3-9.gz", "logs/my-topic-1-3-10.gz", "logs/my-topic-1-3-100.gz"],
        "logs/my-topic-1-3-9_100.gz",
    ),
    ("kafka-connect", ["t-0-1.jsonl.gz", "t-0-2.jsonl.gz"], "t-0-1_2.jsonl.gz"),
    ("kafka-connect", ["t-0-1.zst", "t-0-2.zst"], "t-0-1_2.zst"),
    (
        "secor",
        [f"secor/clicks/dt=2026-11-26/hr=15/1_3_{n:020}.gz" for n in (5, 80)],
        "secor/clicks/dt=2026-11-26/hr=15/1_3_00000000000000000005_00000000000000000080.gz",
    ),
    (
        "firehose",
        [f"2026/11/26/14/clicks-v2-1-2026-11-26-14-05-0{n}-{UUID}" for n in (1, 2)],
        "2026/11/26/14/clicks-v2-1-2026-11-26-14-05-01_2026-11-26-14-05-02",
    ),
    (
        "firehose",
        [f"raw/2026/11/26/14/s-12-2026-11-26-14-05-0{n}-{UUID}.json.gz" for n in (1, 2)],
        "raw/2026/11/26/14/s-12-2026-11-26-14-05-01_2026-11-26-14-05-02.json.gz",
    ),
    (
        "vector",
        [f"date=2019-06-18/{n}-{UUID}.log.gz" for n in (1560886634, 1560886635)],
        "date=2019-06-18/1560886634_1560886635.log.gz",
    ),
    (
        "vector",  # without a UUID
        ["date=2019-06-18/1560886634.log.zst", "date=2019-06-18/1560886635.log.zst"],
        "date=2019-06-18/1560886634_1560886635.log.zst",
    ),
    (
        "fluent-bit",
        [
            "fluent-bit-logs/app.web/2026/11/26/14/05/59-objectVxQ2aZ9k",
            "fluent-bit-logs/app.web/2026/11/26/14/06/00-objectb7LmN0pT",
        ],
        "fluent-bit-logs/app.web/2026/11/26/14/05-59_06-00",
    ),
    (
        "fluent-bit",  # %Y/%m/%d/%H/%M/%S/$UUID.gz
        [f"logs/2026/11/26/14/05/0{n}/VxQ2aZ9k.gz" for n in (1, 2)],
        "logs/2026/11/26/14/05-01_05-02.gz",
    ),
    (
        "logstash",
        [f"ls.s3.{UUID}.2013-04-18T10.{n:02}.tag_hello.part{n}.txt" for n in (0, 5, 10)],
        "ls.s3.2013-04-18T10.00_2013-04-18T10.10.tag_hello.txt",
    ),
    (
        "logstash",
        [f"2013/ls.s3.ip-10-228-27-95.2013-04-18T10.00.part{n}.txt.gz" for n in (9, 10)],
        "2013/ls.s3.2013-04-18T10.00_2013-04-18T10.00.txt.gz",
    ),
    (
        "aws-load-balancer",
        [
            f"{ALB}app.my-loadbalancer.1234567890abcdef_20220215T23{n}Z_172.160.001.192_20sg8hgm"
            ".log.gz"
            for n in (40, 45)
        ],
        f"{ALB}app.my-loadbalancer.1234567890abcdef_20220215T2340Z-20220215T2345Z.log.gz",
    ),
    (
        "aws-load-balancer",  # a classic one, and a network one that says no address
        [f"{ALB}my-loadbalancer_20180215T23{n}Z_172.160.001.192_20sg8hgm.log" for n in (40, 45)],
        f"{ALB}my-loadbalancer_20180215T2340Z-20180215T2345Z.log",
    ),
    (
        "aws-load-balancer",
        [f"{ALB}net.my-nlb.1234567890abcdef_20180215T23{n}Z_20sg8hgm.log.gz" for n in (40, 45)],
        f"{ALB}net.my-nlb.1234567890abcdef_20180215T2340Z-20180215T2345Z.log.gz",
    ),
    (
        "aws-cloudfront",
        [
            "logs/EMLARXS9EXAMPLE.2019-11-14-20.RT4KCN4SGK9.gz",
            "logs/EMLARXS9EXAMPLE.2019-11-14-21.K3RJ7Q2WX8A.gz",
        ],
        "logs/EMLARXS9EXAMPLE.2019-11-14-20_2019-11-14-21.gz",
    ),
    (
        "aws-vpc-flow-logs",
        [f"{FLOW}fl-1234abcd_20180620T16{n}Z_fe123456.log.gz" for n in (20, 25)],
        f"{FLOW}fl-1234abcd_20180620T1620Z-20180620T1625Z.log.gz",
    ),
]


def parsed_as(each: Layout, key: str) -> ParsedKey:
    parsed = each.parse(key)
    assert parsed is not None, key
    return parsed


def sources_of(each: Layout, keys: list[str]) -> list[Source]:
    return [source_of(parsed_as(each, key), ObjectInfo(key, 1, '"e"', 0.0)) for key in keys]


@pytest.mark.parametrize(("name", "keys", "output"), NAMES)
def test_real_names_are_sources_of_one_group_in_their_order(
    name: str, keys: list[str], output: str
) -> None:
    each = layout(name)
    parsed = [parsed_as(each, key) for key in keys]
    assert {found.kind for found in parsed} == {"source"}
    (group,) = {found.group for found in parsed}
    assert all(key.startswith(group.prefix) for key in keys)
    ordered = Sources.of(group.prefix, sources_of(each, sorted(keys))).by_offset()
    assert [source.key for source in ordered] == keys
    assert each.output_key(group, ordered, ()) == output
    found = parsed_as(each, output)
    assert (found.kind, found.group) == ("output", group)
    assert output.rpartition("/")[0] == group.directory.removesuffix("/")
    again = parsed_as(each, each.output_key(group, ordered, {output}))
    assert (again.kind, again.group) == ("output", group)


@pytest.mark.parametrize(("name", "keys", "output"), NAMES)
def test_no_other_preset_takes_these_names(name: str, keys: list[str], output: str) -> None:
    for key in keys:
        assert [other for other in LAYOUTS if LAYOUTS[other].parse(key)] == [name], key
    # a time may end like Aiven's `<topic>-<partition>-<start>`
    takes = {other for other in LAYOUTS if LAYOUTS[other].parse(output)}
    assert takes <= {name, "kafka-connect"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_samples_that_are_shown_are_sources_of_one_group(name: str) -> None:
    each = layout(name)
    assert len({parsed_as(each, key).group for key in each.data.samples}) == 1
    assert each.data.described.startswith("https://")


def test_topics_and_partitions_can_be_selected_where_names_have_them() -> None:
    told = {}
    for name, keys, _ in NAMES:
        group = parsed_as(layout(name), keys[0]).group
        told.setdefault(name, (group.topic, group.partition))
    assert told["kafka-connect"] == ("clicks", 3)
    assert told["secor"] == ("clicks", 3)
    assert told["firehose"] == ("clicks-v2", -1)
    assert told["fluent-bit"] == ("app.web", -1)
    assert told["aws-cloudfront"] == ("EMLARXS9EXAMPLE", -1)
    assert told["vector"] == ("*.log.gz", -1)


@pytest.mark.parametrize(
    ("name", "key", "codec"),
    [
        ("kafka-connect", "t+0+0000000000.json", Codec.PLAIN),
        ("kafka-connect", "t+0+0000000000.json.gz", Codec.GZIP),
        ("kafka-connect", "t-0-1.zst", Codec.ZSTD),
        ("kafka-connect", "t-0-1.jsonl.bz2", Codec.BZIP2),
        ("firehose", f"s-1-2026-11-26-14-05-01-{UUID}", Codec.PLAIN),
        ("aws-cloudfront", "E1.2019-11-14-20.abc.gz", Codec.GZIP),
    ],
)
def test_the_ending_tells_how_objects_are_stored(name: str, key: str, codec: Codec) -> None:
    each = layout(name)
    assert each.codec(parsed_as(each, key).group) is codec


def test_endings_are_never_mixed_in_a_group() -> None:
    each = layout("kafka-connect")
    plain, packed = (parsed_as(each, f"t+0+0000000000{e}").group for e in (".json", ".json.gz"))
    assert plain != packed
    assert str(plain) != str(packed)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("kafka-connect", "topics/t/partition=0/t+0+0000000000.avro"),
        ("kafka-connect", "topics/t/partition=0/t+0+0000000000.snappy.parquet"),
        ("kafka-connect", "topics/t/partition=0/t+0+0000000000.keys.json"),
        ("kafka-connect", "topics/t/partition=0/t+0-0000000000.json"),
        ("kafka-connect", "2026-11-26"),
        ("kafka-connect", "s-2026-11-26-14-05-02.json.gz"),
        ("kafka-connect", f"t-0-{2**63}.gz"),
        ("secor", "secor/t/dt=2026-11-26/1_3_00000000000000000005"),
        ("secor", "secor/t/dt=2026-11-26/1_3_5.gz"),
        ("firehose", f"2026/11/26/14/s-1-2026-11-26-14-05-01-{UUID}.parquet"),
        ("vector", "date=2019-06-18/1560886634-1560886635.log"),
        ("vector", "date=2019-06-18/a.log"),
        ("fluent-bit", "logs/05/59-objectVxQ2aZ9k/x"),
        ("logstash", "ls.s3.2013-04-18T10.00.part0.txt"),
    ],
)
def test_other_names_are_nobodys(name: str, key: str) -> None:
    assert layout(name).parse(key) is None


def test_fluent_bits_minutes_are_joined_within_the_hour_that_holds_them() -> None:
    each = layout("fluent-bit")
    keys = [f"logs/a/2026/11/26/{hour}/59/59-objectVxQ2aZ9k" for hour in (14, 15)]
    groups = {str(parsed_as(each, key).group) for key in keys}
    assert groups == {"logs/a/2026/11/26/14/*", "logs/a/2026/11/26/15/*"}
    assert each.may_be_group("logs/a/2026/11/26/14/")
    assert not each.may_be_group("logs/a/2026/11/26/")


def made_up(name: str) -> st.SearchStrategy[str]:
    """Keys that match the source pattern of a preset."""
    text = st.from_regex(LAYOUTS[name].data.source.replace("(?P=joint)", "[+-]"), fullmatch=True)
    return text.filter(lambda key: key.isprintable())


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data(), again=st.integers(0, 2), count=st.integers(2, 40))
def test_an_output_is_its_groups_is_never_a_source_and_is_the_same_shards(
    name: str, data: st.DataObject, again: int, count: int
) -> None:
    each, key = layout(name), data.draw(made_up(name))
    parsed = each.parse(key)
    if parsed is None:
        return  # it could be cut in two ways
    assert parsed.kind == "source"
    assert key.startswith(parsed.group.prefix)
    sources = [source_of(parsed, ObjectInfo(key, 1, '"e"', 0.0))]
    taken: set[str] = set()
    for _ in range(again + 1):
        output = each.output_key(parsed.group, sources, taken)
        found = each.parse(output)
        assert output not in taken
        assert found is not None or not each.by_directory
        assert found is None or (found.kind, found.group) == ("output", parsed.group)
        taken.add(output)
    for n in range(count):
        owned = {Shard(n, count).owns(k, each.share_of) for k in (key, *taken, f"{parsed.group}_")}
        assert len(owned) == 1, "a group never straddles two shards"


@pytest.mark.parametrize("name", LAYOUTS)
@given(data=st.data())
def test_packed_sources_keep_their_names(name: str, data: st.DataObject) -> None:
    each = layout(name)
    keys = data.draw(st.lists(made_up(name), max_size=5, unique=True))
    parsed = [(key, found) for key in [*each.data.samples, *keys] if (found := each.parse(key))]
    for group in {found.group for _, found in parsed}:
        entries = [
            (found, ObjectInfo(k, 1, "e", 0.0)) for k, found in parsed if found.group == group
        ]
        sources = [source_of(found, entry) for found, entry in dict(entries).items()]
        packed = Sources.of(group.prefix, sources)
        assert list(packed) == sources
        assert list(pickle.loads(pickle.dumps(packed[1:]))) == sources[1:]
        places = Places(packed)
        assert [places.find(s.first, s.key) for s in sources] == list(range(len(sources)))


def test_many_names_of_one_time_are_each_found() -> None:
    """An hour's logs of a busy distribution have one time: finding one must not read them all."""
    each = layout("aws-cloudfront")
    keys = [f"logs/E1.2019-11-14-20.{n:08}.gz" for n in range(5000)]
    packed = Sources.of("logs/E1.", sources_of(each, keys))
    places, looked = Places(packed), Counted(packed)
    places._sources = looked  # type: ignore[assignment]  # to see how many are made
    assert places.find(packed[0].first, keys[4321]) == 4321
    assert places.find(packed[0].first, "logs/E1.2019-11-14-20.x.gz") is None
    assert looked.made < 40


class Counted:
    """Counts the sources that are made."""

    def __init__(self, sources: Sources) -> None:
        self.made = 0
        self._sources = sources

    def __getitem__(self, at: int) -> Source:
        self.made += 1
        return self._sources[at]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_works_in_another_process(name: str) -> None:
    each = layout(name)
    other = pickle.loads(pickle.dumps(each))
    assert [other.parse(key) for key in each.data.samples] == list(
        map(each.parse, each.data.samples)
    )


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (
            "AWSLogs/1/CloudTrail/us-east-1/2026/11/26/123456789012_CloudTrail_us-east-1_"
            "20261126T2155Z_abcDEF0123456789.json.gz",
            "a log of CloudTrail",
        ),
        ("t/part-00000.snappy.parquet", "Parquet"),
        ("t/part-00000.parquet.gz", "Parquet"),
        ("topics/t/partition=0/t+0+0000000000.avro", "Avro"),
        ("t/000000_0.orc", "ORC"),
        ("t/t+0+0000000000.keys.json", "one of Kafka Connect's files of keys or headers"),
        ("secor/t/dt=2026-11-26/1_3_00000000000000000005", "a sequence file of Secor"),
        ("backup.tar.gz", "an archive or a compression whose pieces cannot be joined"),
    ],
)
def test_what_cannot_be_joined_is_known_and_no_preset_takes_it(key: str, what: str) -> None:
    found = foreign(key)
    assert found is not None
    assert found.what == what
    assert found.why
    assert found.instead
    assert [name for name in LAYOUTS if LAYOUTS[name].parse(key)] == []


def test_what_can_be_joined_is_not_taken_for_such() -> None:
    assert [key for _, keys, output in NAMES for key in (*keys, output) if foreign(key)] == []
