"""`captionmill doctor` finds what was planted on a cluster of five hosts, each finding on its host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.preflight import DEMO
from tests.cluster.hosts import Host, Hosts
from tests.conftest import Store
from tests.faults.cluster import below
from tests.pipeline.conftest import picture, tar_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
UNIT = 100_000_000  # bytes of pixels
NO_KEYS = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
JOB = f"""
[input]
dataset = "birds"
uris = ["{{inputs}}/*.tar"]
[model]
path = "{{model}}"
[[prompt]]
id = "short"
text = "What is it?"
[unit]
max_pixel_bytes = {UNIT}
[output]
uri = "{{output}}"
[cluster]
replicas = 9
gpus_per_replica = 1
"""
# Hosts are known by their cores.
HEAD, OLD, POOR, LOST, MUTE = 2, 3, 4, 5, 6
AHEAD = """import time
real = time.time
time.time = lambda: real() + 100
"""  # of all Python on a host; a clock that only libraries see moved (faketime) keeps `ray start` from sleeping


@dataclass(frozen=True, slots=True)
class Found:
    """What the doctor said: exit code, findings by check and the host's cores (0: of the cluster), words for people."""

    code: int
    findings: Mapping[tuple[str, int], str]
    left: tuple[str, ...]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, moto_store: Store) -> Iterator[Found]:
    """Everything that is planted, in one look."""
    folder = tmp_path_factory.mktemp("doctor")
    model, corrupt, other = folder / "model", folder / "corrupt", folder / "other"
    for place in (model, corrupt, other):
        shutil.copytree(DEMO, place)
    (corrupt / "model.safetensors").write_bytes(b"\xff" * 4096)
    (other / "tokenizer.json").unlink()
    (shadow := folder / "shadow" / "transformers-0.0.1.dist-info").mkdir(parents=True)
    (shadow / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    old = {"PYTHONPATH": f"{shadow.parent}:{ROOT}"}
    (shadow.parent / "sitecustomize.py").write_text(AHEAD)
    hosts = (
        Host(cpus=HEAD),
        Host(OLD, 1, environment=old, before=_mounted(corrupt, model), store=3 * UNIT),
        Host(POOR, 1, environment={**NO_KEYS, "AWS_EC2_METADATA_DISABLED": "true"}),
        Host(LOST, 1, {}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, _mounted(other, model), 3 * UNIT),
        Host(MUTE),
    )
    patient = {"RAY_health_check_failure_threshold": "1000"}
    with moto_store.entered() as uri, Hosts(*hosts, environment={**moto_store.environment, **patient}) as ray:
        _fill(uri)
        (folder / "job.toml").write_text(JOB.format(inputs=f"{uri}/in", model=model, output=f"{uri}/out"))
        hold = ["ray", "job", "submit", "--address", ray.url, "--entrypoint-num-gpus", "1", "--no-wait"]
        subprocess.run([*hold, "--", "sleep", "900"], env=ray.client(), check=True, capture_output=True)
        _freeze(ray.nodes[-1].pid)
        yield _ask(ray, folder / "job.toml", uri)


def _mounted(over: Path, place: Path) -> tuple[str, ...]:
    """What runs a command where one folder shows another's content."""
    return (
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        f'mount --bind {over} {place}; exec "$@"',
        "-",
    )


def _fill(uri: str) -> None:
    from pipeline import storage

    storage.put(f"{uri}/in/a.tar", tar_bytes([("a.png", picture(form="PNG"))]))


def _freeze(pid: int) -> None:
    """Stop a host's raylet."""
    for child in below([pid]):
        if b"raylet/raylet" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGSTOP)


def _ask(ray: Hosts, job: Path, uri: str) -> Found:
    from pipeline import storage

    command = [
        sys.executable,
        "-m",
        "jobs",
        "doctor",
        str(job),
        "--address",
        ray.url,
        "--json",
        "--patience",
        "90",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=ray.client(), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    cores = {node["node"]: int(node["cpus"]) for node in told["nodes"]} | {"": 0}
    findings: dict[tuple[str, int], str] = {}
    for one in told["findings"]:
        assert one["remedy"]
        place = one["check"], cores[one["node"]]
        findings[place] = f"{findings.get(place, '')}{one['problem']}\n"
    left = tuple(entry.name for entry in storage.listing(uri) if not entry.name.startswith("in/"))
    return Found(done.returncode, findings, left)


PLANTED = {
    "a clock that is ahead": ("clock", OLD, "its clock is 100 s ahead"),
    "another version": ("versions", OLD, "transformers is 0.0.1, and "),
    "a corrupt header": ("checkpoint", OLD, "weights cannot be read"),
    "a missing file": ("checkpoint", LOST, "tokenizer.json is missing"),
    "no credentials, to read": ("input", POOR, "credentials"),
    "no credentials, to write": ("output", POOR, "credentials"),
    "a wrong endpoint, to read": ("input", LOST, "cannot"),
    "a wrong endpoint, to write": ("output", LOST, "cannot"),
    "a small object store": ("object store", POOR, "its object store has 0.15 GB, and 3 units may have 0.30"),
    "a host that does not answer": ("answer", MUTE, "did not answer within 90 s"),
    "GPUs by name only": ("gpus", OLD, "Ray counts 1 GPUs, torch sees 0"),
    "too few GPUs": ("gpus", 0, "there is room for 3 of 9 replicas"),
    "a GPU that another holds": ("gpus", 0, "1 of 3 GPUs are held by others"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_doctor_finds(found: Found, planted: str) -> None:
    check, host, words = PLANTED[planted]

    assert words in found.findings.get((check, host), ""), found.findings


def test_the_doctor_finds_nothing_else(found: Found) -> None:
    planted = {(check, host) for check, host, _ in PLANTED.values()} | {("gpus", POOR), ("gpus", LOST)}

    assert found.findings.keys() - planted == set()
    assert found.code == 1


def test_the_doctor_leaves_nothing_behind(found: Found) -> None:
    assert found.left == ()


def test_a_machine_that_is_well_passes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes([("a.png", picture(form="PNG"))]))
    well = JOB.format(inputs=tmp_path / "in", model="demo", output=tmp_path / "deep" / "out")
    (tmp_path / "job.toml").write_text(well.replace("= 9", "= 1").replace("replica = 1", "replica = 0"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-m", "jobs", "doctor", str(tmp_path / "job.toml")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "All is well."), done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "job.toml"]
