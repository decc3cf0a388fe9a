"""Faults of machines: jobs with doubles on a cluster of several nodes, in which processes are killed with SIGKILL.

    python -m tests.faults.machines --seed 1 --jobs 32 --kills 14

Every job is the same small one, and is disturbed in its own way: preprocessors, captioners, indexers, write tasks, a
whole node and the driver die at moments drawn from the seed. What is more depends on the job's mode (`MODES`): the head
of the cluster dies; the output is on S3; there are two drivers at once, on one cluster or on two; a driver is stopped,
replaced, and wakes up when its successor has published. After each, what was published is compared with what an
undisturbed run publishes, row by row and file by file, `captionmill verify` has its say, and no unit may have been
begun whose part was there, nor twice by a driver without a kill that found it in flight.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.compare import Verdict, compare
from tests.faults.job import Folder, corpus
from tests.faults.run import KINDS, Kill, Rival, Run
from tests.faults.servers import moto

MODES = (
    "",
    "sleeper",
    "S3, two drivers",
    "head",
    "two drivers, two clusters",
    "S3",
    "S3, sleeper, two clusters",
    "two drivers",
)
LATEST = {"indexer": 0.0, "preprocessor": 0.4, "captioner": 0.8, "write": 1.05, "node": 0.9, "driver": 1.05}
HARD = ("driver", "node")  # each costs seconds: a job has one of either
CHEAP = {"indexer": 1, "preprocessor": 3, "captioner": 3, "write": 3}  # how often, one to the other


@dataclass(slots=True)
class Total:
    """Of all jobs of a harness run."""

    jobs: int = 0
    assets: int = 0
    units: int = 0
    again: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    bad: int = 0
    stopped: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    def add(self, run: Run, verdict: Verdict, complaints: Sequence[str]) -> None:
        """One job's."""
        self.jobs += 1
        self.assets += run.folder.assets
        self.units += run.folder.units
        self.again += run.again().total()
        self.lost += verdict.lost
        self.doubled += verdict.doubled
        self.wrong += verdict.wrong
        self.bad += bool(complaints)
        self.stopped += run.stopped
        self.kills.update(run.killed)

    def lines(self) -> Iterator[str]:
        """The table."""
        yield from (f"{kind} {self.kills[kind]}" for kind in KINDS)
        yield f"kills {self.kills.total()}"
        yield f"drivers stopped and woken {self.stopped}"
        for name in ("jobs", "assets", "lost", "doubled", "wrong"):
            yield f"{name} {getattr(self, name)}"
        yield f"done again {self.again} of {self.units} units"
        yield f"jobs with a complaint {self.bad}"


def schedule(draw: random.Random, kills: int, mode: str) -> list[Kill]:
    """When (in the share of units that are committed) to kill what: every kind once, the cheap ones more often.

    Heads die in their mode alone, in the middle of the work.
    """
    kinds = [*CHEAP, *HARD, *draw.choices([*CHEAP], [*CHEAP.values()], k=kills)][: kills - ("head" in mode)]
    heads = [Kill(draw.uniform(0.2, 0.8), "head")] if "head" in mode else []
    return sorted([Kill(draw.uniform(0.0, LATEST[kind]), kind) for kind in kinds] + heads)


def disturb(cluster: Cluster, folder: Folder, mode: str, kills: int, draw: random.Random) -> Run:
    """One job to its end."""
    run = Run(cluster, folder, draw)
    own_ray = "two clusters" in mode
    rival = Rival(draw.uniform(0.0, 1.0), own_ray, "sleeper" in mode)
    faults = schedule(draw, kills, mode)
    run.to_the_end(faults, rival if "sleeper" in mode or "two drivers" in mode else None)
    return run


def harness(seed: int, modes: Mapping[int, str], kills: int, root: Path) -> Total:
    """Disturb jobs, by number, each in its mode, and print what happened."""
    corpus(root / "input")
    total = Total()
    with moto() as store, store.entered() as place, Cluster(store.environment) as cluster:
        began = time.monotonic()
        undisturbed = Run(cluster, Folder(root, "undisturbed"), random.Random(seed))
        undisturbed.to_the_end([])
        print(f"undisturbed: {undisturbed.folder.units} units, {time.monotonic() - began:.0f} s", flush=True)
        if complaints := undisturbed.complaints():
            raise ChildProcessError("\n".join(complaints))
        for number, mode in modes.items():
            began = time.monotonic()
            folder = Folder(root, f"job{number}", place if "S3" in mode else "")
            run = disturb(cluster, folder, mode, kills, random.Random(f"{seed} {number}"))
            verdict = compare(undisturbed.folder.local(), folder.local())
            complaints = [*run.complaints(), *([str(verdict)] if not verdict.good else [])]
            total.add(run, verdict, complaints)
            told = " ".join(f"{kind} {n}" for kind, n in sorted(run.killed.items()))
            again = f"{run.again().total()} of {folder.units} units again"
            seconds = f"{time.monotonic() - began:.0f} s"
            print(" · ".join([f"job {number:2d}", mode or "all kinds", told, seconds, again]), flush=True)
            print(f"       so far: {', '.join(total.lines())}", flush=True)
            for complaint in complaints:
                print(f"  ✗ {complaint}", flush=True)
    print(*total.lines(), sep="\n", flush=True)
    return total


def main(arguments: Sequence[str]) -> int:
    """The command line; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.machines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(MODES))
    parser.add_argument("--first", type=int, default=0, help="number of the first job: to see one again")
    parser.add_argument(
        "--kills", type=int, default=14, help="in each job; a tenth or two find nobody to kill"
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        modes = {i: MODES[i % len(MODES)] for i in range(given.first, given.first + given.jobs)}
        return bool(harness(given.seed, modes, given.kills, Path(root)).bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
