"""`--gzip`: what outputs are made of, and that every record is in them whatever the mode."""

import gzip
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from coalesce.storage.memory import MemoryBucket, MemoryStore
from support.buckets import contents, data_in, records_in
from support.invoke import invoke
from support.runs import new_run
from support.scenarios import AuditedBucket
from support.settings import settings

OUTPUT = "data/t_0_0_4.jsonl.gz"


def five() -> MemoryBucket:
    """Five sources of one group: of two members, without a last newline, and without text."""
    texts = [b"0\n", b"1\n1\n", b"2", b"", b"4\n"]
    bucket = MemoryBucket()
    for n, text in enumerate(texts):
        body = gzip.compress(text, mtime=0) + gzip.compress(b"", mtime=0)
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    return bucket


def members_in(data: bytes) -> int:
    count = 0
    while data:
        inflater = zlib.decompressobj(31)
        inflater.decompress(data)
        data, count = inflater.unused_data, count + 1
    return count


@pytest.mark.parametrize(
    ("more", "members"), [({}, 1), ({"gzip": "single"}, 1), ({"gzip": "members"}, 5)]
)
async def test_an_output_is_one_member_unless_the_members_are_asked_for(
    more: dict[str, object], members: int
) -> None:
    """Of the five members with text one is of a newline that was missing."""
    bucket = five()
    report = await new_run(MemoryStore(bucket), settings(**more)).coalesce()
    assert (report.exit_code, list(data_in(bucket.objects))) == (0, [OUTPUT])
    data = bucket.objects[OUTPUT].data
    assert gzip.decompress(data) == b"0\n1\n1\n2\n4\n"
    assert members_in(data) == members
    assert (report.sources.joined, report.outputs.records) == (5, 5)


async def test_without_the_check_members_stay_as_they_are() -> None:
    bucket = five()
    bodies = [held.data for held in bucket.objects.values()]
    await new_run(MemoryStore(bucket), settings(check=False)).coalesce()
    assert bucket.objects[OUTPUT].data == b"".join(bodies)


async def test_outputs_of_two_modes_are_told_apart_by_the_digest_of_their_plan() -> None:
    """What one mode has written is not taken for what the other has planned."""
    digests = set()
    for gzip_mode in ("single", "members"):
        bucket = five()
        await new_run(MemoryStore(bucket), settings(gzip=gzip_mode)).coalesce()
        digests.add(bucket.objects[OUTPUT].metadata["coalesce-plan"])
    assert len(digests) == 2


async def test_an_output_that_grew_beyond_the_limit_is_told() -> None:
    """What was deflated as well as can be is longer when it is deflated quickly."""
    words = [f"{'ab' * (n % 5)}{n}" for n in range(300)]
    bucket, rng = MemoryBucket(), random.Random(1)
    for n in range(2):
        text = " ".join(rng.choices(words, k=50_000)).encode()
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", gzip.compress(text, 9, mtime=0))
    bucket.now += 1000
    size = sum(len(held.data) for held in bucket.objects.values())
    events: list[dict[str, object]] = []
    run = new_run(MemoryStore(bucket), settings(max_size=size * 100 // 97 + 1), events.append)
    report = await run.coalesce()
    (output,) = (event for event in events if event["type"] == "output")
    assert (report.exit_code, report.sources.joined) == (0, 2)
    assert (report.outputs.oversized, output["oversized"]) == (1, True)


def test_one_member_needs_the_check_that_inflates_the_sources(tmp_path: Path) -> None:
    words = ["run", "-b", "b", "-p", "data", "--no-check", "--gzip", "single"]
    done = invoke(words, {"b": five()}, folder=tmp_path)
    assert done.code == 2
    assert "choose --gzip members" in done.stderr


@examples(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a\n", b"some words\n", b""]), st.integers(0, 4000), st.booleans()
        ),
        min_size=2,
        max_size=12,
    ),
    st.sampled_from([64, 300, 5000]),
)
async def test_sources_of_any_ratio_come_out_whole_in_parts_of_any_size(
    shapes: list[tuple[bytes, int, bool]], part: int
) -> None:
    """What comes out of the deflater is longer or much shorter than what went in."""
    bucket = AuditedBucket(min_part_bytes=part)
    bucket.part_bytes = part
    for n, (line, times, packed) in enumerate(shapes):
        body = gzip.compress(line * times, 9 if packed else 0, mtime=0)
        bucket.store(f"data/t_0_{n}-{n}.jsonl.gz", body)
    bucket.now += 1000
    before = records_in(contents(bucket))
    run = new_run(MemoryStore(bucket), settings())
    report = await run.coalesce()
    assert (report.exit_code, report.sources.joined) == (0, len(shapes))
    assert records_in(contents(bucket)) == before
    (output,) = data_in(bucket.objects)
    assert members_in(bucket.objects[output].data) == 1


def test_a_plan_of_one_member_says_that_it_needs_the_check(tmp_path: Path) -> None:
    """And a plan of manifests, which are no gzip, does not."""
    place = ["-b", "b", "-p", "data", "--min-age", "0"]
    saved = str(tmp_path / "plan.jsonl")
    assert invoke(["plan", *place, "--save-plan", saved], {"b": five()}, folder=tmp_path).code == 0
    words = ["run", "-b", "b", "-p", "data", "--plan", saved, "--no-check"]
    done = invoke(words, {"b": five()}, folder=tmp_path)
    assert (done.code, "Leave --no-check out" in done.stderr) == (2, True)
    manifests = MemoryBucket()
    for n in range(3):
        manifests.store(f"data/t_0_{n}-t_0_{n}.txt", b"%d\n" % n)
    manifests.now += 1000
    words = ["plan", *place, "-a", "--save-plan", saved]
    assert invoke(words, {"b": manifests}, folder=tmp_path).code == 0
    words = ["run", "-b", "b", "-p", "data", "-a", "--plan", saved, "--no-check"]
    done = invoke(words, {"b": manifests}, folder=tmp_path)
    assert (done.code, len(done.outputs)) == (0, 1)
