"""The layouts that come with the program: names as the programs write them that write such objects.

Each says where its writer describes the names.
"""

from __future__ import annotations

from coalesce.model import Codec, Records
from coalesce.naming.layout_data import Kind, LayoutData, Offsets

# Kafka's legal topic characters (org.apache.kafka.common.internals.Topic).
_TOPIC = r"[a-zA-Z0-9._-]+"

_COUNT = r"(?:0|[1-9]\d*)"
_DIR = "(?P<dir>(?:.*/)?)"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PACKED = r"(?:\.(?:gz|zst|bz2))"

# Endings of text that can be joined line by line; CSV is not among it, since it may have a header.
_TEXT = r"(?:\.(?:json|jsonl|ndjson|log|txt))"

_ALL_CODECS = (Codec.GZIP, Codec.PLAIN, Codec.ZSTD, Codec.BZIP2)

_CORPORATE = LayoutData(
    name="corporate",
    source=(
        rf"{_DIR}(?P<topic>{_TOPIC})_(?P<partition>\d+)_(?P<first>\d+)-(?P<last>\d+)\.jsonl\.gz"
    ),
    group=("dir", "topic", "partition"),
    order=(("first", Kind.NUMBER), ("last", Kind.NUMBER)),
    # Readers filter by `_\d+_\d+[-_](\d+|uuid)\.jsonl\.gz$` and pick the codec by the suffix, so
    # outputs must end as sources do.
    output="{dir}{topic}_{partition}_{first.first}_{max.last}.jsonl.gz",
    example="<topic>_<partition>_<first>-<last>.jsonl.gz",
    output_example="<topic>_<partition>_<first>_<last>.jsonl.gz",
    samples=("dir/events_3_0-9.jsonl.gz", "dir/events_3_10-19.jsonl.gz"),
    codecs=(Codec.GZIP,),
    offsets=Offsets.RANGE,
    comparable_offsets=True,
    underscored=True,
    described="https://github.com/dwp/kafka-to-hbase",
)

# The first topic and partition make the group. The two offsets may belong to different
# topic-partitions, so they are not comparable. A name with two joints could be cut in two ways.
_MANIFEST = LayoutData(
    name="manifest",
    source=(
        rf"{_DIR}(?P<topic>{_TOPIC})_(?P<partition>\d+)_(?P<first>\d+)-"
        rf"(?P<tail>(?P<topic2>{_TOPIC})_(?P<partition2>\d+)_(?P<last>\d+))\.txt"
    ),
    group=("dir", "topic", "partition"),
    order=(("first", Kind.NUMBER), ("last", Kind.NUMBER)),
    output="{dir}{topic}_{partition}_{first.first}_{last.tail}.txt",
    example="<topic>_<partition>_<offset>-<topic>_<partition>_<offset>.txt",
    output_example="<topic>_<partition>_<offset>_<topic>_<partition>_<offset>.txt",
    samples=("dir/events_3_0-events_3_0.txt", "dir/events_3_10-events_3_10.txt"),
    codecs=(Codec.PLAIN,),
    offsets=Offsets.RANGE,
    tail="tail",
    once=r"(?=_\d+_\d+[-_][a-zA-Z0-9._-])",
    underscored=True,
    described="https://github.com/dwp/kafka-to-hbase",
)

# Confluent's sink joins topic, partition and start by `file.delim`, `+` by default, and pads the
# start to ten digits, in whatever directory its partitioner chooses; Aiven's by `-`, with an ending
# for the compression alone. The files of keys and headers that Confluent's may write beside those
# of values end in `.keys.json` and `.headers.json`, and are no sources.
_KAFKA_CONNECT = LayoutData(
    name="kafka-connect",
    source=(
        rf"{_DIR}(?P<stem>(?P<topic>{_TOPIC})(?P<joint>[+-])(?P<partition>{_COUNT})(?P=joint))"
        rf"(?P<start>\d+)(?P<ending>(?:\.(?:json|jsonl|txt|bin)){_PACKED}?|{_PACKED})"
    ),
    group=("dir", "stem", "ending"),
    order=(("start", Kind.NUMBER),),
    output="{dir}{stem}{first.start}_{last.start}{ending}",
    example="<topic>+<partition>+<start>.json",
    output_example="<topic>+<partition>+<start>_<start of the last>.json",
    samples=(
        "topics/clicks/partition=3/clicks+3+0000000000.json",
        "topics/clicks/partition=3/clicks+3+0000000500.json",
    ),
    codecs=_ALL_CODECS,
    offsets=Offsets.START,
    comparable_offsets=True,
    described="https://docs.confluent.io/kafka-connectors/s3-sink/current/overview.html",
)

