"""The general client, aiobotocore, for everything rare; this module alone knows it.

It also says where and how the bucket is reached, so that the lean way of `wire` goes the same:
address, region, credentials, trust, proxy.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import UNSIGNED
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.handlers import add_expect_header
from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies

from coalesce import errors
from coalesce.storage.base import Usage
from coalesce.storage.s3.failure import CERTIFICATE_HINT, CREDENTIALS_HINT, failure_of
from coalesce.storage.s3.signing import Keys

ATTEMPTS = 5
_METHODS = {
    "CreateBucket": "create_bucket",
    "ListObjectsV2": "list_objects_v2",
    "PutObject": "put_object",
    "CreateMultipartUpload": "create_multipart_upload",
    "UploadPartCopy": "upload_part_copy",
    "CompleteMultipartUpload": "complete_multipart_upload",
    "AbortMultipartUpload": "abort_multipart_upload",
    "ListMultipartUploads": "list_multipart_uploads",
}
# What botocore's parsers raise at answers that are not S3's.
_NOT_UNDERSTOOD = (ResponseParserError, ValueError, TypeError, LookupError, AttributeError)
_SIGNED_FOR = re.compile(r"/\d{8}/([^/]+)/s3/aws4_request")


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a bucket is reached.

    Empty strings leave the matter to botocore's own environment and files; keys are for local
    servers only.

    `read_timeout` is in seconds: an answer of which nothing more comes for so long is lost.
    """

    bucket: str
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    sign: bool = True
    ca_bundle: str = ""
    verify_ssl: bool = True
    expected_bucket_owner: str = ""
    request_payer: bool = False
    addressing: str = "auto"
    max_connections: int = 320  # more than a run ever has in flight
    read_timeout: float = 60.0
    access_key: str = ""
    secret_key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What every request says besides its own."""
        owner = (
            {"x-amz-expected-bucket-owner": self.expected_bucket_owner}
            if self.expected_bucket_owner
            else {}
        )
        return owner | ({"x-amz-request-payer": "requester"} if self.request_payer else {})

    def for_bucket(self, bucket: str) -> S3Options:
        """The same way to another bucket."""
        return replace(self, bucket=bucket)


@asynccontextmanager
async def open_client(options: S3Options) -> AsyncIterator[Client]:
    """The general client, closed at the end.

    Raises ConfigurationError for a profile, region, certificate file or proxy that cannot be used.
    """
    config = AioConfig(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=10,
        read_timeout=options.read_timeout,
        max_pool_connections=options.max_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        parameter_validation=False,
        signature_version=None if options.sign else UNSIGNED,
        s3={"addressing_style": options.addressing, "payload_signing_enabled": False},
        user_agent="coalesce",
    )
    async with AsyncExitStack() as stack:
        try:
            session = get_session()
            if options.profile:
                session.set_config_variable("profile", options.profile)
            if options.access_key:
                session.set_credentials(options.access_key, options.secret_key)
            credentials = await session.get_credentials() if options.sign else None
            authorities = (
                options.ca_bundle
                or session.get_config_variable("ca_bundle")
                or os.environ.get("REQUESTS_CA_BUNDLE")
            )
            context = session.create_client(
                "s3",
                config=config,
                region_name=options.region or session.get_config_variable("region") or "us-east-1",
                endpoint_url=options.endpoint_url or None,
                verify=(authorities or None) if options.verify_ssl else False,
            )
            client = await stack.enter_async_context(context)
        except (BotoCoreError, ValueError) as error:
            raise _mapped(error, "connect", "") from error
        secure = str(client.meta.endpoint_url).startswith("https:")
        yield Client(
            client,
            credentials,
            _trust(authorities or get_cert_path(True), options.verify_ssl) if secure else None,
            options,
        )


class Client:
    """aiobotocore's client for one bucket.

    Retries of single requests are botocore's standard mode.
    """

    def __init__(
        self, client: Any, credentials: Any, trust: ssl.SSLContext | None, options: S3Options
    ) -> None:
        self.bucket = options.bucket
        self.endpoint = str(client.meta.endpoint_url)
        self.proxy = _proxy(self.endpoint)
        self.trust = trust
        self.usage = Usage()
        # URL and region of the last request on the bucket itself: addressing, partitions and
        # redirects are in them
        self.sent_to = ("", "")
        self._client = client
        self._credentials = credentials
        self._common: dict[str, Any] = {"Bucket": options.bucket}
        if options.expected_bucket_owner:
            self._common["ExpectedBucketOwner"] = options.expected_bucket_owner
        if options.request_payer:
            self._common["RequestPayer"] = "requester"
        client.meta.events.register("before-send.s3", self._sent)
        client.meta.events.register_first("needs-retry.s3", _retry_429)
        client.meta.events.register("needs-retry.s3", _give_up_on_strangers)
        # aiohttp waits for 100 Continue without end; our bodies on this way are small, and a
        # refusal comes just as well after them.
        client.meta.events.unregister("before-call.s3", add_expect_header)

    async def keys(self) -> Keys | None:
        """The credentials of the moment, refreshed where they are about to expire; None for
        anonymous requests.
        """
        if self._credentials is None:
            return None
        try:
            now = await self._credentials.get_frozen_credentials()
        except (BotoCoreError, RuntimeError) as error:
            raise _mapped(error, "credentials", "") from error
        return Keys(now.access_key, now.secret_key, now.token or "")

    async def call(self, operation: str, where: str, **arguments: Any) -> dict[str, Any]:
        """One request, its answer as botocore parses it. Raises what a refusal means."""
        method = getattr(self._client, _METHODS[operation])
        try:
            with self.usage.timed(operation):
                answer: dict[str, Any] = await method(**self._common, **arguments)
        except (
            TimeoutError,
            ClientError,
            BotoCoreError,
            OSError,
            RuntimeError,
            *_NOT_UNDERSTOOD,
        ) as error:
            mapped = _mapped(error, operation, where)
            if isinstance(error, ClientError):
                metadata = error.response.get("ResponseMetadata", {})
                mapped.repeated = metadata.get("RetryAttempts", 0) > 0
            self.usage.throttled += isinstance(mapped, errors.Throttled)
            raise mapped from error
        self.usage.retries += answer["ResponseMetadata"].get("RetryAttempts", 0)
        return answer

    def _sent(self, event_name: str, request: Any, **_: Any) -> None:
        operation = event_name.rsplit(".", 1)[-1]
        self.usage.requests[operation] += 1
        if operation == "ListObjectsV2":
            authorization = request.headers.get("Authorization", "")
            scope = _SIGNED_FOR.search(
                authorization.decode() if isinstance(authorization, bytes) else authorization
            )
            self.sent_to = (request.url, scope[1] if scope else "us-east-1")


def _trust(authorities: str, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise errors.ConfigurationError(
            f"the certificates in {authorities!r} cannot be read: {error}", hint=CERTIFICATE_HINT
        ) from error
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _proxy(endpoint: str) -> str:
    """The proxy that botocore takes for an endpoint, empty for none.

    Raises ConfigurationError for one that is not plain HTTP.
    """
    proxies = get_environ_proxies(endpoint)
    kind, separator, _ = proxies.get(endpoint.partition(":")[0], "").partition("://")
    if separator and kind != "http":
        raise errors.ConfigurationError(
            f"the proxy {kind}://... is not supported",
            hint="Name an http:// proxy in HTTPS_PROXY or HTTP_PROXY, or add the endpoint to NO_PROXY.",
        )
    return str(ProxyConfiguration(proxies).proxy_url_for(endpoint) or "")


def _untrusted(error: object) -> bool:
    return isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _retry_429(response: tuple[Any, Any] | None, **_: Any) -> None:
    """To its retries a 429 is a 503: botocore knows it only by codes that S3 does not use, and from
    the answer to a HEAD by nothing at all.
    """
    if response and response[0].status_code == 429:
        response[0].status_code = 503


def _give_up_on_strangers(caught_exception: Exception | None = None, **_: Any) -> None:
    """Botocore would try again for some ten seconds."""
    if caught_exception is not None and _untrusted(caught_exception):
        raise caught_exception


def _mapped(error: Exception, operation: str, where: str) -> errors.CoalesceError:
    """Our error for one of botocore's: what was asked, of which key, what the store said."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return errors.ConfigurationError(
            "no credentials found",
            code="NoCredentials",
            hint="Set AWS_PROFILE or --profile, or give the job a role.",
        )
    if isinstance(error, ProfileNotFound):
        return errors.ConfigurationError(
            str(error), code="ProfileNotFound", hint="Check --profile and AWS_PROFILE."
        )
    # what botocore raises where new credentials have expired too
    if isinstance(error, RuntimeError):
        return errors.ConfigurationError(
            f"{operation} {where!r}: {error}", key=where, operation=operation, hint=CREDENTIALS_HINT
        )
    if _untrusted(error):
        return errors.ConfigurationError(
            f"{operation} {where!r}: {error}", key=where, operation=operation, hint=CERTIFICATE_HINT
        )
    if not isinstance(error, ClientError):
        kind = errors.ConfigurationError if operation == "connect" else errors.Unavailable
        return kind(
            f"{operation} {where!r}: {type(error).__name__}: {error}",
            key=where,
            operation=operation,
        )
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    return failure_of(
        operation,
        where,
        status=int(metadata.get("HTTPStatusCode", 0)),
        code=str(details.get("Code", "")),
        said=str(details.get("Message", "")),
        request_id=str(metadata.get("RequestId", "")),
    )
