"""The CPU time of a tree of processes."""

from __future__ import annotations

import subprocess
import sys

from jobs.bench.cpu import counted, cpu_s

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_a_child_that_has_ended_still_counts() -> None:
    begun = cpu_s()
    subprocess.run([sys.executable, "-c", BUSY], check=True)

    assert cpu_s() - begun > 0.25


def test_a_child_counts_while_it_lives() -> None:
    with counted() as spent, subprocess.Popen([sys.executable, "-c", BUSY + "\ninput()"], stdin=-1) as child:
        while spent.total < 0.25:
            spent.look()
        child.communicate()

    assert spent.total > 0.25
