"""A real server as a place where contestants meet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import boto3
import obstore
from ci.with_server import running
from obstore.store import S3Store

from bench.process import process_cpu
from bench.records import Digest, Fill, objects
from bench.site import AROUND, BUCKET, KEYS, NOTHING_ELSE, Asked


class Real:
    """A real server, filled and read by obstore: neither by the stand-in's code nor by what is
    measured.
    """

    def __init__(self, endpoint: str, fill: Fill, variables: dict[str, str], pid: int) -> None:
        self.endpoint = endpoint
        self.environment = AROUND | KEYS | NOTHING_ELSE | variables
        self._fill = fill
        self._pid, self._cpu = pid, 0.0
        self._store = S3Store(
            BUCKET,
            endpoint=endpoint,
            region="us-east-1",
            access_key_id=variables["AWS_ACCESS_KEY_ID"],
            secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def _keys(self) -> list[str]:
        return [
            entry["path"]
            for page in obstore.list(self._store, prefix=self._fill.prefix)
            for entry in page
        ]

    def reset(self) -> None:
        """See `Site`."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: obstore.delete(self._store, key), self._keys()))
            list(pool.map(lambda found: obstore.put(self._store, *found), objects(self._fill)))
        self._cpu = process_cpu(self._pid)

    def asked(self) -> Asked:
        """See `Site`: it counts no requests."""
        return Asked({}, process_cpu(self._pid) - self._cpu)

    def digest(self) -> dict[str, int]:
        """See `Site`."""
        digest = Digest()
        for key in self._keys():
            digest.add(bytes(obstore.get(self._store, key).bytes()))
        return digest.as_dict()


@contextmanager
def real(name: str, fill: Fill) -> Iterator[Real]:
    """A real server of `ci/with_server.py` with that data."""
    with running(name) as (variables, pid):
        site = Real(variables["COALESCE_TEST_ENDPOINT"], fill, variables, pid)
        keys = {
            "aws_access_key_id": variables["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
        }
        boto3.client(
            "s3", endpoint_url=site.endpoint, region_name="us-east-1", **keys
        ).create_bucket(Bucket=BUCKET)
        yield site
