"""The general client, aiobotocore, for everything rare; this module alone knows it.

It also knows where and how the bucket is reached, so that our own connections go the same way:
address, region, credentials, certificates, proxy.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import UNSIGNED
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
)
from botocore.handlers import add_expect_header
from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies

from coalesce import errors
from coalesce.storage.base import Usage
from coalesce.storage.s3.failure import (
    CERTIFICATE_HINT,
    CREDENTIALS_HINT,
    connection_failure,
    failure_of,
    name_right,
    subject,
)
from coalesce.storage.s3.options import S3Options
from coalesce.storage.s3.origin import Origin, strip_userinfo
from coalesce.storage.s3.signing import Keys

_METHODS = {
    "CreateBucket": "create_bucket",
    "ListObjectsV2": "list_objects_v2",
    "ListMultipartUploads": "list_multipart_uploads",
}
# What botocore's parsers raise at answers that are not S3's.
_UNREADABLE = (ResponseParserError, ValueError, TypeError, LookupError, AttributeError)
# What botocore says in a bare RuntimeError when new credentials have expired too.
_EXPIRED = "refreshed credentials are still expired"
# Parsing S3's service model takes a tenth of a second: once is enough for a process.
_shared_loader = functools.cache(create_loader)
_CREDENTIAL_SCOPE = re.compile(r"/\d{8}/([^/]+)/s3/aws4_request")


@asynccontextmanager
async def open_client(options: S3Options) -> AsyncIterator[Client]:
    """The general client, closed at the end.

    Raises ConfigurationError for a profile, region, certificate file or proxy that cannot be used.
    """
    async with AsyncExitStack() as stack:
        try:
            session = get_session()
            if options.profile:
                session.set_config_variable("profile", options.profile)
            data_path = session.get_config_variable("data_path")
            session.register_component("data_loader", _shared_loader(data_path))
            if options.access_key:
                session.set_credentials(options.access_key, options.secret_key)
            credentials = await session.get_credentials() if options.sign else None
            # Whoever answers over plain HTTP is not verified, wherever it redirects to: loading the
            # authorities of the environment would only cost time.
            plain = urlsplit(options.endpoint_url).scheme == "http"
            authorities = options.ca_bundle
            if not authorities and not plain:
                authorities = session.get_config_variable("ca_bundle") or os.environ.get(
                    "REQUESTS_CA_BUNDLE", ""
                )
            context = session.create_client(
                "s3",
                config=_config(options),
                region_name=options.region or session.get_config_variable("region") or "us-east-1",
                endpoint_url=options.endpoint_url or None,
                verify=(authorities or None) if options.verify_ssl and not plain else False,
            )
            client = await stack.enter_async_context(context)
        except (BotoCoreError, ValueError) as error:
            raise _configuration_error(error) from error
        tls = None
        secure = urlsplit(str(client.meta.endpoint_url)).scheme == "https"
        if secure or authorities:  # one that is named and cannot be read stops plain HTTP too
            tls = _create_tls_context(authorities or get_cert_path(True), options.verify_ssl)
        yield Client(client, credentials, tls if secure else None, options)


def _config(options: S3Options) -> AioConfig:
    return AioConfig(
        retries={"mode": "standard", "total_max_attempts": options.attempts},
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


class Client:
    """aiobotocore's client for one bucket.

    Retries of single requests are botocore's standard mode. `bucket_url` and `region` are those of
    the last request on the bucket itself, empty before it: addressing, partitions and redirects are
    in them.
    """

    def __init__(
        self, client: Any, credentials: Any, tls: ssl.SSLContext | None, options: S3Options
    ) -> None:
        self.bucket = options.bucket
        self.endpoint = strip_userinfo(str(client.meta.endpoint_url))
        self.proxy = _find_proxy(self.endpoint)
        self.tls = tls
        self.usage = Usage()
        self.bucket_url = ""
        self.region = ""
        self._client = client
        self._credentials = credentials
        self._server = str(Origin.of(self.endpoint, tls=tls, proxy=self.proxy))
        self._common: dict[str, Any] = {"Bucket": options.bucket}
        if options.expected_bucket_owner:
            self._common["ExpectedBucketOwner"] = options.expected_bucket_owner
        if options.request_payer:
            self._common["RequestPayer"] = "requester"
        client.meta.events.register("before-send.s3", self._note_request)
        client.meta.events.register_first("needs-retry.s3", _retry_429)
        client.meta.events.register_first("needs-retry.s3.HeadBucket", _stop_at_redirect)
        client.meta.events.register("needs-retry.s3", _stop_at_untrusted_certificate)
        # aiohttp waits for 100 Continue without end; our bodies on this way are small, and a
        # refusal comes just as well after them.
        client.meta.events.unregister("before-call.s3", add_expect_header)

    async def keys(self) -> Keys | None:
        """The current credentials, refreshed if they are about to expire; None for anonymous
        requests.

        Raises ConfigurationError where there are none or they have expired, Unavailable where their
        source does not answer.
        """
        if self._credentials is None:
            return None
        try:
            now = await self._credentials.get_frozen_credentials()
        except (BotoCoreError, RuntimeError) as error:
            raise self._translate(error, "credentials", "") from error
        return Keys(now.access_key, now.secret_key, now.token or "")

    async def call(self, operation: str, where: str, **arguments: Any) -> dict[str, Any]:
        """One request, its answer as botocore parses it. Raises what a refusal means.

        `where` names the key or prefix that it concerns, for messages.
        """
        method = getattr(self._client, _METHODS[operation])
        try:
            with self.usage.measure(operation):
                answer: dict[str, Any] = await method(**self._common, **arguments)
        except (ClientError, BotoCoreError, OSError, RuntimeError, *_UNREADABLE) as error:
            failure = self._translate(error, operation, where)
            if isinstance(failure, errors.AccessDenied):
                name_right(failure, self.bucket, self.region)
            self.usage.throttled += isinstance(failure, errors.Throttled)
            raise failure from error
        self.usage.retries += answer["ResponseMetadata"].get("RetryAttempts", 0)
        return answer

    def _note_request(self, event_name: str, request: Any, **_: Any) -> None:
        """Counts a request, and takes a user and password out of its URL.

        The request is signed without them, and aiohttp would send them in the signature's place.
        """
        operation = event_name.rsplit(".", 1)[-1]
        self.usage.requests[operation] += 1
        request.url = strip_userinfo(request.url)
        if operation == "ListObjectsV2":
            authorization = request.headers.get("Authorization", "")
            scope = _CREDENTIAL_SCOPE.search(
                authorization.decode() if isinstance(authorization, bytes) else authorization
            )
            self.bucket_url, self.region = request.url, scope[1] if scope else "us-east-1"

    def _translate(self, error: Exception, operation: str, where: str) -> errors.CoalesceError:
        """Our error for one of botocore's. Defects of any kind are raised as they are."""
        details = {"key": where, "operation": operation}
        match error:
            case NoCredentialsError() | PartialCredentialsError() | ProfileNotFound():
                return _configuration_error(error)
            case ParamValidationError() if "Invalid bucket name" in str(error):
                return errors.ConfigurationError(
                    f"{self.bucket!r} is not a valid bucket name", hint="Check --bucket."
                )
            case RuntimeError():
                if _EXPIRED not in str(error):
                    raise error
                return errors.ConfigurationError(
                    f"{subject(operation, where)}: {error}", hint=CREDENTIALS_HINT, **details
                )
            case ClientError():
                return _refusal(error, operation, where)
            case ProxyConnectionError() if status := getattr(
                error.kwargs.get("error"), "status", 0
            ):
                return errors.Unavailable(
                    f"{self._server}: the proxy refused a tunnel: {status}", **details
                )
            case HTTPClientError() if isinstance(
                defect := error.kwargs.get("error"), RuntimeError | MemoryError
            ):
                raise defect
            case BotoCoreError() | OSError():
                return connection_failure(operation, where, error, self._server)
        return errors.Unanswered(
            f"{subject(operation, where)}: cannot read the answer: {type(error).__name__}: {error}",
            **details,
        )