# `<prefix>/<topic>/<partitions>/<generation>_<kafka partition>_<offset>`, the offset in twenty
# digits. Without an ending it may be a sequence file of Hadoop, which cannot be joined.
_SECOR = LayoutData(
    name="secor",
    source=(
        rf"{_DIR}(?P<generation>\d+)_(?P<partition>\d+)_(?P<start>\d{{20}})(?P<ending>{_PACKED})"
    ),
    group=("dir", "generation", "partition", "ending"),
    order=(("start", Kind.NUMBER),),
    output="{dir}{generation}_{partition}_{first.start}_{last.start}{ending}",
    example="<generation>_<partition>_<start>.gz",
    output_example="<generation>_<partition>_<start>_<start of the last>.gz",
    samples=(
        "secor/clicks/dt=2026-11-26/1_3_00000000000000000000.gz",
        "secor/clicks/dt=2026-11-26/1_3_00000000000000000500.gz",
    ),
    codecs=(Codec.GZIP, Codec.ZSTD, Codec.BZIP2),
    offsets=Offsets.START,
    comparable_offsets=True,
    topic=r"(?:^|/)([^/=]+)/(?:[^/=]+=[^/]*/)*$",
    described=(
        "https://github.com/pinterest/secor/blob/master/src/main/java/com/pinterest/secor/common/"
        "LogFilePath.java"
    ),
)

_FIREHOSE = LayoutData(
    name="firehose",
    source=(
        rf"{_DIR}(?P<topic>{_TOPIC})-(?P<version>\d+)-"
        rf"(?P<time>\d{{4}}(?:-\d{{2}}){{5}})-{_UUID}(?P<ending>{_TEXT}?{_PACKED}?)"
    ),
    group=("dir", "topic", "version", "ending"),
    order=(("time", Kind.TIME),),
    output="{dir}{topic}-{version}-{first.time}_{last.time}{ending}",
    example="<stream>-<version>-<yyyy-MM-dd-HH-mm-ss>-<uuid>",
    output_example="<stream>-<version>-<time>_<time of the last>",
    samples=(
        "2026/11/26/14/clicks-1-2026-11-26-14-05-00-2fb06af7-6fea-43a8-9b1e-0a4c8d2f7b61.gz",
        "2026/11/26/14/clicks-1-2026-11-26-14-10-02-77f0e1c4-19dd-4a53-8f2d-6b1f60c3a9e5.gz",
    ),
    codecs=_ALL_CODECS,
    described="https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html",
)

_VECTOR = LayoutData(
    name="vector",
    source=rf"{_DIR}(?P<time>\d+)(?:-{_UUID})?(?P<ending>{_TEXT}{_PACKED}?)",
    group=("dir", "ending"),
    order=(("time", Kind.NUMBER),),
    output="{dir}{first.time}_{last.time}{ending}",
    example="<seconds>-<uuid>.log.gz",
    output_example="<seconds>_<seconds of the last>.log.gz",
    samples=(
        "date=2019-06-18/1560886634-fddd7a0e-fad9-4f7e-9bce-00ae5debc563.log.gz",
        "date=2019-06-18/1560886934-0c3e6b52-7f0d-4ab1-8d55-1e2a9c64f0b7.log.gz",
    ),
    codecs=_ALL_CODECS,
    described="https://vector.dev/docs/reference/configuration/sinks/aws_s3/#object-naming",
)

# `/fluent-bit-logs/$TAG/%Y/%m/%d/%H/%M/%S`, with `-object` and eight characters where an object is
# put at once; or `$UUID`, eight characters too. That is a directory for each minute, so that an
# hour's directory holds the group.
_FLUENT_BIT = LayoutData(
    name="fluent-bit",
    source=(
        rf"{_DIR}(?P<minute>\d{{2}})/(?P<second>\d{{2}})(?:(?:-object|[/_-])[A-Za-z0-9]{{8}})?"
        rf"(?P<ending>{_TEXT}?{_PACKED}?)"
    ),
    group=("dir", "ending"),
    order=(("minute", Kind.NUMBER), ("second", Kind.NUMBER)),
    output="{dir}{first.minute}-{first.second}_{last.minute}-{last.second}{ending}",
    example="<yyyy/MM/dd/HH>/<mm>/<ss>-object<8 characters>",
    output_example="<yyyy/MM/dd/HH>/<mm>-<ss>_<mm>-<ss of the last>",
    samples=(
        "fluent-bit-logs/app.web/2026/11/26/14/05/00-objectVxQ2aZ9k",
        "fluent-bit-logs/app.web/2026/11/26/14/15/00-objectb7LmN0pT",
    ),
    codecs=_ALL_CODECS,
    topic=r"(?:^|/)([^/]+)/\d{4}/\d{2}/\d{2}/\d{2}/$",
    whole=r"(?:.*/)?\d{4}/\d{2}/\d{2}/\d{2}/",
    described="https://docs.fluentbit.io/manual/pipeline/outputs/s3",
)

