"""How long the stand-in takes to answer."""

import pytest
from bench.standin.latency import Latency
from bench.standin.wire import Request

GET = Request("GET", "/bench/data/t_0_0-0.jsonl.gz", {})
OTHERS = (
    Request("GET", "/bench?list-type=2&prefix=data/", {}),
    Request("HEAD", "/bench/data/t_0_0-0.jsonl.gz", {}),
    Request("PUT", "/bench/data/t_0_0_9.jsonl.gz?partNumber=1&uploadId=1", {}),
    Request("POST", "/bench?delete", {}),
)


def test_of_the_gets_of_objects_a_share_is_slow_and_nothing_else() -> None:
    latency = Latency(0.03)
    latency.slow, latency.slow_seconds = 0.01, 3.0
    times = [latency(GET) for _ in range(10_000)]
    assert set(times) == {0.03, 3.0}
    assert times.count(3.0) == pytest.approx(100, abs=40)
    assert {latency(request) for request in OTHERS for _ in range(1000)} == {0.03}


def test_without_slow_gets_all_answers_take_as_long() -> None:
    assert {Latency(0.03)(request) for request in (GET, *OTHERS)} == {0.03}
