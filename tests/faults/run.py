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

from tests.faults.cluster import ROOT, TITLES, Cluster, kill
from tests.faults.job import Folder

KINDS = (*TITLES, "node", "driver")
WORK_S = 0.05  # a double's, per request: 0.8 s for a unit, so that commits keep up
PATIENCE_S = 1800.0  # for a driver; the whole job takes half a minute on a quiet machine
HUNT_S = 0.3  # for a write task, which lives for 20 ms; others are looked for now and then
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, order=True)
class Kill:
    """What to kill when this share of the units is committed; above 1: while the run is published."""

    at: float
    kind: str


class Run:
    """Runs a job and disturbs it."""

    def __init__(self, cluster: Cluster, folder: Folder, draw: random.Random) -> None:
        self.folder = folder
        self.killed: Counter[str] = Counter()
        self.allowed: Counter[str] = Counter()  # by unit: the disturbances that found it in flight
        self.rivals = 0  # drivers beside the first
        self._cluster, self._draw = cluster, draw
        self._drivers: list[subprocess.Popen[str]] = []
        self._complaints: list[str] = []
        folder.make()

    def again(self) -> Counter[str]:
        """How often more than once each unit was begun."""
        return Counter({unit: n - 1 for unit, n in Counter(self.folder.begun()).items() if n > 1})

    def complaints(self) -> list[str]:
        """What was wrong with the run itself."""
        both = Counter(
            dict.fromkeys(self.folder.begun(), self.rivals)
        )  # each driver does what it does not find done
        more = self.again() - self.allowed - both
        needless = [f"done again though not in flight: {dict(more)}"] if more else []
        return [*self._complaints, *needless]

    def to_the_end(self, kills: Sequence[Kill], rival_at: float | None = None) -> None:
        """Run until a driver ends well, and its rival, if there is one, as well."""
        driver, rival = self._start(), None
        due, deadline = list(kills), time.monotonic() + PATIENCE_S
        while driver.poll() != 0:
            if time.monotonic() > deadline or len(self._complaints) > 3:
                self._hung(driver)
                break
            if driver.returncode is not None:
                self._ended(driver)
                driver = self._start()
            if rival is None and rival_at is not None and self._progress() >= rival_at:
                self.rivals = 1
                rival = self._start(alone=True)
            due = self._disturb(due, driver)
        if rival is not None:
            self._wait(rival)

    def sleeper(self, kills: Sequence[Kill], stop_at: float) -> None:
        """Stop the driver, let another take its place to the end, and wake it up."""
        sleeper = self._start()
        due = [fault for fault in kills if fault.kind != "driver"]
        while sleeper.poll() is None and self._progress() < stop_at:
            due = self._disturb(due, sleeper)
        time.sleep(self._draw.uniform(0.0, 0.3))
        sleeper.send_signal(signal.SIGSTOP)
        self.killed["driver stopped"] += 1
        self.rivals = 1
        self._wait(self._start(alone=True))
        sleeper.send_signal(signal.SIGCONT)
        self._wait(sleeper)

    def _disturb(self, due: list[Kill], driver: subprocess.Popen[str]) -> list[Kill]:
        """Do what it is time for; what is still to do."""
        left = [fault for fault in due if not self._done(fault, driver)]
        self._cluster.repair()
        time.sleep(PAUSE_S)
        return left

    def _progress(self) -> float:
        return 2.0 if self.folder.published() else len(self.folder.parts()) / self.folder.units

    def _start(self, *, alone: bool = False) -> subprocess.Popen[str]:
        """A driver on the cluster, or with a Ray of its own."""
        environment = self._cluster.environment if alone else self._cluster.driver_environment()
        with (self.folder.job.parent / f"driver-{time.time_ns()}.log").open("w") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.faults.driver",
                    self.folder.job,
                    str(WORK_S),
                    self.folder.diary,
                ],
                cwd=ROOT,
                env=dict(environment),
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def _done(self, fault: Kill, driver: subprocess.Popen[str]) -> bool:
        """Whether a kill need not be thought of again: it was its time and there was a victim, or it is too late."""
        progress = self._progress()
        if fault.kind == "indexer" and self.folder.planned():
            return True
        end = time.monotonic() + (HUNT_S if fault.kind == "write" else 0.0)
        while progress >= fault.at and driver.poll() is None:
            there = self.folder.parts()
            if self._kill_one(fault.kind, driver):
                self.killed[fault.kind] += 1
                self.allowed.update({*self.folder.begun()} - there)
                return True
            if time.monotonic() >= end:
                break
            time.sleep(0.005)
        return False

    def _kill_one(self, kind: str, driver: subprocess.Popen[str]) -> bool:
        if kind == "driver":
            driver.kill()
            driver.wait()
            return True
        if kind == "node":
            return self._cluster.kill_node()
        victims = self._cluster.victims(kind)
        if not victims:
            return False
        return kill(self._draw.choice(victims))

    def _wait(self, driver: subprocess.Popen[str]) -> None:
        try:
            driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._hung(driver)
            return
        if driver.returncode != 0:
            self._ended(driver)

    def _hung(self, driver: subprocess.Popen[str]) -> None:
        self._complaints.append("the driver does not come to an end")
        driver.kill()
        driver.wait()

    def _ended(self, driver: subprocess.Popen[str]) -> None:
        """Only a kill of ours may end a driver before its run is published."""
        if driver.returncode != -signal.SIGKILL:
            self._complaints.append(f"a driver ended with {driver.returncode}: {self._last_words()}")

    def _last_words(self) -> str:
        """The last lines of the newest log."""
        logs = sorted(self.folder.job.parent.glob("driver-*.log"))
        return logs[-1].read_text()[-500:]
