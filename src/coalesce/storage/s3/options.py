"""How a bucket is reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a bucket is reached.

    Empty strings leave the matter to botocore's own environment and files; keys are for local
    servers only. `bucket` is empty where something else names it. `read_timeout` is in seconds: an
    answer is lost if no byte of it comes for so long. `attempts` is how often one request is sent
    at most, the first time included.
    """

    bucket: str = ""
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    sign: bool = True
    ca_bundle: str = ""
    verify_ssl: bool = True
    expected_bucket_owner: str = ""
    request_payer: bool = False
    addressing: Literal["path", "virtual", "auto"] = "auto"
    max_connections: int = 320  # more than a run ever has in flight
    read_timeout: float = 60.0
    attempts: int = 5
    access_key: str = ""
    secret_key: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request carries besides its own."""
        owner = (
            {"x-amz-expected-bucket-owner": self.expected_bucket_owner}
            if self.expected_bucket_owner
            else {}
        )
        return owner | ({"x-amz-request-payer": "requester"} if self.request_payer else {})

    def for_bucket(self, bucket: str) -> S3Options:
        """The same options for another bucket."""
        return replace(self, bucket=bucket)
