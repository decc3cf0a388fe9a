"""The ledger of what replicas have under way: it outlives them, so that the next one knows what the last died of.

Ray starts a dead actor anew and hands it the same unit, however often that ends in the same way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Ledger:
    """Counts what was begun and not ended: units, and assets that are run alone, by their position in the unit."""

    def __init__(self) -> None:
        self._begun: defaultdict[str, Counter[int | None]] = defaultdict(Counter)

    def begin(self, unit_id: str, position: int | None = None) -> int:
        """Note that the unit, or its one asset, is begun. How often it was before: so many replicas died of it."""
        self._begun[unit_id][position] += 1
        return self._begun[unit_id][position] - 1

    def end(self, unit_id: str, position: int | None = None) -> None:
        """Forget the asset, or the unit and all its assets."""
        if position is None:
            self._begun.pop(unit_id, None)
        else:
            del self._begun[unit_id][position]


class SharedLedger(Ledger):
    """One ledger for all captioners of a run: an actor that ends with this driver, and lives beside it.

    Beside it, because an asset may take a whole machine of replicas down. Should the ledger itself be lost, it
    begins anew, empty, and a replica or three more die before the culprit is known.
    """

    def __init__(self) -> None:
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(Ledger).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=beside
        )
        self._actor: Any = actor.remote()

    def begin(self, unit_id: str, position: int | None = None) -> int:
        """As the ledger does, which is asked over the network: a millisecond."""
        begun: int = ray.get(self._actor.begin.remote(unit_id, position))
        return begun

    def end(self, unit_id: str, position: int | None = None) -> None:
        """As the ledger does."""
        ray.get(self._actor.end.remote(unit_id, position))
