"""The CPU time of a piece of work, in this process and in all below it: Ray's, decoders', those that end meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import RunError

STILL_S, STILL = 0.5, 0.2  # where twice in a row for so long not so much of a core is taken, all is at rest
LONGEST_S = 120.0  # until then
EVERY_S = 0.25  # between looks: what a process that ends has taken since the last one is not counted
TICKS = os.sysconf("SC_CLK_TCK")
Process = tuple[int, int]  # its number, and when it was started: numbers come again


@dataclass
class Spent:
    """CPU seconds by process, and by the name under which the process was last seen; not those of looking.

    With `outlived`, those of a process's children that have ended are the process's own.
    """

    outlived: bool = False
    seconds: dict[Process, float] = field(default_factory=dict)
    names: dict[Process, str] = field(default_factory=dict)
    before: dict[Process, float] = field(default_factory=dict)  # what is not counted
    left_out_s: float = 0.0
    _looking: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def look(self) -> None:
        """Read what this process and those below it have taken until now."""
        with self._lock:
            self._look()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What is taken meanwhile is not counted."""
        with self._lock:
            self.look()
            begun = dict(self.seconds)
        yield
        with self._lock:
            self.look()
            for process, seconds in self.seconds.items():
                meanwhile = seconds - begun.get(process, 0.0)
                self.before[process] = self.before.get(process, 0.0) + meanwhile
                self.left_out_s += meanwhile

    def at_rest(self) -> None:
        """Wait until all are at rest: Ray's own processes take 5 % of a core for ever. RunError if that never comes."""
        quiet, end = 0, time.monotonic() + LONGEST_S
        before = self._taken()
        while quiet < 2:
            if time.monotonic() > end:
                raise RunError(f"what Ray started does not come to rest within {LONGEST_S:g} s; start again")
            time.sleep(STILL_S)
            now = self._taken()
            quiet = quiet + 1 if now - before < STILL * STILL_S else 0
            before = now

    def _taken(self) -> float:
        """Until now, whether counted or not."""
        with self._lock:
            self.look()
            return sum(self.seconds.values())

    def _look(self) -> None:
        begun = time.thread_time()
        parents, found = dict[int, int](), dict[Process, float]()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                number = int(folder.name)
                parents[number] = int(fields[1])
                found[number, int(fields[19])] = (
                    sum(map(int, fields[11 : 15 if self.outlived else 13])) / TICKS
                )
        for process, seconds in found.items():
            if _below(process[0], parents):
                self.seconds[process] = seconds
                self._name(process)
        self._looking += time.thread_time() - begun
        own = next(process for process in found if process[0] == os.getpid())
        self.seconds[own] = self._own() - self._looking

    def _own(self) -> float:
        """Of this process, without the ticks of 10 ms."""
        times = os.times()
        ended = times.children_user + times.children_system
        return time.process_time() + (ended if self.outlived else 0.0)

    def _name(self, process: Process) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            if name := Path(f"/proc/{process[0]}/cmdline").read_text():  # empty, it has ended
                self.names[process] = name.replace("\0", " ").strip()

    @property
    def by_name(self) -> dict[str, float]:
        """CPU seconds by command line."""
        spent = defaultdict[str, float](float)
        with self._lock:
            for process, seconds in self.seconds.items():
                spent[self.names.get(process, "")] += seconds - self.before.get(process, 0.0)
        return spent

    @property
    def total(self) -> float:
        """CPU seconds."""
        return sum(self.by_name.values())


@contextmanager
def counted() -> Iterator[Spent]:
    """What this process and all below it take while inside."""
    spent, done = Spent(), threading.Event()
    spent.look()
    spent.before = dict(spent.seconds)

    def watch() -> None:
        while not done.wait(EVERY_S):
            spent.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield spent
    finally:
        done.set()
        thread.join()
        spent.look()


def _below(number: int, parents: Mapping[int, int]) -> bool:
    while number not in (os.getpid(), 0):
        number = parents.get(number, 0)
    return number != 0


def cpu_s() -> float:
    """CPU seconds until now of this process and of those below it, also of those that have ended."""
    spent = Spent(outlived=True)
    spent.look()
    return sum(spent.seconds.values())
