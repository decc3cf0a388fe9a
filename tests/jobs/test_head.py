"""jobs.head: a driver whose cluster has lost its head, or never had one, says so."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys, time
from rich.console import Console
from jobs.head import watched
with watched(sys.argv[1], Console(stderr=True, soft_wrap=True)):
    print("begun", flush=True)
    sys.stdin.read()
print("done")
"""


SESSION = """
from rich.console import Console
from jobs.exit_codes import exit_codes
from jobs.session import session
console = Console(stderr=True, soft_wrap=True)
with exit_codes(console), session(console):
    print("connected")
"""


def driver(address: str) -> subprocess.Popen[str]:
    """Watches the address until its input ends, and has one second's patience."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, address],
        cwd=ROOT,
        env=os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "2"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_head_that_goes_ends_the_driver_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        watching = driver(address)
        assert watching.stdout is not None
        assert watching.stdout.readline() == "begun\n"
    assert watching.wait(60) == 1

    said = watching.communicate()
    assert said[0] == ""
    assert f"✗ Ray's head at {address} has not answered for 1 s" in said[1]
    assert "start the same command again" in said[1]


def test_a_head_that_answers_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        watching = driver(f"127.0.0.1:{head.getsockname()[1]}")
        assert watching.stdout is not None
        watching.stdout.readline()
        for _ in range(15):  # 1.5 s of its questions
            head.accept()[0].close()
        assert watching.communicate("") == ("done\n", "")
    assert watching.returncode == 0


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9", "nobody answers at RAY_ADDRESS 127.0.0.1:9"),
        ("nonsense", "cannot connect to Ray at nonsense: ValueError"),
    ],
)
def test_an_address_without_a_head_is_named_and_is_no_failed_run(address: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (3, "")
    assert words in done.stderr
