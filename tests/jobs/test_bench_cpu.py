"""The CPU time of a tree of processes."""

from __future__ import annotations

import subprocess
import sys
import time

from jobs.bench.cpu import Spent, counted

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_a_child_that_has_ended_still_counts() -> None:
    # In a process of its own: Ray's processes, where other tests had them started from this one, may end meanwhile.
    code = f"""
import subprocess, sys
from jobs.bench.cpu import cpu_s
begun = cpu_s()
subprocess.run([sys.executable, "-c", {BUSY!r}], check=True)
print(cpu_s() - begun)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert float(said.stdout) > 0.25


def test_a_child_counts_while_it_lives() -> None:
    with counted() as spent, subprocess.Popen([sys.executable, "-c", BUSY + "\ninput()"], stdin=-1) as child:
        while spent.total < 0.25:
            spent.look()
        child.communicate()

    assert spent.total > 0.25


def test_what_is_left_out_does_not_count() -> None:
    again = "\ninput()\nbegun = time.process_time()\nwhile time.process_time() < begun + 0.2: pass\ninput()"
    with counted() as spent, subprocess.Popen([sys.executable, "-c", BUSY + again], stdin=-1) as child:
        with spent.left_out():
            _until(spent, 0.28)
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.flush()
        _until(spent, 0.48)
        counts, left_out = _of_child(spent), spent.left_out_s
        child.communicate()

    assert 0.15 < counts < 0.25
    assert left_out > 0.28


def test_rest_is_when_children_have_done_their_work() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY + "\ninput()"], stdin=-1) as child:
        spent = Spent()
        spent.at_rest()

        assert _of_child(spent) > 0.25
        child.communicate()


def _until(spent: Spent, seconds: float) -> None:
    """Until the child has taken so much since it was started."""
    while (
        max((s for p, s in spent.seconds.items() if "input()" in spent.names.get(p, "")), default=0.0)
        < seconds
    ):
        time.sleep(0.01)
        spent.look()


def _of_child(spent: Spent) -> float:
    return next(seconds for name, seconds in spent.by_name.items() if "input()" in name)
