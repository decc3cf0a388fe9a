"""Real things in small that many tests share: two S3 servers, a Ray cluster, ffprobe.

Each starts when a test first asks for it and stays until the session ends.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import s3fs
from moto.server import ThreadedMotoServer

# Ray Data's thread that reports usage logs tracebacks, for which Python parses source, and where two threads parse at
# once, one of them ends (SystemError: AST constructor recursion depth mismatch, Python 3.11).
os.environ["RAY_DATA_USAGE_DISABLED"] = "1"
os.environ |= {"RAY_worker_niceness": "0"}  # else, at 15, workers stand still beside another process's tests

# Of processes that share the files of tests, each has its share of the cores. Threads of torch that wait for others
# spin: on two cores, two processes of two threads each took three times as long as one after the other.
SHARING = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // SHARING)))

ROW = "row of a table"  # the property of a test that is one: title, columns, cells
INFRA = Path(__file__).parents[1] / "infra"
OWN_S3 = "CAPTIONMILL_TEST_S3"  # s3://bucket/prefix of a store that the AWS environment leads to
NO_CEPH = f"""\
Tests marked s3 need a real S3 server. infra/s3_server.sh could not start one:
{{}}
Have one of your own: let AWS_ENDPOINT_URL and credentials lead to it, and set {OWN_S3}=s3://bucket/prefix"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: where several processes share the files, none is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables whose rows tests recorded. A process that leaves the tests to others loads this file alone."""
    tables: dict[tuple[str, tuple[str, ...]], list[tuple[str, ...]]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == ROW:
                title, columns, row = value
                tables.setdefault((title, tuple(columns)), []).append(tuple(row))
    for (title, columns), rows in sorted(tables.items()):
        terminalreporter.section(title)
        cells = [columns, *sorted(rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            words = (word.ljust(width) for word, width in zip(line, widths, strict=True))
            terminalreporter.write_line("  ".join(words).rstrip())


@dataclass(frozen=True, slots=True)
class Store:
    """An S3 server: the environment variables that lead to it, and a bucket, or a folder of one, to use."""

    environment: Mapping[str, str]
    root: str

    @contextmanager
    def entered(self) -> Iterator[str]:
        """A URI below which there is nothing yet; meanwhile this process's environment leads to the store."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()  # instances outlive the environment they were made in
            yield f"{self.root}/{uuid.uuid4().hex}"
        s3fs.S3FileSystem.clear_instance_cache()

    def create(self) -> None:
        """Make the bucket."""
        with self.entered():
            s3fs.S3FileSystem().mkdir(self.root)


@pytest.fixture(scope="session")
def moto_store() -> Iterator[Store]:
    """An S3 server in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a failing test prints every request
    server.start()
    host, port = server.get_host_and_port()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION")
    values = ("test", "test", "us-east-1", "us-east-1")
    environment = dict(zip(names, values, strict=True), AWS_ENDPOINT_URL=f"http://{host}:{port}")
    store = Store(environment, "s3://moto")
    store.create()
    yield store
    server.stop()


@pytest.fixture
def s3(moto_store: Store) -> Iterator[str]:
    """A new place on moto's server: the interface of S3. For the ways of a real store, `ceph`."""
    with moto_store.entered() as uri:
        yield uri


@pytest.fixture(scope="session")
def ceph_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A Ceph object gateway, or where CAPTIONMILL_TEST_S3 points."""
    if own := os.environ.get(OWN_S3):
        root = f"{own.rstrip('/')}/{uuid.uuid4().hex}"
        yield Store({}, root)
        s3fs.S3FileSystem().rm(root, recursive=True)
        return
    script, folder = str(INFRA / "s3_server.sh"), str(tmp_path_factory.mktemp("ceph"))
    started = run([script, "start", folder], os.environ | {"OWNER": str(os.getpid())})
    if started.returncode:
        pytest.fail(NO_CEPH.format(started.stderr), pytrace=False)
    store = Store(dict(line.split("=", 1) for line in started.stdout.splitlines()), "s3://ceph")
    store.create()
    yield store
    run([script, "stop", folder])


@pytest.fixture
def ceph(ceph_store: Store) -> Iterator[str]:
    """A new place on a real S3 server."""
    with ceph_store.entered() as uri:
        yield uri


@pytest.fixture(scope="session")
def ray_local(moto_store: Store) -> Iterator[None]:
    """A Ray cluster of this machine whose workers find moto's server."""
    quiet = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (*moto_store.environment.items(), *quiet.items()):
            patch.setenv(name, value)  # workers inherit what the cluster was started with
        ray.init(
            address="local",
            num_cpus=4,  # a label: stages that wait for one another must not wait for a core
            object_store_memory=1 << 30,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def ffprobe() -> list[str]:
    """The command ffprobe: the installed one, else Debian's, unpacked to the user's cache folder."""
    if installed := shutil.which("ffprobe"):
        return [installed]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script, prefix = str(INFRA / "debian.sh"), str(cache / "captionmill" / "ffmpeg")
    fetched = run([script, "get", prefix, "ffmpeg"])
    if fetched.returncode:
        pytest.fail(f"This test needs ffprobe (package ffmpeg): install it.\n{fetched.stderr}", pytrace=False)
    return [script, "run", prefix, "ffprobe"]


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program's outcome, also where it fails."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
