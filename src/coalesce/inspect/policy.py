"""The least rights that a run needs on AWS, and a bucket policy that enforces its conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalesce.protocol.state import ledger_prefix, records_prefix

Document = dict[str, Any]

_OBJECTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
_TAGS = ["s3:GetObjectTagging", "s3:PutObjectTagging"]  # an output has its sources' tags
_KEYS = ["kms:Decrypt", "kms:GenerateDataKey"]


def role_policy(
    arn: str, prefixes: Sequence[str], state: str, *, report: str = "", kms_keys: Sequence[str] = ()
) -> Document:
    """The policy of the job's role: objects under the prefixes and the state prefix, one report.
    No versions, no settings, no ACLs.

    The condition on listings lets requests pass that name no prefix. S3 checks the same right when
    it answers a HEAD for an absent key; without it the answer is 403, which does not say whether an
    output exists.

    Args:
        arn: of the bucket.
        prefixes: where sources and outputs are, each with its slash.
        state: the state prefix, with its slash.
        report: the ARN of the report's object; empty if none is written to S3.
        kms_keys: ARNs of the keys that encrypt the bucket.
    """
    resources = [f"{arn}/{prefix}*" for prefix in (*prefixes, state)]
    listable = [f"{prefix}*" for prefix in (*prefixes, state)]
    statements: list[Document] = [
        {
            "Sid": "List",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": arn,
            "Condition": {"StringLikeIfExists": {"s3:prefix": listable}},
        },
        {
            "Sid": "FindUploads",
            "Effect": "Allow",
            "Action": "s3:ListBucketMultipartUploads",
            "Resource": arn,
        },
        {"Sid": "ReadWriteDelete", "Effect": "Allow", "Action": _OBJECTS, "Resource": resources},
        {
            "Sid": "Tags",
            "Effect": "Allow",
            "Action": _TAGS,
            "Resource": [f"{arn}/{prefix}*" for prefix in prefixes],
        },
    ]
    if report:
        statements.append(
            {"Sid": "Report", "Effect": "Allow", "Action": "s3:PutObject", "Resource": report}
        )
    if kms_keys:
        statements.append(
            {"Sid": "Key", "Effect": "Allow", "Action": _KEYS, "Resource": list(kms_keys)}
        )
    return _document(statements)


def bucket_policy(arn: str, prefixes: Sequence[str], state: str, role: str) -> Document:
    """The policy of the bucket, by which a defect of this program ends in 403 instead of in loss:
    under the prefixes and in the ledger the role may only create, and delete only by ETag.

    Plan records may also be replaced, by ETag. Leases and the probe's objects are exempt: each is
    one run's own, and the probe has to send requests without conditions. Other roles are not
    affected.

    Args:
        arn: of the bucket.
        prefixes: where sources and outputs are, each with its slash.
        state: the state prefix, with its slash.
        role: the ARN of the job's role.
    """
    created = [f"{arn}/{prefix}*" for prefix in (*prefixes, ledger_prefix(state))]
    records = f"{arn}/{records_prefix(state)}*"
    # Starting an upload and its parts cannot carry a condition.
    writes = {"Bool": {"s3:ObjectCreationOperation": "true"}}
    return _document(
        [
            _deny(
                "JobCreatesOnly",
                role,
                "s3:PutObject",
                created,
                {"Null": {"s3:if-none-match": "true"}, **writes},
            ),
            _deny(
                "JobDeletesByETagOnly",
                role,
                "s3:DeleteObject",
                [*created, records],
                {"Null": {"s3:if-match": "true"}},
            ),
            _deny(
                "JobReplacesRecordsByETagOnly",
                role,
                "s3:PutObject",
                records,
                {"Null": {"s3:if-none-match": "true", "s3:if-match": "true"}, **writes},
            ),
        ]
    )


def _deny(
    sid: str, role: str, action: str, resource: str | list[str], condition: Document
) -> Document:
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": {"AWS": role},
        "Action": action,
        "Resource": resource,
        "Condition": condition,
    }


def _document(statements: list[Document]) -> Document:
    return {"Version": "2012-10-17", "Statement": statements}
