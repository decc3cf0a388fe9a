"""One job under disturbance: drivers that are started, killed, stopped and started again, and a count of it all."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cluster import ROOT, TITLES, Cluster, kill
from tests.faults.job import Folder

KINDS = (*TITLES, "node", "driver", "head")
WORK_S = 0.05  # a double's, per request: 0.8 s for a unit, so that commits keep up
PATIENCE_S = 1800.0  # for the whole job, which takes a minute on a quiet machine
HUNT_S = 0.3  # for a write task, which lives for 20 ms; others are looked for now and then
GO_ON = "start the same command"  # in the last words of a driver that lost its head
PAUSE_S = 0.2
GRAIN_S = 0.02  # of the time stamps in a file system, 4 ms, and of the diary's, 1 ms


@dataclass(frozen=True, slots=True, order=True)
class Kill:
    """What to kill when this share of the units is committed; above 1: while the run is published."""

    at: float
    kind: str


@dataclass(slots=True)
class Rival:
    """A second driver: when it comes (as `Kill.at`), to a Ray of its own or not, and whether the first sleeps by then.

    A sleeper is stopped, and wakes up when the other has come to its end.
    """

    at: float
    own_ray: bool = False
    sleeper: bool = False


@dataclass(slots=True)
class Driver:
    """A driver's process, and where to start the next one should it be killed."""

    process: subprocess.Popen[str]
    log: Path
    own_ray: bool
    asleep: bool = False

    @property
    def ended_well(self) -> bool:
        """Whether it has brought the output to its snapshot."""
        return self.process.poll() == 0

    def last_words(self) -> str:
        """The end of what it said."""
        return self.log.read_text()[-500:]


