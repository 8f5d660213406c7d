"""What is said of an object on the wire, and what is believed of an answer."""

import pytest

from coalesce import errors
from coalesce.storage.attributes import Attributes
from coalesce.storage.checksums import Checksum
from coalesce.storage.s3.answers import body_of, head_of
from coalesce.storage.s3.connection import Answer
from coalesce.storage.s3.headers import describe_upload
from coalesce.storage.s3.xml import parse_tags

SAID = {"etag": '"e"', "content-length": "1", "content-type": "a/b"}


def test_an_upload_carries_its_attributes_beside_our_own_metadata() -> None:
    attributes = Attributes(
        {"content-type": "a/b", "x-amz-meta-k": "v\tw"},
        {"a b": "c&d=e", "é": "+/"},
        "STANDARD_IA",
    )
    assert describe_upload(Checksum.NONE, {"coalesce-plan": "d"}, attributes) == {
        "content-type": "a/b",
        "x-amz-meta-k": "v w",
        "x-amz-meta-coalesce-plan": "d",
        "x-amz-tagging": "a%20b=c%26d%3De&%C3%A9=%2B%2F",
        "x-amz-storage-class": "STANDARD_IA",
    }


def test_our_own_metadata_goes_before_what_a_source_says() -> None:
    attributes = Attributes({"x-amz-meta-coalesce-plan": "a source's"})
    headers = describe_upload(Checksum.NONE, {"coalesce-plan": "d"}, attributes)
    assert headers == {"x-amz-meta-coalesce-plan": "d"}


@pytest.mark.parametrize(("count", "tags"), [("3", 3), ("0", 0), ("", 0), ("x", 0), (None, 0)])
def test_the_number_of_tags_is_what_an_answer_says(count: str | None, tags: int) -> None:
    said = SAID if count is None else SAID | {"x-amz-tagging-count": count}
    answer = Answer(200, said, b"1")
    assert body_of(answer, "k", "", 0, None).tags == tags
    assert head_of(answer, "k").tags == tags


@pytest.mark.parametrize(
    ("said", "archived"),
    [
        ({}, False),
        ({"x-amz-storage-class": "GLACIER"}, True),
        ({"x-amz-storage-class": "DEEP_ARCHIVE"}, True),
        ({"x-amz-storage-class": "GLACIER_IR"}, False),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING"}, False),
        (
            {
                "x-amz-storage-class": "INTELLIGENT_TIERING",
                "x-amz-archive-status": "ARCHIVE_ACCESS",
            },
            True,
        ),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'}, True),
        (
            {
                "x-amz-storage-class": "GLACIER",
                "x-amz-restore": 'ongoing-request="false", expiry-date="Fri"',
            },
            False,
        ),
    ],
)
def test_a_head_says_whether_an_object_has_to_be_restored(
    said: dict[str, str], archived: bool
) -> None:
    assert head_of(Answer(200, SAID | said), "k").archived is archived


NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@pytest.mark.parametrize("namespace", ["", NAMESPACE])
def test_tags_are_read_in_any_namespace(namespace: str) -> None:
    tags = "<Tag><Key>a</Key><Value>1 &amp; 2</Value></Tag><Tag><Key>b</Key><Value/></Tag>"
    text = f"<Tagging{namespace}><TagSet>{tags}</TagSet></Tagging>"
    assert parse_tags(text.encode(), "k") == {"a": "1 & 2", "b": ""}


def test_half_an_answer_says_nothing_of_tags() -> None:
    with pytest.raises(errors.Unavailable):
        parse_tags(b"<Tagging><TagSet><Tag><Key>a</Key>", "k")
    with pytest.raises(errors.Unavailable):
        parse_tags(b"<html/>", "k")
