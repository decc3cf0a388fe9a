"""`captionmill submit`, and `ray job submit`, on a cluster of four hosts with a token."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.demo.command import job_file
from jobs.demo.shards import write_shards
from tests.cluster.hosts import Host, Hosts
from tests.cluster.tunnel import tunnel
from tests.faults.compare import Verdict, compare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SCENES = 4
ID = re.compile(r"captionmill-[0-9a-f]{12}-\d+")
SECRETS = {"AWS_SECRET_ACCESS_KEY": "telltaleKey/1", "HF_TOKEN": "hf_telltale2"}


@dataclass(frozen=True, slots=True)
class Place:
    """The cluster, and the demo's input with what a local run makes of it."""

    hosts: Hosts
    folder: Path

    def job(self, name: str, more: str = "") -> Path:
        """A job file whose output is the folder of this name."""
        path = self.folder / f"{name}.toml"
        text = job_file(self.folder).replace(str(self.folder / "captions"), str(self.folder / name))
        path.write_text(text + more)
        return path

    def start(
        self, *words: str | Path, url: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """`captionmill submit` in a process of its own, both streams in one."""
        asked = ["submit", "--address", url or self.hosts.url, *map(str, words)]
        return subprocess.Popen(
            [sys.executable, "-m", "jobs", *asked],
            cwd=ROOT,
            env=self.hosts.client() | SECRETS | dict(environment or {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def submit(self, *words: str | Path, **given: Any) -> tuple[int, str]:
        """The same to its end: exit code and what was said."""
        process = self.start(*words, **given)
        said, _ = process.communicate(timeout=600)
        return process.returncode, said

    def jobs(self) -> list[Mapping[str, Any]]:
        """What everybody with the token sees of jobs."""
        headers = {"Authorization": f"Bearer {self.hosts.token}"}
        request = urllib.request.Request(f"{self.hosts.url}/api/jobs/", headers=headers)
        found: list[Mapping[str, Any]] = json.load(urllib.request.urlopen(request, timeout=60))
        return found

    def verdict(self, name: str) -> Verdict:
        """What an output has, held against the local run's."""
        return compare(self.folder / "local", self.folder / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Four hosts, of which two have GPUs by name, and the demo captioned on this machine."""
    folder = tmp_path_factory.mktemp("submit")
    write_shards(folder, SCENES)
    worker = Host(gpus=2, labels={"kind": "gpu"})
    # Only of a driver on the head is the log seen: hosts with one address, as these, all show the head's as their own.
    with Hosts(Host(cpus=1, labels={"kind": "head"}), worker, worker, Host(labels={"kind": "cpu"})) as hosts:
        place = Place(hosts, folder)
        local = [sys.executable, "-m", "jobs", "run", str(place.job("local"))]
        quiet = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
        subprocess.run(local, cwd=ROOT, env=quiet, check=True, capture_output=True, timeout=600)
        yield place


def test_two_submitted_at_once_over_a_bad_line_are_one_run_with_the_local_table(place: Place) -> None:
    job = place.job("submitted")
    with tunnel(int(place.hosts.url.rpartition(":")[2])) as line:
        near = place.start(job, url=f"http://127.0.0.1:{line.port}")
        other = place.start(job, "--entrypoint-label-selector", '{"kind": "head"}')
        begun = _until("index ", near)
        assert line.cut()
        said = [begun + _rest(near), _rest(other)]

    assert (near.returncode, other.returncode) == (0, 0), said
    assert len({ID.findall(text)[0] for text in said}) == 1
    assert sorted("is submitted" in text for text in said) == [False, True]
    assert "Lost the connection" in said[0]
    assert [text.count("assets to caption") for text in said] == [1, 1]
    assert place.verdict("submitted") == Verdict()
    assert [v for v in (*SECRETS.values(), place.hosts.token) if v in json.dumps(place.jobs())] == []


def _until(words: str, process: subprocess.Popen[str]) -> str:
    """What a process says up to the line with these words."""
    assert process.stdout
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def _rest(process: subprocess.Popen[str]) -> str:
    """What it says until it has ended."""
    assert process.stdout
    with process.stdout:
        said = process.stdout.read()
    process.wait(timeout=60)
    return said


def test_what_ray_job_submit_runs_has_the_local_table(place: Place) -> None:
    place.job("plain")
    command = ["ray", "job", "submit", "--address", place.hosts.url, "--working-dir", str(place.folder)]
    asked = [*command, "--entrypoint-num-cpus", "1", "--", "python", "-m", "jobs", "run", "plain.toml"]
    done = subprocess.run(
        asked, env=place.hosts.client(), capture_output=True, text=True, check=False, timeout=600
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert place.verdict("plain") == Verdict()


def test_a_run_is_left_alone_stopped_and_gone_on_with(place: Place) -> None:
    job = place.job("stopped")
    watcher = place.start(job)
    _wait_for(place.folder / "stopped" / "runs")
    watcher.send_signal(signal.SIGINT)
    left, _ = watcher.communicate(timeout=60)
    under_way = place.submit(job, "--no-wait")
    another = place.submit(job, "--set", "generation.max_new_tokens=9")
    stopped = place.submit(job, "--stop")
    nothing = place.submit(job, "--stop")
    again, said = place.submit(job, "--with-code", "--entrypoint-label-selector", '{"kind": "cpu"}')

    assert watcher.returncode == 130
    assert "goes on without you" in left
    assert under_way[0] == 0
    assert "is under way already" in under_way[1]
    assert another[0] == 1
    assert "it is another job" in another[1]
    assert stopped[0] == 0
    assert "What is committed is kept; go on with: captionmill submit" in stopped[1]
    assert (nothing[0], "No run is under way" in nothing[1]) == (0, True)
    assert again == 0, said
    assert place.verdict("stopped") == Verdict()
    where = {job["submission_id"]: job["driver_node_id"] for job in place.jobs()}
    assert where[ID.findall(said)[0]] != where[ID.findall(stopped[1])[0]]
    log = _log(place, ID.findall(stopped[1])[0])
    assert "submit it again to go on" in log


def test_the_exit_code_is_the_run_s(place: Place) -> None:
    job = place.job("wrong")

    code, said = place.submit(job, "--input", str(place.folder / "nowhere.tar"))

    assert code == 2
    assert "nowhere.tar: does not exist" in said
    assert "failed with exit code 2" in said


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 32}, "refuses the token"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "no token is here"),
    ],
)
def test_who_has_no_right_token_is_told_what_to_set(
    place: Place, environment: dict[str, str], words: str
) -> None:
    code, said = place.submit(place.job("refused"), environment=environment)

    assert code == 3
    assert words in said
    assert "RAY_AUTH_MODE=token" in said


def test_an_output_that_ray_would_delete_is_refused_in_a_job(place: Place) -> None:
    text = place.job("relative").read_text().replace(str(place.folder / "relative"), "relative")
    (place.folder / "relative.toml").write_text(text)
    command = ["ray", "job", "submit", "--address", place.hosts.url, "--working-dir", str(place.folder)]
    asked = [*command, "--", "python", "-m", "jobs", "run", "relative.toml"]
    done = subprocess.run(
        asked, env=place.hosts.client(), capture_output=True, text=True, check=False, timeout=600
    )

    assert done.returncode == 1  # the command's own for everything
    assert "relative would lie in this job's working folder" in done.stdout


def _log(place: Place, submission_id: str) -> str:
    headers = {"Authorization": f"Bearer {place.hosts.token}"}
    request = urllib.request.Request(f"{place.hosts.url}/api/jobs/{submission_id}/logs", headers=headers)
    return str(json.load(urllib.request.urlopen(request, timeout=60))["logs"])


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.1)
