"""The XML of errors, as stores and whatever stands before them write it."""

import pytest

from coalesce.storage.s3.xml import ErrorBody, parse_error

BODIES = {
    "as S3 writes it": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>C</Code><Message>M</Message>'
        b"<Resource>/b/k</Resource><RequestId>R</RequestId></Error>",
        ErrorBody("C", "M", "R"),
    ),
    "in a namespace": (
        b'<e:Error xmlns:e="http://s3.amazonaws.com/doc/2006-03-01/"><e:Code>C</e:Code></e:Error>',
        ErrorBody("C"),
    ),
    "within another element": (
        b"<ErrorResponse><Error><Code>C</Code></Error><RequestId>R</RequestId></ErrorResponse>",
        ErrorBody("C", "", "R"),
    ),
    "with entities": (
        b"<Error><Message>a &amp; &lt;b&gt; &#233; &quot;</Message></Error>",
        ErrorBody("", 'a & <b> \u00e9 "'),
    ),
    "with details of its own": (
        b"<Error><Code>C</Code><Detail><Code>D</Code></Detail></Error>",
        ErrorBody("C"),
    ),
    "after a byte order mark and an empty line": (
        b"\xef\xbb\xbf\n<?xml version='1.0'?><Error><Code>C</Code></Error>",
        ErrorBody("C"),
    ),
    "not in UTF-8": (
        b"<Error><Message>\xe9</Message><Code>C</Code></Error>",
        ErrorBody("C", "\ufffd"),
    ),
    "cut off": (b"<Error><Code>C</Code><Message>half a mess", ErrorBody("C")),
    "cut off within the code": (b"<Error><Code>Acc", ErrorBody()),
    "an entity that nobody knows": (b"<Error><Code>C</Code><p>&nbsp;</p></Error>", ErrorBody("C")),
    "HTML": (b"<html><body><p>502 Bad Gateway<br></body></html>", ErrorBody()),
    "JSON": (b'{"Code": "C"}', ErrorBody()),
    "nothing": (b"", ErrorBody()),
    "binary": (bytes(range(256)), ErrorBody()),
    "nested deeply": (b"<a>" * 100_000 + b"</a>" * 100_000, ErrorBody()),
}


@pytest.mark.parametrize("name", BODIES)
def test_an_error_is_read_as_far_as_it_can_be(name: str) -> None:
    body, expected = BODIES[name]
    assert parse_error(body) == expected
