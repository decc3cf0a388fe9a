"""Hosts with addresses of their own: the head, workers and the store apart, and the network between them fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.elastic.conftest import Write
from tests.elastic.networks import Network, lacking
from tests.elastic.nodes import Drive, Host, Nodes, driving, wait
from tests.faults.cluster import ROOT
from tests.faults.compare import compare

MISSING = lacking()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]
PORT = 5000
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
MAKE_BUCKET = "import s3fs; s3fs.S3FileSystem().mkdir('out')"


@dataclass(frozen=True, slots=True)
class Place:
    """The network with its cluster, whose head is a host and whose store is another."""

    network: Network
    nodes: Nodes
    head: Host
    environment: Mapping[str, str]

    def start(self, name: str) -> None:
        """A host with a core and a GPU that is a node."""
        self.nodes.start(name, cpus=1, gpus=1, host=self.network.host(name))

    @contextmanager
    def driving(self, job: Path, *settings: str) -> Iterator[Drive]:
        """A driver on the head."""
        with driving(self.nodes, job, *settings, host=self.head) as drive:
            yield drive

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Python on the head's host."""
        return subprocess.run(
            [*self.head.within, sys.executable, *words],
            cwd=ROOT,
            env=self.nodes.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def place() -> Iterator[Place]:
    """The head, two workers and the store."""
    with Network() as network:
        head, store = network.host("head"), network.host("store")
        environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://{store.address}:{PORT}"}
        server = subprocess.Popen(
            [*store.within, sys.executable, "-m", "moto.server", "-H", store.address, "-p", str(PORT)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with Nodes(environment) as nodes:
                nodes.start("head", cpus=1, host=head)
                found = Place(network, nodes, head, environment)
                wait(lambda: found.run("-c", MAKE_BUCKET).returncode == 0, "the store does not answer")
                found.start("one")
                found.start("two")
                yield found
        finally:
            server.kill()
            server.wait()


def check(place: Place, undisturbed: Path, folder: Path) -> None:
    """The output in the store is what an undisturbed run publishes."""
    fetched = place.run("-m", "tests.elastic.fetch", "s3://out/captions", str(folder))
    assert fetched.returncode == 0, fetched.stderr
    verdict = compare(undisturbed, folder)
    assert verdict.good, verdict


def test_a_worker_that_is_cut_off_and_comes_back_and_one_that_is_killed_cost_no_row(
    place: Place, write: Write, undisturbed: Path, tmp_path: Path
) -> None:
    job = write("replicas = 2", "gpus_per_replica = 1", output="s3://out/captions")

    with place.driving(job, "caption_s=0.3") as drive:
        drive.wait_for("caption", "one", count=3)
        drive.wait_for("caption", "two", count=1)
        place.network.cut("one")
        time.sleep(12)  # the head would give it up after thirty: three tries of ten
        place.network.mend("one")
        mended = len(drive.lines("caption", "one"))
        drive.wait_for("caption", "one", count=mended + 2)
        place.nodes.kill("two")
        assert drive.ends() == 0, drive.said()

    units = len({line.who for line in drive.lines("caption")})
    print(f"{len(drive.lines('caption'))} units begun where {units} would have done")
    check(place, undisturbed, tmp_path / "copy")


def test_a_worker_that_does_not_reach_the_store_stops_the_run_or_is_survived_and_the_same_command_goes_on(
    place: Place, write: Write, undisturbed: Path, tmp_path: Path
) -> None:
    job = write("replicas = 2", "gpus_per_replica = 1", output="s3://out/captions")

    with place.driving(job, "caption_s=0.1", "impatient=1") as drive:
        drive.wait_for("caption", "one", count=3)
        place.network.lose("one", "store")
        code = drive.ends()
    print(f"exit code {code}: {drive.said()[-600:]}")
    assert code == 0 or (code == 1 and "start the same command" in drive.said())

    place.network.find("one", "store")
    with place.driving(job, "caption_s=0", "impatient=1") as drive:
        assert drive.ends() == 0, drive.said()
    check(place, undisturbed, tmp_path / "copy")
