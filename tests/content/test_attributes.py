"""What an output says of itself, by what its sources say and the user chose."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalesce.content.attributes import (
    AttributeRules,
    difference,
    everything,
    first_of,
    not_kept,
    problem_of,
)
from coalesce.storage.attributes import (
    MAX_METADATA_BYTES,
    SSE,
    SSE_BUCKET_KEY,
    SSE_KEY,
    Attributes,
    attributes_in,
    parse_metadata,
    parse_tags,
)
from support.settings import settings

KMS = {SSE: "aws:kms", SSE_KEY: "arn:key", SSE_BUCKET_KEY: "true"}
NAMES = (
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
    "expires",
    SSE,
    SSE_KEY,
    SSE_BUCKET_KEY,
    "x-amz-meta-a",
    "x-amz-meta-b",
)
SAID = st.builds(
    Attributes,
    headers=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1", "2"])),
    tags=st.dictionaries(st.sampled_from(["t", "u"]), st.sampled_from(["1", ""])),
    storage_class=st.sampled_from(["STANDARD", "STANDARD_IA"]),
)
CHOICES: dict[str, list[str]] = {
    "content_type": ["none", "text/plain"],
    "content_encoding": ["none", "zstd"],
    "metadata": ["none", "team=a"],
    "tags": ["none", "owner=b"],
    "storage_class": ["none", "GLACIER_IR"],
    "sse": ["none", "AES256", "aws:kms"],
}
CHOSEN = st.fixed_dictionaries(
    {name: st.sampled_from(["source", *values]) for name, values in CHOICES.items()}
)


def rules(**chosen: object) -> AttributeRules:
    return AttributeRules.of(settings(**chosen))


@given(SAID)
def test_an_output_says_what_its_sources_say(said: Attributes) -> None:
    output = rules().of_output(said)
    assert output.tags == said.tags
    assert (output.storage_class or "STANDARD") == said.storage_class
    lost = said.headers.keys() - output.headers.keys()
    assert lost <= {SSE_KEY}  # a key without its algorithm is no request that S3 takes
    assert output.headers.items() <= said.headers.items()


@given(SAID, CHOSEN)
def test_what_the_user_chose_is_the_same_whatever_the_sources_say(
    said: Attributes, chosen: Mapping[str, str]
) -> None:
    made = rules(**chosen)
    output, of_none = made.of_output(said), made.of_output(Attributes())
    for name in {*output.headers, *of_none.headers}:
        if made.decides(name):
            assert output.headers.get(name) == of_none.headers.get(name)
    if chosen["tags"] != "source":
        assert output.tags == of_none.tags
    if chosen["storage_class"] != "source":
        assert output.storage_class == of_none.storage_class


@given(SAID, SAID)
def test_a_difference_says_all_that_is_needed_to_tell_what_the_other_said(
    said: Attributes, first: Attributes
) -> None:
    """As giving sources back will need it."""
    told = everything(first) | difference(said, first)
    told = {name: value for name, value in told.items() if value not in (None, {})}
    assert told == {name: value for name, value in everything(said).items() if value != {}}
    assert (difference(said, first) == {}) == (said == first)


@given(SAID, SAID, CHOSEN)
def test_only_what_the_user_did_not_choose_differs_in_the_report(
    said: Attributes, first: Attributes, chosen: Mapping[str, str]
) -> None:
    made, differing = rules(**chosen), difference(said, first)
    undecided = [name for name in differing if not made.decides(name)]
    words = first_of(differing, first, made)
    assert bool(words) == bool(undecided)
    assert not words or words.startswith(f"{undecided[0]} is ")


def test_differences_are_told_in_words() -> None:
    first = Attributes({"content-type": "c/d"}, {"a": "1"})
    told = difference(Attributes({}, {"a": "1"}), first)
    assert first_of(told, first, rules()) == "content-type is not there, of the output c/d"
    told = difference(Attributes({"content-type": "c/d"}, {"a": "2", "b": ""}), first)
    assert first_of(told, first, rules()) == "tags is a=2,b=, of the output a=1"


@pytest.mark.parametrize(
    ("chosen", "headers"),
    [
        ({}, KMS),
        ({"sse": "none"}, {}),
        ({"sse": "AES256"}, {SSE: "AES256"}),
        ({"sse": "aws:kms"}, {SSE: "aws:kms", SSE_KEY: "arn:key"}),
        (
            {"sse": "aws:kms:dsse", "sse_kms_key_id": "other"},
            {SSE: "aws:kms:dsse", SSE_KEY: "other"},
        ),
        ({"sse_kms_key_id": "none"}, {SSE: "aws:kms", SSE_BUCKET_KEY: "true"}),
    ],
)
def test_the_encryption_is_the_sources_or_the_users(
    chosen: dict[str, str], headers: dict[str, str]
) -> None:
    assert rules(**chosen).of_output(Attributes(KMS)).headers == headers


def test_a_key_is_not_named_beside_an_algorithm_that_has_none() -> None:
    made = rules(sse="aws:kms").of_output(Attributes({SSE: "AES256"}))
    assert made.headers == {SSE: "aws:kms"}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"content-encoding": "aws-chunked"}, {}),
        ({"content-encoding": "gzip,aws-chunked"}, {"content-encoding": "gzip"}),
        ({"content-encoding": "aws-chunked, gzip"}, {"content-encoding": "gzip"}),
        ({"x-amz-meta-coalesce-plan": "d", "x-amz-meta-plan": "e"}, {"x-amz-meta-plan": "e"}),
        ({"etag": "e", "date": "d", "x-amz-request-id": "r", "content-length": "3"}, {}),
    ],
)
def test_what_does_not_describe_the_object_is_none_of_its_attributes(
    said: dict[str, str], found: dict[str, str]
) -> None:
    assert attributes_in(said) == found


def test_what_a_store_did_not_keep_is_named() -> None:
    wanted = Attributes({"content-type": "a/b", **KMS, SSE_KEY: "alias/k"})
    assert not_kept("o", wanted, {**wanted.headers, SSE_KEY: "arn:aws:kms:k"}) == ""
    assert not_kept("o", wanted, KMS) == "o: content-type is not there, asked for was a/b"


OWN = {"coalesce-plan": "d" * 64}
FREE = MAX_METADATA_BYTES - len("coalesce-plan") - 64


@pytest.mark.parametrize(("length", "fits"), [(FREE - 1, True), (FREE, False)])
def test_user_metadata_is_held_against_the_limit_with_our_own(length: int, fits: bool) -> None:
    problem, option = problem_of(Attributes({"x-amz-meta-k": "v" * length}), OWN)
    assert (not problem, option) == (fits, "" if fits else "--metadata none")


def test_more_tags_than_an_object_can_have_are_a_problem() -> None:
    tags = {str(n): "" for n in range(11)}
    assert problem_of(Attributes(tags=tags), OWN)[1] == "--tags none"
    del tags["0"]
    assert problem_of(Attributes(tags=tags), OWN) == ("", "")


PAIRS = st.dictionaries(
    st.text("abcXYZ-._", min_size=1).filter(lambda name: not name.startswith("coalesce-")),
    st.text("abc XYZ=/;").map(str.strip),
    min_size=1,
    max_size=10,
)


@given(PAIRS)
def test_pairs_are_read_as_they_are_written(pairs: dict[str, str]) -> None:
    text = ",".join(f"{key}={value}" for key, value in pairs.items())
    assert parse_tags(text) == pairs
    if len({key.lower() for key in pairs}) == len(pairs):
        assert parse_metadata(text) == {key.lower(): value for key, value in pairs.items()}


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "=b",
        "a=b,a=c",
        "k=a,K=b",
        "é=b",
        "a b=c",
        "a=ü",
        "coalesce-plan=x",
        f"a={'b' * 1800}",
        "",
    ],
)
def test_metadata_that_no_object_can_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_metadata(text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        ",".join(f"{n}=" for n in range(11)),
        f"{'a' * 129}=b",
        f"a={'b' * 257}",
        "aws:x=y",
        "a=b,a=c",
    ],
)
def test_tags_that_no_object_can_have_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_tags(text)
