"""The CPU time of a tree of processes."""

from __future__ import annotations

import subprocess
import sys
import time

from jobs.bench.cpu import Spent, counted, cpu_s

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


def test_what_is_left_out_does_not_count() -> None:
    with counted() as spent:
        with spent.left_out():
            subprocess.run([sys.executable, "-c", BUSY], check=True)
            _work(0.1)
        _work(0.1)

    assert 0.1 < spent.total < 0.19
    assert spent.left_out_s > 0.1


def test_rest_is_when_children_have_done_their_work() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY + "\ninput()"], stdin=-1) as child:
        spent = Spent()
        spent.at_rest()

        assert next(seconds for name, seconds in spent.by_name.items() if "input()" in name) > 0.25
        child.communicate()


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
