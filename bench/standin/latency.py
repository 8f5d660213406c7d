"""How long an answer takes to begin."""

from __future__ import annotations

import math
import random

from bench.standin.wire import Request

Z99 = 2.326347874  # of the standard normal distribution: 99 % lie below


class Latency:
    """Seconds for each answer: always the same, or log-normal.

    Attributes:
        slow: The share of the GETs of objects that take `slow_seconds` instead.
    """

    def __init__(self, seconds: float, sigma: float = 0.0) -> None:
        self.slow = self.slow_seconds = 0.0
        self._seconds, self._sigma = seconds, sigma
        self._chance = random.Random(1)

    @classmethod
    def spread(cls, median: float, p99: float) -> Latency:
        """Log-normal, by its median and its 99th percentile in milliseconds."""
        return cls(median / 1000, math.log(p99 / median) / Z99)

    def __call__(self, request: Request) -> float:
        """That of the answer to a request."""
        target = request.target
        of_object = request.method == "GET" and "?" not in target and target[:3] != "/-/"
        if of_object and self.slow and self._chance.random() < self.slow:
            return self.slow_seconds
        return (
            self._seconds * self._chance.lognormvariate(0.0, self._sigma)
            if self._sigma
            else self._seconds
        )
