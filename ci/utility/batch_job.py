"""Run one job on AWS Batch by hand: submit it, follow its logs, and exit with its exit code.

It runs in the image of the job and takes its parameters from the environment. QUEUE and LOG_GROUP
are those of the stack from deploy/aws/batch.yaml, and DEFINITION is the name of a location's stack.
BUCKET, PREFIX, DATE and PARTITION become the job's parameters and SHARDS the size of its array; if
one is empty, the definition's own is used. ROLE_ARN, if set, is assumed. SIGTERM also terminates
the Batch job.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from botocore.session import Session, get_session

from coalesce.exits import worst

ENDED = ("SUCCEEDED", "FAILED")
POLL_SECONDS = 10.0
LONGEST = 24 * 3600.0


def request(variables: Mapping[str, str]) -> dict[str, Any]:
    """The SubmitJob request for these variables."""
    named = {
        "s3-bucket-id": "BUCKET",
        "s3-prefix": "PREFIX",
        "date-to-add": "DATE",
        "partition": "PARTITION",
    }
    parameters = {
        parameter: variables[name] for parameter, name in named.items() if variables.get(name)
    }
    shards = int(variables.get("SHARDS") or 1)
    job = {
        "jobName": variables.get("NAME") or "coalesce-by-hand",
        "jobQueue": variables["QUEUE"],
        "jobDefinition": variables["DEFINITION"],
    }
    return {
        **job,
        "parameters": parameters,
        **({"arrayProperties": {"size": shards}} if shards > 1 else {}),
    }


class Follower:
    """Follows one job, with the children of its array, until it ends."""

    def __init__(
        self, batch: Any, logs: Any, log_group: str, tell: Callable[[str], object]
    ) -> None:
        self._batch, self._logs, self._group, self._tell = batch, logs, log_group, tell
        self._tokens: dict[str, str] = {}
        self._status = ""

    def until_ended(self, job_id: str, wait: Callable[[], object]) -> int:
        """The job's exit code: the worst of its children's; 1 if it failed without one."""
        while True:
            job = self._described([job_id])[0]
            size = job.get("arrayProperties", {}).get("size", 0)
            tasks = (
                self._described([f"{job_id}:{index}" for index in range(size)]) if size else [job]
            )
            if job["status"] != self._status:
                self._status = job["status"]
                self._tell(f"{self._status} {job.get('statusReason', '')}".rstrip())
            for task in tasks:
                self._tell_logs(task)
            if job["status"] in ENDED:
                return worst(*(self._code(task) for task in tasks))
            wait()

    def _described(self, ids: list[str]) -> list[dict[str, Any]]:
        pages = (ids[start : start + 100] for start in range(0, len(ids), 100))
        return [job for page in pages for job in self._batch.describe_jobs(jobs=page)["jobs"]]

    def _tell_logs(self, task: dict[str, Any]) -> None:
        for attempt in [*task.get("attempts", ()), {"container": task.get("container", {})}]:
            stream = attempt.get("container", {}).get("logStreamName")
            if stream:
                self._read_on(stream, str(task.get("arrayProperties", {}).get("index", "")))

    def _read_on(self, stream: str, prefix: str) -> None:
        """Prints new lines of the stream; a stream that does not exist yet has none."""
        with suppress(self._logs.exceptions.ResourceNotFoundException):
            while True:
                token = self._tokens.get(stream, "")
                more = {"nextToken": token} if token else {}
                page = self._logs.get_log_events(
                    logGroupName=self._group, logStreamName=stream, startFromHead=True, **more
                )
                for event in page["events"]:
                    self._tell(f"{prefix:>3} {event['message']}" if prefix else event["message"])
                self._tokens[stream] = page["nextForwardToken"]
                if page["nextForwardToken"] == token:
                    return

    @staticmethod
    def _code(task: dict[str, Any]) -> int:
        if task["status"] == "SUCCEEDED":
            return 0
        return int(task.get("container", {}).get("exitCode") or 1)


def session_of(variables: Mapping[str, str]) -> Session:
    """A session with the environment's credentials, or with those of ROLE_ARN."""
    session = get_session()
    if variables.get("ROLE_ARN"):
        role = session.create_client("sts").assume_role(
            RoleArn=variables["ROLE_ARN"], RoleSessionName="coalesce-by-hand"
        )["Credentials"]
        session.set_credentials(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"])
    return session


def main() -> int:
    """Submits the job and follows it; returns its exit code."""
    session = session_of(os.environ)
    batch = session.create_client("batch")
    job_id = batch.submit_job(**request(os.environ))["jobId"]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    deadline = time.monotonic() + LONGEST

    def wait() -> None:
        if time.monotonic() > deadline:
            sys.exit("the job did not end within a day")
        time.sleep(POLL_SECONDS)

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    tell(f"{job_id} submitted")
    try:
        return Follower(
            batch, session.create_client("logs"), os.environ["LOG_GROUP"], tell
        ).until_ended(job_id, wait)
    except BaseException:
        batch.terminate_job(
            jobId=job_id, reason="the pipeline task that submitted this job has ended"
        )
        raise


if __name__ == "__main__":
    sys.exit(main())
