"""Credentials as a job in the cloud gets them: from a service, with an end."""

from pathlib import Path

import pytest

from coalesce.storage.s3 import S3Options
from coalesce.storage.s3.client import open_client
from coalesce.storage.s3.signing import Keys
from support.scripted import answer, serving, store_of

ASSUMED = (
    b'<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>'
    b"<AccessKeyId>AK</AccessKeyId><SecretAccessKey>SK</SecretAccessKey><SessionToken>T</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
    b"</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)


async def test_a_role_of_a_kubernetes_service_account_is_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("token-of-a-pod", "utf-8")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    async with serving(store_of(lambda _: answer(ASSUMED))) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/coalesce")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        async with open_client(
            S3Options("b", endpoint_url="http://127.0.0.1:1", region="us-east-1")
        ) as client:
            assert await client.keys() == Keys("AK", "SK", "T")
