"""docker-compose.yml: what its services would do, done on a real server; and the file itself, where
docker can read it.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from coalesce.storage.s3 import S3Store
from support.buckets import check_finished, data_in, look
from support.command import coalesce, environment

ROOT = Path(__file__).parent.parent.parent
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def has_compose() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run(
            [docker, "compose", "version"], capture_output=True, check=False
        ).returncode
        == 0
    )


@pytest.mark.skipif(not has_compose(), reason="needs docker with its compose plugin")
def test_docker_reads_the_file() -> None:
    assert (
        subprocess.run(
            ["docker", "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, check=False
        ).returncode
        == 0
    )


async def test_the_generator_and_the_job_do_what_they_are_told(bucket: S3Store) -> None:
    """Their commands and variables as they stand in the file, with another endpoint, keys and
    bucket.
    """
    own = environment(bucket.endpoint)
    for name, left in (("generate", 2000), ("coalesce", 6)):
        service = SERVICES[name]
        assert service["environment"].keys() <= own.keys()
        words = [bucket.bucket if word == "demo" else word for word in service["command"]]
        done = coalesce(bucket, *words)
        assert done.returncode == 0, done.stderr
        pages = await bucket.list_page("data/")
        assert len(pages.objects) == min(left, 1000)
    held = await look(bucket)
    assert all(re.search(r"_\d+_\d+_\d+\.jsonl\.gz$", key) for key in data_in(held))
    check_finished(held)


def test_the_services_agree_on_bucket_keys_and_order() -> None:
    server, jobs = SERVICES["s3"], [SERVICES["generate"], SERVICES["coalesce"]]
    for job in jobs:
        assert job["command"][job["command"].index("-b") + 1] == "demo"
        variables = job["environment"]
        assert (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]) == (
            server["environment"]["ROOT_ACCESS_KEY"],
            server["environment"]["ROOT_SECRET_KEY"],
        )
        assert variables["COALESCE_ENDPOINT_URL"] == "http://s3:7070"
        assert job["read_only"] is True
    assert "mkdir -p /data/demo" in server["entrypoint"][-1]
    assert "--port :7070 posix /data" in server["entrypoint"][-1]
    assert jobs[0]["depends_on"]["s3"]["condition"] == "service_healthy"
    assert jobs[1]["depends_on"]["generate"]["condition"] == "service_completed_successfully"
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
