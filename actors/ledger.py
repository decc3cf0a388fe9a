"""The ledger of what replicas have under way: it outlives them, so that the next one knows what the last died of.

Ray starts a dead actor anew and hands it the same unit, however often that ends in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# Why a node is gone (`DeathReason` of `ray.nodes()`, NodeDeathInfo in gcs.proto) where that was announced: it was
# stopped, drained before it was taken back, or drained because it was idle.
ANNOUNCED = (1, 3, 4)


class Ledger:
    """Counts what was begun and not ended: units, and assets that are run alone, by their position in the unit.

    What was begun `where` a machine has gone away in the meantime, as it had announced, does not count.
    """

    def __init__(self) -> None:
        self._begun: defaultdict[str, defaultdict[int | None, list[str]]] = defaultdict(_nowhere)

    def begin(self, unit_id: str, position: int | None = None, where: str = "") -> int:
        """Note that the unit, or its one asset, is begun. How often it was before: so many replicas died of it."""
        gone = self.gone() if self._begun[unit_id][position] else set[str]()
        counted = [node for node in self._begun[unit_id][position] if node not in gone]
        self._begun[unit_id][position] = [*counted, where]
        return len(counted)

    def end(self, unit_id: str, position: int | None = None) -> None:
        """Forget the asset, or the unit and all its assets."""
        if position is None:
            self._begun.pop(unit_id, None)
        else:
            del self._begun[unit_id][position]

    def gone(self) -> set[str]:
        """The machines that have gone away as they had announced."""
        return set()


def _nowhere() -> defaultdict[int | None, list[str]]:
    return defaultdict(list)


class _OfNodes(Ledger):
    """A ledger whose machines are the nodes of the cluster."""

    def gone(self) -> set[str]:
        """By Ray's table of nodes."""
        return {n["NodeID"] for n in ray.nodes() if not n["Alive"] and n["DeathReason"] in ANNOUNCED}


class SharedLedger(Ledger):
    """One ledger for all captioners of a run: an actor that ends with this driver, and lives beside it.

    Beside it, because an asset may take a whole machine of replicas down. Should the ledger itself be lost, it
    begins anew, empty, and a replica or three more die before the culprit is known.
    """

    def __init__(self) -> None:
        # Not soft: that may be any node. Where this one goes, the driver goes too.
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(_OfNodes).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=beside
        )
        self._actor: Any = actor.remote()

    def begin(self, unit_id: str, position: int | None = None, where: str = "") -> int:
        """As the ledger does, which is asked over the network: a millisecond. It is begun on this node."""
        here = where or ray.get_runtime_context().get_node_id()
        begun: int = ray.get(self._actor.begin.remote(unit_id, position, here))
        return begun

    def end(self, unit_id: str, position: int | None = None) -> None:
        """As the ledger does."""
        ray.get(self._actor.end.remote(unit_id, position))