class Run:
    """Runs a job and disturbs it."""

    def __init__(self, cluster: Cluster, folder: Folder, draw: random.Random) -> None:
        self.folder = folder
        self.killed: Counter[str] = Counter()
        self.stopped = 0
        self.in_flight: Counter[str] = Counter()  # by unit: the kills that found it begun and not committed
        self._there: dict[str, float] = {}  # the run's objects, and since when at the latest
        self._cluster, self._draw = cluster, draw
        self._drivers: list[Driver] = []
        self._lost: list[Driver] = []  # they have lost the head of their cluster, and will find out
        self._complaints: list[str] = []
        folder.make()

    def again(self) -> Counter[str]:
        """How often more than once each unit was begun."""
        return Counter(b.unit_id for b in self.folder.begun()) - Counter(
            {b.unit_id for b in self.folder.begun()}
        )

    def complaints(self) -> list[str]:
        """What was wrong with the run itself; above all, each unit that was begun again and not in flight.

        A unit may be begun as long as its part is not there, by each driver once, and once more after each kill that
        found it in flight.
        """
        begun = self.folder.begun()
        late = [b for b in begun if b.at > min(self._since(b.unit_id), self._published()) + GRAIN_S]
        each = Counter((b.driver, b.unit_id) for b in begun)
        needless = {who: n for who, n in each.items() if n > 1 + self.in_flight[who[1]]}
        found = [f"begun when its part was there: {late}"] if late else []
        return [*self._complaints, *found, *([f"begun again for no reason: {needless}"] if needless else [])]

    def to_the_end(self, kills: Sequence[Kill], rival: Rival | None = None) -> None:
        """Run until every driver has ended well, however often it was killed."""
        self._drivers = [self._start()]
        deadline = time.monotonic() + PATIENCE_S
        try:
            self._disturb(kills, rival, deadline)
        finally:
            self._end_all()

    def _disturb(self, kills: Sequence[Kill], rival: Rival | None, deadline: float) -> None:
        due = list(kills)
        while not all(driver.ended_well for driver in (*self._drivers, *self._lost)):
            if time.monotonic() > deadline or len(self._complaints) > 3:
                self._complaints.append("the drivers do not come to an end")
                break
            self._look()
            if rival and self._progress() >= rival.at:
                self._enter(rival)
                rival = None
            self._tend()
            due = [fault for fault in due if not self._done(fault)]
            self._cluster.repair()
            time.sleep(PAUSE_S)

    def _look(self) -> None:
        self._there = self.folder.look() | self._there

    def _since(self, unit_id: str) -> float:
        return self._there.get(f"units/{unit_id}.parquet", float("inf"))

    def _published(self) -> float:
        return self._there.get("manifest.json", float("inf"))

    def _progress(self) -> float:
        parts = sum(name.startswith("units/") for name in self._there)
        return 2.0 if "manifest.json" in self._there else parts / self.folder.units

    def _enter(self, rival: Rival) -> None:
        if rival.sleeper and not self._drivers[0].ended_well:
            time.sleep(self._draw.uniform(0.0, PAUSE_S))
            self._drivers[0].process.send_signal(signal.SIGSTOP)
            self._drivers[0].asleep = True
            self.stopped += 1
        self._drivers.append(self._start(own_ray=rival.own_ray))

    def _tend(self) -> None:
        """Start drivers in place of those that were killed, and wake the sleeper when it is alone."""
        for i, driver in enumerate(self._drivers):
            if driver.process.poll():
                self._ended(driver)
                self._drivers[i] = self._start(own_ray=driver.own_ray)
        if all(driver.asleep or driver.ended_well for driver in self._drivers):
            for driver in self._drivers:
                driver.asleep = False
                if driver.process.poll() is None:
                    driver.process.send_signal(signal.SIGCONT)
        self._lost = [driver for driver in self._lost if not self._found_out(driver)]

    def _ended(self, driver: Driver) -> None:
        """Only a kill of ours may end a driver before its run is published."""
        if driver.process.returncode != -signal.SIGKILL:
            self._complaints.append(f"a driver ended with {driver.process.returncode}: {driver.last_words()}")

    def _found_out(self, driver: Driver) -> bool:
        """Whether a driver without a cluster has ended: with what to do, or well if it was at its end."""
        code = driver.process.poll()
        if code and not (code == 1 and GO_ON in driver.last_words()):
            self._complaints.append(f"a driver that lost its head ended with {code}: {driver.last_words()}")
        return code is not None

    def _start(self, *, own_ray: bool = False) -> Driver:
        """A driver on the cluster, or with a Ray of its own."""
        environment = self._cluster.environment if own_ray else self._cluster.driver_environment()
        path = self.folder.home / f"driver-{time.time_ns()}.log"
        arguments = [str(self.folder.job), str(WORK_S), str(self.folder.diary)]
        with path.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.driver", *arguments],
                cwd=ROOT,
                env=dict(environment),
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        return Driver(process, path, own_ray)

    def _done(self, fault: Kill) -> bool:
        """Whether a kill need not be thought of again: it was its time and there was a victim, or it is too late."""
        if fault.kind == "indexer" and "plan.json" in self._there:
            return True
        if self._progress() < fault.at:
            return False
        end = time.monotonic() + (HUNT_S if fault.kind == "write" else 0.0)
        while not self._kill_one(fault.kind):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        self.killed[fault.kind] += 1
        missing = (b.unit_id for b in self.folder.begun() if self._since(b.unit_id) == float("inf"))
        self.in_flight.update({*missing})
        return True

    def _kill_one(self, kind: str) -> bool:
        drivers = [d for d in self._drivers if d.process.poll() is None and not d.asleep]
        if kind == "driver":
            return bool(drivers) and kill(self._draw.choice(drivers).process.pid)
        if kind == "head":
            return self._kill_head(drivers)
        if kind == "node":
            return self._cluster.kill_node()
        victims = self._cluster.victims(kind)
        return bool(victims) and kill(self._draw.choice(victims))

    def _kill_head(self, drivers: Sequence[Driver]) -> bool:
        """Kill the head under drivers, and let others take up the job on a new one."""
        under = [driver for driver in drivers if not driver.own_ray]
        if not under:
            return False
        self._cluster.kill_head()
        self._lost += under
        self._drivers = [self._start() if driver in under else driver for driver in self._drivers]
        return True

    def _end_all(self) -> None:
        for driver in (*self._drivers, *self._lost):
            driver.process.kill()
            driver.process.wait()
