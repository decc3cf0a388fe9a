"""Faults of machines: jobs with doubles on a cluster of several nodes, in which processes are killed with SIGKILL.

    python -m tests.faults.machines --seed 1 --jobs 30 --kills 12

Every job is the same small one, and is disturbed in its own way: preprocessors, captioners, indexers, write tasks, a
whole node and the driver die at moments drawn from the seed; every fourth job has two drivers at once, and in every
fourth the driver is stopped, replaced, and wakes up when its successor has published. After each, what was published
is compared with what an undisturbed run publishes, row by row and file by file, `captionmill verify` has its say, and
no unit may have been captioned more often than once for each driver, and once for each kill that found it in flight.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import Cluster
from tests.faults.compare import Verdict, compare
from tests.faults.job import Folder, corpus
from tests.faults.run import KINDS, Kill, Run

MODES = ("all kinds", "sleeper", "all kinds", "two drivers")
LATEST = {"indexer": 0.0, "preprocessor": 0.7, "captioner": 0.9, "write": 1.05, "node": 1.0, "driver": 1.05}
HARD = ("driver", "node")  # each costs seconds: a job has few of them


@dataclass(slots=True)
class Total:
    """Of all jobs of a harness run."""

    jobs: int = 0
    assets: int = 0
    units: int = 0
    again: int = 0
    twice: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    bad: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    def add(self, run: Run, verdict: Verdict, complaints: Sequence[str]) -> None:
        """One job's."""
        self.jobs += 1
        self.assets += run.folder.assets
        if run.rivals:  # two drivers each do what they do not find done: nothing of it is wrong, only twice
            self.twice += run.again().total()
        else:
            self.units += run.folder.units
            self.again += run.again().total()
        self.lost += verdict.lost
        self.doubled += verdict.doubled
        self.wrong += verdict.wrong
        self.bad += bool(complaints)
        self.kills.update(run.killed)

    def lines(self) -> Iterator[str]:
        """The table."""
        yield from (f"{kind} {n}" for kind, n in sorted(self.kills.items()))
        yield f"kills {sum(self.kills[kind] for kind in KINDS)}"
        for name in ("jobs", "assets", "lost", "doubled", "wrong"):
            yield f"{name} {getattr(self, name)}"
        yield f"done again {self.again} of {self.units} units"
        yield f"done by two drivers {self.twice}"
        yield f"jobs with a complaint {self.bad}"


def schedule(draw: random.Random, kills: int) -> list[Kill]:
    """When (in the share of units that are committed) to kill what: every kind once, the cheap ones more often."""
    kinds = list(KINDS) + draw.choices([k for k in KINDS if k not in HARD], (1, 3, 3, 3), k=kills)
    return sorted(Kill(draw.uniform(0.0, LATEST[k]), k) for k in kinds[:kills])


def disturb(cluster: Cluster, folder: Folder, mode: str, kills: int, draw: random.Random) -> Run:
    """One job to its end."""
    run = Run(cluster, folder, draw)
    match mode:
        case "sleeper":
            run.sleeper(schedule(draw, kills), draw.uniform(0.1, 1.1))
        case "two drivers":
            run.to_the_end(schedule(draw, kills), rival_at=draw.uniform(0.0, 1.0))
        case _:
            run.to_the_end(schedule(draw, kills))
    return run


def harness(seed: int, modes: Sequence[str], kills: int, root: Path) -> Total:
    """Disturb one job in each mode, and print what happened."""
    corpus(root / "input")
    total = Total()
    with Cluster() as cluster:
        began = time.monotonic()
        undisturbed = Run(cluster, Folder(root, "undisturbed"), random.Random(seed))
        undisturbed.to_the_end([])
        print(f"undisturbed: {undisturbed.folder.units} units, {time.monotonic() - began:.0f} s", flush=True)
        for number, mode in enumerate(modes):
            began = time.monotonic()
            run = disturb(
                cluster, Folder(root, f"job{number}"), mode, kills, random.Random(f"{seed} {number}")
            )
            verdict = compare(undisturbed.folder.output, run.folder.output)
            complaints = [*run.complaints(), *([str(verdict)] if not verdict.good else [])]
            total.add(run, verdict, complaints)
            told = " ".join(f"{kind} {n}" for kind, n in sorted(run.killed.items()))
            again = f"{run.again().total()} of {run.folder.units} units again, {run.allowed.total()} were in flight"
            seconds = time.monotonic() - began
            print(f"job {number:2d} {mode:<12}{told} · {seconds:.0f} s · {again}", flush=True)
            print(f"       so far: {', '.join(total.lines())}", flush=True)
            for complaint in complaints:
                print(f"  ✗ {complaint}", flush=True)
    print(*total.lines(), sep="\n", flush=True)
    return total


def main(arguments: Sequence[str]) -> int:
    """The command line; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.machines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--kills", type=int, default=12, help="in each job")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        modes = [MODES[i % len(MODES)] for i in range(given.jobs)]
        return bool(harness(given.seed, modes, given.kills, Path(root)).bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
