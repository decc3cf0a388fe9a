"""What generation takes, counted where it happens: a pass serves several callers, and each has its share of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Meter:
    """What one caller has had of passes, as `pipeline.types.Effort` has it."""

    busy_s: float = 0.0
    prefill_tokens: int = 0
    slot_steps: float = 0.0
    slots_idle: float = 0.0


def share(callers: Mapping[Meter, int], seconds: float, running: int = 0, idle: int = 0) -> None:
    """Divide a pass among callers by their weights, which are above 0.

    The `running` slots of a step of decoding, and those that were `idle` beside them, are divided in the same way.
    """
    whole = sum(callers.values())
    for meter, weight in callers.items():
        part = weight / whole
        meter.busy_s += part * seconds
        meter.slot_steps += part * (running + idle)
        meter.slots_idle += part * idle