def _create_tls_context(authorities: str, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise errors.ConfigurationError(
            f"cannot read the certificates in {authorities!r}: {error}", hint=CERTIFICATE_HINT
        ) from error
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _find_proxy(endpoint: str) -> str:
    """The proxy that botocore takes for an endpoint, empty for none.

    Raises ConfigurationError for one that is not plain HTTP.
    """
    proxies = get_environ_proxies(endpoint)
    kind, separator, _ = proxies.get(urlsplit(endpoint).scheme, "").partition("://")
    if separator and kind != "http":
        raise errors.ConfigurationError(
            f"the proxy {kind}://... is not supported",
            hint="Set HTTPS_PROXY or HTTP_PROXY to an http:// proxy, "
            "or add the endpoint to NO_PROXY.",
        )
    return str(ProxyConfiguration(proxies).proxy_url_for(endpoint) or "")


def _retry_429(response: tuple[Any, Any] | None, **_: Any) -> None:
    """Makes a 429 a 503 to botocore's retries.

    They know it only by codes that S3 does not use, and not at all in the answer to a HEAD.
    """
    if response and response[0].status_code == 429:
        response[0].status_code = 503


def _stop_at_redirect(request_dict: dict[str, Any], **_: Any) -> None:
    """Takes a redirected HEAD as it is.

    By it botocore asks for the region of a bucket after a redirect, and would ask again without
    end a server that redirects everything, as web servers do from http to https.
    """
    request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


def _stop_at_untrusted_certificate(caught_exception: Exception | None = None, **_: Any) -> None:
    """Ends botocore's retries, which would go on for some ten seconds."""
    if isinstance(caught_exception, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(
        caught_exception
    ):
        raise caught_exception


def _configuration_error(error: Exception) -> errors.ConfigurationError:
    """What keeps the client from being set up: credentials, profile, endpoint."""
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
    return errors.ConfigurationError(
        f"cannot set up the S3 client: {strip_userinfo(str(error))}",
        operation="connect",
        hint="Check --endpoint-url, --region and --profile.",
    )


def _refusal(error: ClientError, operation: str, where: str) -> errors.CoalesceError:
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    return failure_of(
        operation,
        where,
        status=int(metadata.get("HTTPStatusCode", 0)),
        code=str(details.get("Code") or ""),
        message=str(details.get("Message") or ""),
        request_id=str(metadata.get("RequestId", "")),
    )
