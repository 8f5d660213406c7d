"""Signatures, compared with those of botocore's signer."""

import datetime as dt
import random
import string
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from coalesce.storage.s3.signing import (
    EMPTY_SHA256,
    UNSIGNED,
    Keys,
    Signer,
    encode_path,
    encode_query,
)

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC).timestamp()
KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


class Sealed(S3SigV4Auth):
    """botocore's signer with a payload hash of the test's choice, not that of a body."""

    payload_hash = EMPTY_SHA256

    def payload(self, request: AWSRequest) -> str:
        return self.payload_hash


def botocores(
    method: str,
    url: str,
    headers: dict[str, str],
    keys: Keys,
    region: str,
    now: float,
    payload: str,
) -> dict[str, str]:
    """All headers of the same request, signed by botocore at that moment."""
    request = AWSRequest(method=method, url=url, headers=headers)
    signer = Sealed(Credentials(keys.access, keys.secret, keys.token or None), "s3", region)
    signer.payload_hash = payload
    moment = dt.datetime.fromtimestamp(int(now), dt.UTC).replace(tzinfo=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
        signer.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def check(
    signer: Signer,
    method: str,
    base: str,
    key: str | None,
    query: dict[str, str],
    headers: dict[str, str],
    keys: Keys,
    now: float,
    payload: str,
) -> None:
    """`base` is the URL of the bucket, with a slash at its end."""
    parts = urlsplit(base)
    path = parts.path + encode_path(key) if key is not None else parts.path.rstrip("/") or "/"
    canonical = encode_query(query)
    ours = {"host": parts.netloc, **headers}
    signer.sign(method, path, canonical, ours, keys, now, payload)
    url = f"{parts.scheme}://{parts.netloc}{path}{f'?{canonical}' if canonical else ''}"
    theirs = botocores(method, url, headers, keys, signer.region, now, payload)
    assert {name: value for name, value in ours.items() if name != "host"} == theirs


BASES = [
    "https://bucket.s3.eu-west-2.amazonaws.com/",
    "http://127.0.0.1:9000/bucket/",
    "https://minio.example:8443/base/bucket/",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUE = st.text(string.ascii_letters + string.digits + string.punctuation + " \t", max_size=30)
NAME = st.from_regex(
    r"(x-amz-[a-z0-9-]{1,12}|if-match|range|content-md5|content-type)", fullmatch=True
).filter(lambda name: name not in ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token"))
SECRET = st.text(string.ascii_letters + string.digits + "/+=", min_size=1, max_size=40)


@settings(max_examples=500, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    base=st.sampled_from(BASES),
    key=st.none() | TEXT.filter(bool),
    query=st.dictionaries(TEXT, TEXT, max_size=5),
    headers=st.dictionaries(NAME, VALUE, max_size=5),
    keys=st.builds(Keys, SECRET, SECRET, st.just("") | SECRET),
    region=st.sampled_from(["us-east-1", "eu-west-2", "cn-north-1"]),
    now=st.floats(0, 4_000_000_000),
    payload=st.sampled_from([UNSIGNED, EMPTY_SHA256]),
)
def test_a_signature_is_botocores_bit_by_bit(
    method: str,
    base: str,
    key: str | None,
    query: dict[str, str],
    headers: dict[str, str],
    keys: Keys,
    region: str,
    now: float,
    payload: str,
) -> None:
    check(Signer(region), method, base, key, query, headers, keys, now, payload)


def test_a_header_is_signed_as_the_bytes_that_are_sent() -> None:
    """Such as the content type of a source, whatever a producer wrote there."""
    value = "text/plain;  name=ü à Å"  # in UTF-8 with bytes that are spaces in Latin-1
    headers = {"host": "h", "content-type": value.encode().decode("latin-1")}
    Signer("us-east-1").sign("POST", "/b/k", "uploads=", headers, KEYS, NOON, EMPTY_SHA256)
    theirs = botocores(
        "POST",
        "http://h/b/k?uploads=",
        {"content-type": value},
        KEYS,
        "us-east-1",
        NOON,
        EMPTY_SHA256,
    )
    assert headers["authorization"] == theirs["authorization"]


def test_one_signer_keeps_no_trace_of_earlier_requests() -> None:
    """Thousands of requests as the job sends them, on one signer, through rotations of keys and
    over several days.
    """
    chance = random.Random(20261122)
    signer = Signer("eu-west-2")
    alphabet = (
        string.ascii_letters + string.digits + "-_./~ +%=&?#*'()!@:;,$\"<>\\^`{|}[]\r\n\tüß漢🎈"
    )
    pool = [Keys(f"AKID{n}", f"secret/{n}", f"token+{n}==" if n % 2 else "") for n in range(4)]
    now = NOON
    for n in range(3000):
        now += chance.choice([0, 0.3, 1, 3600, 86400]) if n % 50 == 0 else chance.choice([0, 0.001])
        key = "".join(chance.choices(alphabet, k=chance.randint(1, 60)))
        tag = f'"{chance.getrandbits(128):032x}"'
        headers, query, payload, method, of = chance.choice(
            [
                ({"if-match": tag, "x-amz-checksum-mode": "ENABLED"}, {}, EMPTY_SHA256, "GET", key),
                ({"if-match": tag, "range": f"bytes={n}-{n * 7}"}, {}, EMPTY_SHA256, "GET", key),
                (
                    {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="},
                    {"partNumber": str(n), "uploadId": key},
                    UNSIGNED,
                    "PUT",
                    key,
                ),
                (
                    {"content-md5": "abc==", "content-type": "application/xml"},
                    {"delete": ""},
                    UNSIGNED,
                    "POST",
                    None,
                ),
                (
                    {},
                    {
                        "list-type": "2",
                        "prefix": key,
                        "delimiter": "_",
                        "continuation-token": tag,
                        "max-keys": "1000",
                    },
                    EMPTY_SHA256,
                    "GET",
                    None,
                ),
                (
                    {
                        "if-match": tag,
                        "x-amz-expected-bucket-owner": "111122223333",
                        "x-amz-request-payer": "requester",
                    },
                    {},
                    EMPTY_SHA256,
                    "DELETE",
                    key,
                ),
            ]
        )
        check(
            signer,
            method,
            BASES[n % 3],
            of,
            query,
            headers,
            pool[n // 500 % 4 if n % 7 else chance.randrange(4)],
            now,
            payload,
        )


def test_a_query_is_in_the_order_of_its_names_and_not_of_its_text() -> None:
    assert encode_query({"a-b": "1", "a": "2", "B": "", "ä": "x y"}) == "%C3%A4=x%20y&B=&a=2&a-b=1"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a//b", "a//b"),
        ("../a/./b", "../a/./b"),
        ("a b+c%20d", "a%20b%2Bc%2520d"),
        ("/a", "/a"),
        ("ü~*'()", "%C3%BC~%2A%27%28%29"),
    ],
)
def test_a_key_in_a_path_is_never_normalised(key: str, path: str) -> None:
    assert encode_path(key) == path


def test_a_signature_is_of_its_second_and_of_its_day() -> None:
    signer = Signer("us-east-1")
    seen = []
    for now in (NOON, NOON + 0.9, NOON + 1, NOON + 12 * 3600 - 1, NOON + 12 * 3600):
        headers = {"host": "h"}
        signer.sign("GET", "/k", "", headers, KEYS, now, EMPTY_SHA256)
        seen.append((headers["x-amz-date"], headers["authorization"]))
    assert [stamp for stamp, _ in seen] == [
        "20261122T120000Z",
        "20261122T120000Z",
        "20261122T120001Z",
        "20261122T235959Z",
        "20261123T000000Z",
    ]
    assert len({line for _, line in seen}) == 4
    assert "/20261123/us-east-1/s3/aws4_request" in seen[-1][1]


def test_the_signing_key_is_derived_once_a_day_and_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from coalesce.storage.s3 import signing

    derived: list[object] = []
    real = signing.hmac.digest

    def counted(key: bytes, message: bytes, name: str) -> bytes:
        derived.append(message)
        return real(key, message, name)

    monkeypatch.setattr(signing.hmac, "digest", counted)
    signer = Signer("us-east-1")
    for now in (NOON, NOON + 60, NOON + 120):
        signer.sign("GET", "/k", "", {"host": "h"}, KEYS, now, EMPTY_SHA256)
    assert derived.count(b"aws4_request") == 1
    signer.sign("GET", "/k", "", {"host": "h"}, Keys("A", "another"), NOON, EMPTY_SHA256)
    signer.sign("GET", "/k", "", {"host": "h"}, KEYS, NOON + 86400, EMPTY_SHA256)
    assert derived.count(b"aws4_request") == 3