_LOGSTASH = LayoutData(
    name="logstash",
    source=(
        rf"{_DIR}ls\.s3\.[A-Za-z0-9-]+\.(?P<time>\d{{4}}-\d{{2}}-\d{{2}}T\d{{2}}\.\d{{2}})"
        rf"(?P<tags>(?:\.tag_[^/]+?)?)\.part(?P<part>\d+)(?P<ending>\.txt(?:\.gz)?)"
    ),
    group=("dir", "tags", "ending"),
    order=(("time", Kind.TIME), ("part", Kind.NUMBER)),
    output="{dir}ls.s3.{first.time}_{last.time}{tags}{ending}",
    example="ls.s3.<uuid>.<yyyy-MM-ddTHH.mm>.part<n>.txt",
    output_example="ls.s3.<time>_<time of the last>.txt",
    samples=(
        "ls.s3.312bc026-2f5d-49bc-ae9f-5940cf4ad9a6.2013-04-18T10.00.tag_hello.part0.txt",
        "ls.s3.312bc026-2f5d-49bc-ae9f-5940cf4ad9a6.2013-04-18T10.05.tag_hello.part1.txt",
    ),
    codecs=(Codec.GZIP, Codec.PLAIN),
    described="https://www.elastic.co/docs/reference/logstash/plugins/plugins-outputs-s3",
)

# Of application and network load balancers in gzip, of classic ones as plain text.
_LOAD_BALANCER = LayoutData(
    name="aws-load-balancer",
    source=(
        rf"{_DIR}(?P<stem>\d{{12}}_elasticloadbalancing_[a-z0-9-]+_(?P<topic>[A-Za-z0-9.-]+))_"
        rf"(?P<time>\d{{8}}T\d{{4}}Z)_(?:[0-9a-f.:]+_)?[A-Za-z0-9]+(?P<ending>\.log(?:\.gz)?)"
    ),
    group=("dir", "stem", "ending"),
    order=(("time", Kind.TIME),),
    output="{dir}{stem}_{first.time}-{last.time}{ending}",
    example="<account>_elasticloadbalancing_<region>_<balancer>_<time>_<address>_<random>.log.gz",
    output_example="<account>_elasticloadbalancing_<region>_<balancer>_<time>-<time>.log.gz",
    samples=(
        "AWSLogs/123456789012/elasticloadbalancing/us-east-2/2022/05/01/123456789012_"
        "elasticloadbalancing_us-east-2_app.my-loadbalancer.1234567890abcdef_20220215T2340Z_"
        "172.160.001.192_20sg8hgm.log.gz",
        "AWSLogs/123456789012/elasticloadbalancing/us-east-2/2022/05/01/123456789012_"
        "elasticloadbalancing_us-east-2_app.my-loadbalancer.1234567890abcdef_20220215T2345Z_"
        "172.160.001.192_4tc2pq9x.log.gz",
    ),
    codecs=(Codec.GZIP, Codec.PLAIN),
    described=(
        "https://docs.aws.amazon.com/elasticloadbalancing/latest/application/"
        "load-balancer-access-logs.html"
    ),
)

# Lines under two that begin with `#` in each: they stay where they are.
_CLOUDFRONT = LayoutData(
    name="aws-cloudfront",
    source=(
        rf"{_DIR}(?P<topic>[A-Z0-9]+)\.(?P<time>\d{{4}}-\d{{2}}-\d{{2}}-\d{{2}})\."
        r"[A-Za-z0-9]+\.gz"
    ),
    group=("dir", "topic"),
    order=(("time", Kind.TIME),),
    output="{dir}{topic}.{first.time}_{last.time}.gz",
    example="<distribution>.<yyyy-MM-dd-HH>.<unique>.gz",
    output_example="<distribution>.<hour>_<hour of the last>.gz",
    samples=(
        "logs/EMLARXS9EXAMPLE.2019-11-14-20.RT4KCN4SGK9.gz",
        "logs/EMLARXS9EXAMPLE.2019-11-14-21.K3RJ7Q2WX8A.gz",
    ),
    codecs=(Codec.GZIP,),
    described=(
        "https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/"
        "standard-logging-legacy-s3.html"
    ),
)

_FLOW_LOGS = LayoutData(
    name="aws-vpc-flow-logs",
    source=(
        rf"{_DIR}(?P<stem>\d{{12}}_vpcflowlogs_[a-z0-9-]+_(?P<topic>fl-[0-9a-f]+))_"
        r"(?P<time>\d{8}T\d{4}Z)_[0-9a-f]+\.log\.gz"
    ),
    group=("dir", "stem"),
    order=(("time", Kind.TIME),),
    output="{dir}{stem}_{first.time}-{last.time}.log.gz",
    example="<account>_vpcflowlogs_<region>_<flow log>_<time>_<hash>.log.gz",
    output_example="<account>_vpcflowlogs_<region>_<flow log>_<time>-<time>.log.gz",
    samples=(
        "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/123456789012_vpcflowlogs_us-east-1_"
        "fl-1234abcd_20180620T1620Z_fe123456.log.gz",
        "AWSLogs/123456789012/vpcflowlogs/us-east-1/2018/06/20/123456789012_vpcflowlogs_us-east-1_"
        "fl-1234abcd_20180620T1625Z_0b9a7c31.log.gz",
    ),
    codecs=(Codec.GZIP,),
    records=Records.CSV_HEADER,
    described="https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-s3-path.html",
)

PRESETS = (
    _CORPORATE,
    _MANIFEST,
    _KAFKA_CONNECT,
    _SECOR,
    _FIREHOSE,
    _VECTOR,
    _FLUENT_BIT,
    _LOGSTASH,
    _LOAD_BALANCER,
    _CLOUDFRONT,
    _FLOW_LOGS,
)
