"""What a store's refusals mean to the program."""

import pytest

from coalesce import errors
from coalesce.storage.s3.failure import failure_of


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        # the store waited for a body in vain: nothing is wrong with the request
        (400, "RequestTimeout", errors.Unavailable),
        (408, "", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (502, "", errors.Unavailable),
        (429, "", errors.Throttled),
        (503, "SlowDown", errors.Throttled),
        # a refusal of a kind that nobody thought of is a refusal still
        (405, "MethodNotAllowed", errors.BadRequest),
        (400, "BadDigest", errors.BadRequest),
        (403, "AccessDenied", errors.AccessDenied),
        (400, "ExpiredToken", errors.ConfigurationError),
        (404, "NoSuchUpload", errors.NoSuchUpload),
    ],
)
def test_an_answer_is_a_refusal_or_trouble_that_passes(
    status: int, code: str, kind: type[errors.CoalesceError]
) -> None:
    assert (
        type(failure_of("PutObject", "k", status=status, code=code, message="", request_id=""))
        is kind
    )
