"""Run one job on AWS Batch by hand: submit it, follow its logs, and exit with its exit code.

It runs in the image of the job and takes its parameters from the environment. QUEUE and LOG_GROUP
are those of the stack from deploy/aws/batch.yaml, and DEFINITION is the name of a location's stack.
BUCKET, PREFIX, DATE, PARTITION and DEADLINE become the job's parameters, SHARDS the size of its
array, and TIMEOUT the longest time of an attempt; if one is empty, the definition's own is used.
WANTED_DATE and WANTED_PREFIX, if set, go before DATE and PREFIX; a prefix must lie within PREFIX.
ROLE_ARN, if set, is assumed, again and again for as long as the job takes.

SIGTERM and SIGINT terminate the Batch job. Nothing else does: while AWS cannot be reached, the job
goes on.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session, get_session

from coalesce.exits import ExitCode, worst
from coalesce.settings import parse_duration

ENDED = ("SUCCEEDED", "FAILED")
POLL_SECONDS = 10.0
SECONDS_AFTER_DEADLINE = 600
# Half an hour without one good answer: it is not a lost connection any more.
POLLS_WITHOUT_ANSWER = 180


def request(variables: Mapping[str, str]) -> dict[str, Any]:
    """The SubmitJob request for these variables; ValueError if they contradict each other."""
    parameters = {
        "s3-bucket-id": variables.get("BUCKET"),
        "s3-prefix": _prefix(variables),
        "date-to-add": variables.get("WANTED_DATE") or variables.get("DATE"),
        "partition": variables.get("PARTITION"),
        "deadline": variables.get("DEADLINE"),
    }
    shards = int(variables.get("SHARDS") or 1)
    timeout = _timeout(variables)
    return {
        "jobName": variables.get("NAME") or "coalesce-by-hand",
        "jobQueue": variables["QUEUE"],
        "jobDefinition": variables["DEFINITION"],
        "parameters": {name: value for name, value in parameters.items() if value},
        **({"arrayProperties": {"size": shards}} if shards > 1 else {}),
        **({"timeout": {"attemptDurationSeconds": timeout}} if timeout else {}),
    }


def _prefix(variables: Mapping[str, str]) -> str:
    """The wanted prefix, within the location's own: the pipeline gives every job the same one."""
    own, wanted = variables.get("PREFIX", ""), variables.get("WANTED_PREFIX", "").strip("/")
    if own and wanted and not f"{wanted}/".startswith(f"{own}/"):
        raise ValueError(f"{wanted} lies outside {own}, the prefix of this job")
    return wanted or own


def _timeout(variables: Mapping[str, str]) -> int:
    """The longest time of an attempt in seconds: long enough to end by itself at its deadline.

    0 is the definition's.
    """
    deadline, timeout = (
        math.ceil(parse_duration(variables[name])) if variables.get(name) else 0
        for name in ("DEADLINE", "TIMEOUT")
    )
    if deadline and timeout and timeout <= deadline:
        raise ValueError("TIMEOUT must be longer than DEADLINE")
    return timeout or (deadline and deadline + SECONDS_AFTER_DEADLINE)


class Follower:
    """Follows one job, with the children of its array, until it ends."""

    def __init__(
        self, batch: Any, logs: Any, log_group: str, tell: Callable[[str], object]
    ) -> None:
        self._batch, self._logs, self._group, self._tell = batch, logs, log_group, tell
        self._tokens: dict[str, str] = {}
        self._status = ""

    def until_ended(self, job_id: str, wait: Callable[[], object]) -> int:
        """The job's exit code: the worst of its children's; 1 if it failed without one.

        75 if AWS gives no answer for long; the job goes on.
        """
        unanswered = 0
        while unanswered < POLLS_WITHOUT_ANSWER:
            try:
                code = self._look(job_id)
            except (BotoCoreError, ClientError) as error:
                unanswered += 1
                self._tell(f"asking again, the job goes on: {error}")
            else:
                unanswered = 0
                if code is not None:
                    return code
            wait()
        self._tell(f"no longer following {job_id}, which goes on")
        return ExitCode.TRANSIENT

    def _look(self, job_id: str) -> int | None:
        """Tells what is new of the job; its exit code if it has ended."""
        job = self._described([job_id])[0]
        size = job.get("arrayProperties", {}).get("size", 0)
        tasks = self._described([f"{job_id}:{index}" for index in range(size)]) if size else [job]
        if job["status"] != self._status:
            self._status = job["status"]
            self._tell(f"{self._status} {job.get('statusReason', '')}".rstrip())
        for task in tasks:
            self._tell_logs(task)
        if job["status"] not in ENDED:
            return None
        return worst(*(self._code(task) for task in tasks))

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


class AssumedRole(CredentialProvider):  # type: ignore[misc]
    """Credentials of a role, which botocore fetches anew before they expire."""

    METHOD = "assume-role"

    def __init__(self, role: str) -> None:
        super().__init__()
        own = get_session()
        self._fetcher = AssumeRoleCredentialFetcher(
            own.create_client,
            own.get_credentials(),
            role,
            extra_args={"RoleSessionName": "coalesce-by-hand"},
        )

    def load(self) -> DeferredRefreshableCredentials:
        """The credentials; nothing is asked until they are used."""
        return DeferredRefreshableCredentials(self._fetcher.fetch_credentials, self.METHOD)


def session_of(variables: Mapping[str, str]) -> Session:
    """A session with the environment's credentials, or with those of ROLE_ARN."""
    session = get_session()
    if variables.get("ROLE_ARN"):
        provider = AssumedRole(variables["ROLE_ARN"])
        session.register_component("credential_provider", CredentialResolver([provider]))
    return session


def tell(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end(number: int, _: object) -> None:
    """Ends the program at a signal."""
    sys.exit(128 + number)


def main() -> int:
    """Submits the job and follows it; returns its exit code."""
    try:
        wanted = request(os.environ)
    except ValueError as error:
        tell(str(error))
        return ExitCode.USAGE
    session = session_of(os.environ)
    batch, logs = session.create_client("batch"), session.create_client("logs")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    job_id = batch.submit_job(**wanted)["jobId"]
    tell(f"{job_id} submitted")
    follower = Follower(batch, logs, os.environ["LOG_GROUP"], tell)
    try:
        return follower.until_ended(job_id, lambda: time.sleep(POLL_SECONDS))
    except SystemExit:
        batch.terminate_job(jobId=job_id, reason="the pipeline task that submitted it was stopped")
        raise


if __name__ == "__main__":
    sys.exit(main())
