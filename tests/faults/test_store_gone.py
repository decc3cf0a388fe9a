"""A store that goes in the middle of `captionmill run`, says one thing or nothing, and is back for the next start."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import made
from tests.conftest import Store
from tests.double import said
from tests.faults import storage as harness
from tests.faults.proxy import Call, Proxy

ROOT = Path(__file__).parents[2]
UNITS, FIRST, THEN = 12, 3, 7  # of the job; with a part when the store goes, and when it goes again
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATELLTALEKEYIDXX1",
    "AWS_SECRET_ACCESS_KEY": "telltaleAwsSecretKey/2",
    "AWS_SESSION_TOKEN": "telltaleSessionToken3",
}


@dataclass(slots=True)
class Going:
    """Once so many unit parts are stored, every request meets `kind`."""

    parts: int
    kind: str
    stored: list[str] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def __call__(self, call: Call) -> str:
        """The fault for a request."""
        part = call.method == "PUT" and "/units/" in call.key
        if len(self.stored) >= self.parts and (part or self.gone.is_set()):
            self.gone.set()
            return self.kind
        self.stored += [call.key] if part else []
        return ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job on the store, and where its runs put what is not on the store."""

    root: str
    folder: Path
    rays: str  # where Ray keeps its sessions

    @property
    def output(self) -> str:
        """What the job writes."""
        return f"{self.root}/out"

    def begin(self) -> subprocess.Popen[str]:
        """`captionmill run`, among secrets."""
        values = {"root": self.root, "output": self.output, "last": harness.SHARDS - 1}
        checkpoint = self.folder / "checkpoint"
        (self.folder / "job.toml").write_text(harness.JOB.format(checkpoint=checkpoint, **values))
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | KEYS
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.command", "run", str(self.folder / "job.toml")],
            cwd=ROOT,
            env=environment | {"RAY_TMPDIR": self.rays},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def ended(run: subprocess.Popen[str], code: int) -> list[str]:
    """The lines that a run said until it ended with this exit code; it says nothing else, and no secret."""
    output, errors = run.communicate(timeout=300)
    assert (run.returncode, output) == (code, ""), errors
    assert [secret for secret in KEYS.values() if secret in errors] == []
    return errors.splitlines()


def due() -> dict[tuple[str, str, str], str]:
    """What must be said, by shard, key and prompt."""
    found = {}
    for shard in range(harness.SHARDS):
        for place in set(range(harness.EACH)) - {7, 23}:
            number = shard * harness.EACH + place
            digest, colour = (
                hashlib.sha256(harness.picture(number)).hexdigest(),
                (number % 256, number // 256, 77),
            )
            for prompt in ("short", "long"):
                found[f"{shard:03d}.tar", f"{place:05d}", prompt] = said(digest, prompt, colour)
    return found


@pytest.fixture
def proxy() -> Proxy:
    """Not serving yet, but at a port that will be free."""
    proxy = Proxy()
    with proxy.serving():
        return proxy


@pytest.fixture
def job(moto_store: Store, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job whose input is there, and whose store is behind the proxy."""
    folder = tmp_path_factory.mktemp("gone")
    made.checkpoint(folder / "checkpoint")
    proxy.forward_to(moto_store.environment["AWS_ENDPOINT_URL"])
    with Store({**moto_store.environment, "AWS_ENDPOINT_URL": proxy.url}, moto_store.root).entered() as root:
        with proxy.serving():
            harness.fill(root)
        with tempfile.TemporaryDirectory(prefix="cm", dir="/tmp") as rays:  # short: Ray's sockets need it
            yield Job(root, folder, rays)


@pytest.mark.slow
def test_a_store_that_goes_ends_the_run_with_a_message_and_the_same_command_goes_on(
    job: Job, proxy: Proxy
) -> None:
    with proxy.serving():
        refusing = Going(FIRST, "503")
        proxy.schedule(refusing)
        first = ended(job.begin(), 1)
    with ExitStack() as stack:
        stack.enter_context(proxy.serving())
        leaving = Going(THEN - FIRST, "reset_before")
        proxy.schedule(leaving)
        run = job.begin()
        assert leaving.gone.wait(200)
        stack.close()  # from now on nobody listens
        then = ended(run, 1)
    with proxy.serving():
        back = Going(UNITS, "")
        proxy.schedule(back)
        last = ended(job.begin(), 0)

        assert_told(first, "HTTP 503")
        assert_told(then, "Could not connect|Connection")
        assert f"Going on: {FIRST} of {UNITS} units are there already" in then
        assert f"Going on: {THEN} of {UNITS} units are there already" in last
        stored = [*refusing.stored, *leaving.stored, *back.stored]
        assert len(stored) == len(set(stored)) == UNITS
        rows = harness.rows(job.output)
        assert len(rows) == len(due()) + 2 * harness.SHARDS
        assert {
            (row["shard"].rpartition("/")[2], row["key"], row["prompt_id"]): row["caption"]
            for row in rows
            if row.get("caption")
        } == due()
        assert harness.left_over(job.output) == 0
    assert [p for p in Path(job.rays).rglob("*.*") if p.is_file() and _tells(p)] == []


def assert_told(lines: list[str], reason: str) -> None:
    """One message, the last: what failed, why, and what to do."""
    told = [line for line in lines if line.startswith("✗")]
    assert told == lines[-1:], lines
    assert re.search(
        f"cannot .* s3://.*({reason}).*start the same command again: what is finished is kept$", told[0]
    )
    assert len(lines) <= 20, lines


def _tells(path: Path) -> bool:
    return any(secret.encode() in path.read_bytes() for secret in KEYS.values())
