"""How long a job takes, what it costs and what it needs, for any number of objects and CPUs: a
model, for `docs/scale.md` and `docs/performance.md`. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from coalesce.model import Batch, GroupId, Plan, Source
from coalesce.planning.forecast import forecast
from coalesce.report.report import cost

OUTPUT_BYTES = 128_000_000 * 97 // 100  # the default of --max-size, as planned with --gzip single
PAGE_KEYS = 1000  # of a listing

# What S3 bears at least, each second, for each prefix that it has partitioned.
GETS_PER_SECOND = 5500
DELETES_PER_SECOND = 3500

# US dollars for an hour of one vCPU and of one GB on Fargate (Linux, x86).
VCPU_HOUR_USD = 0.04048
GB_HOUR_USD = 0.004445

# The default of --memory, the least that a process gets of it, and what each source takes that is
# listed and not yet done.
BODIES_BYTES = 128 * 2**20
LEAST_BODIES_BYTES = 32 * 2**20
SOURCE_BYTES = 92


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one job.

    Attributes:
        requests: By S3 operation.
        cpu_seconds: Of all processes together.
        work_seconds: The time that this takes on the CPUs.
        store_seconds: The least time in which S3 answers that many requests.
        memory_bytes: Of all processes together, with all sources in one group: the most.
        request_usd: For the requests.
        compute_usd: For the CPUs and this memory.
    """

    outputs: int
    requests: Mapping[str, int]
    cpu_seconds: float
    work_seconds: float
    store_seconds: float
    memory_bytes: int
    request_usd: float
    compute_usd: float

    @property
    def seconds(self) -> float:
        """The whole job: the CPUs or the store make the other wait."""
        return max(self.work_seconds, self.store_seconds)


def estimate(
    objects: int, size: int, vcpus: int, source_seconds: float, prefixes: int = 1
) -> Estimate:
    """Estimates a job with one process on each vCPU, `vcpus` in all.

    Requests are those that `coalesce plan` forecasts for one output, times the outputs, and one
    listing; every output counts as a plan record of its own.

    Args:
        objects: How many sources there are.
        size: The bytes of each.
        vcpus: On one machine, or as shards on several.
        source_seconds: CPU seconds that each source takes.
        prefixes: Into how many parts S3 has split the keys.
    """
    each = max(1, min(objects, OUTPUT_BYTES // size))
    outputs = -(-objects // each)
    one = forecast(
        [_one_output(each, size)], max(BODIES_BYTES // vcpus, LEAST_BODIES_BYTES), single=True
    )
    requests = {name: count * outputs for name, count in one.requests.items()}
    requests["GetObject"] = one.requests["GetObject"] // each * objects
    requests["ListObjectsV2"] = -(-objects // PAGE_KEYS)
    cpu = objects * source_seconds
    gets = requests["GetObject"] + requests["HeadObject"]
    store = max(gets / GETS_PER_SECOND, objects / DELETES_PER_SECOND) / prefixes
    memory = vcpus * one.memory + objects * SOURCE_BYTES
    hour_usd = vcpus * VCPU_HOUR_USD + memory / 1e9 * GB_HOUR_USD
    return Estimate(
        outputs,
        requests,
        cpu,
        cpu / vcpus,
        store,
        memory,
        cost(Counter(requests)),
        max(cpu / vcpus, store) / 3600 * hour_usd,
    )


def _one_output(sources: int, size: int) -> Plan:
    group = GroupId("data/", "topic", 0)
    listed = [
        Source(f"{group.prefix}{n}-{n}.jsonl.gz", size, '"0"', 0.0, "", n, n)
        for n in range(sources)
    ]
    return Plan(group, (Batch("", listed, sources * size, ""),), ())
