"""How the program that this one replaces does it: threads for the partitions, more threads for each
one's objects, and an output grown by `bytes +`.

Every addition copies what is there already, so the time of one output grows with the square of its
size.
"""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from botocore.exceptions import ClientError

from bench.rivals.boto3_threads import connected, delete, listed
from bench.rivals.sources import OUTPUT_BYTES, SOURCE, batches

PARTITIONS = 10


def main(endpoint: str, bucket: str, prefix: str, limit: str = str(OUTPUT_BYTES)) -> None:
    """Joins everything under the prefix."""
    found = list(batches(listed(connected(endpoint, 10), bucket, prefix), int(limit)))
    with ThreadPoolExecutor(PARTITIONS) as pool:
        for job in [pool.submit(join, endpoint, bucket, output, keys) for output, keys in found]:
            job.result()


def join(endpoint: str, bucket: str, output: str, keys: list[str]) -> None:
    """Reads all bodies as they come, sorts them, adds them up, looks whether the output is there,
    writes it, deletes the sources.
    """
    client = connected(endpoint, 10)
    with ThreadPoolExecutor() as pool:
        jobs = {
            pool.submit(
                lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read(), key
            ): key
            for key in keys
        }
        bodies = [
            (int(SOURCE.fullmatch(jobs[job])["first"]), job.result()) for job in as_completed(jobs)
        ]  # type: ignore[index]
    joined = b""
    for _, body in sorted(bodies):
        joined = joined + body
    try:
        client.head_object(Bucket=bucket, Key=output)
    except ClientError:
        client.upload_fileobj(io.BytesIO(joined), bucket, output)
        delete(client, bucket, keys)


if __name__ == "__main__":
    main(*sys.argv[1:])
