"""What workers publish for Prometheus, through Ray: each node has it at its metrics port, `ray_` before each name.

Made where Ray is not connected, a metric counts nothing and does no harm. One record takes 4 us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from functools import wraps
from threading import Lock
from typing import TypeVar

import pyarrow as pa
from ray.util.metrics import Counter, Gauge, Histogram

from actors.meter import Meter
from pipeline import traffic

Actor = TypeVar("Actor")
Call = Callable[[Actor, pa.Table], pa.Table]
SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]

# Of each replica; what `pipeline.types.Effort` says of a unit, while it goes on.
SPENT = (
    Counter("captionmill_busy_seconds", "Seconds in which a replica computed."),
    Counter(
        "captionmill_prefill_tokens", "Prompt tokens that were read; what an asset's prompts share, once."
    ),
    Counter("captionmill_slot_steps", "Slots for captions times steps of decoding."),
    Counter("captionmill_slot_steps_idle", "Those of them in which nothing was generated."),
)
# Of each process that has a step.
TRAFFIC = (
    Counter("captionmill_read_bytes", "Bytes read from storage.", ("step",)),
    Counter("captionmill_written_bytes", "Bytes written to storage.", ("step",)),
    Counter("captionmill_storage_retries", "Requests to storage that were sent again.", ("step",)),
)
UNDER_WAY = Gauge("captionmill_units_under_way", "Units, or shards to index, that a step is at.", ("step",))
UNIT_SECONDS = Histogram(
    "captionmill_unit_seconds", "Seconds that a step takes for a unit.", SECONDS, ("step",)
)


class Spent:
    """What a meter gains from now on, published."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._published = meter, astuple(meter)

    def publish(self) -> None:
        """What it has gained since the last time."""
        now = astuple(self._meter)
        for counter, value, before in zip(SPENT, now, self._published, strict=True):
            if value > before:
                counter.inc(value - before)
        self._published = now


class Step:
    """One of the steps that a process may be at, perhaps with several units at once."""

    def __init__(self, name: str) -> None:
        self._of = {"step": name}
        self._lock, self._units, self._had = Lock(), 0, traffic.Traffic()

    @contextmanager
    def unit(self) -> Iterator[None]:
        """A unit is under way."""
        begun = time.perf_counter()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            UNIT_SECONDS.observe(time.perf_counter() - begun, self._of)
            self.publish_traffic()

    def publish_traffic(self) -> None:
        """What the process has had of its stores since the last time."""
        with self._lock:
            now, before = traffic.so_far(), self._had
            self._had = now
        for counter, value, had in zip(TRAFFIC, astuple(now), astuple(before), strict=True):
            if value > had:
                counter.inc(value - had, self._of)

    def _count(self, more: int) -> None:
        with self._lock:
            self._units += more
            UNDER_WAY.set(self._units, self._of)


def metered(step: str) -> Callable[[Call[Actor]], Call[Actor]]:
    """Publish what the calls of a method take: a process has one such actor."""
    watched = Step(step)

    def around(call: Call[Actor]) -> Call[Actor]:
        @wraps(call)
        def measured(self: Actor, table: pa.Table) -> pa.Table:
            with watched.unit():
                return call(self, table)

        return measured

    return around
