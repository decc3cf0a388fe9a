"""Secrets around a run are in nothing that it writes, and the Ray that it starts is closed to others.

One run with doubles in a process of its own, among secrets: on a host and in a home folder with telling names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import made
from tests.pipeline.conftest import picture, tar_bytes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOST, HOME = "telltalehost", "telltalehome"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIATELLTALEKEYIDXX1",
    "AWS_SECRET_ACCESS_KEY": "telltaleAwsSecretKey/2",
    "AWS_SESSION_TOKEN": "telltaleSessionToken3",
    "HF_TOKEN": "hf_telltaleHubToken4",
    "HUGGING_FACE_HUB_TOKEN": "hf_telltaleHubToken5",
    "OPENAI_API_KEY": "sk-telltaleApiKey6",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=telltaleAzure7",
    "RAY_AUTH_TOKEN": "7e111a1e" * 8,
}


@dataclass(frozen=True, slots=True)
class Done:
    """A finished run."""

    folder: Path  # the home folder's data, with the output
    rays: Path  # where Ray kept its sessions
    said: str  # on both standard streams
    seen: dict[str, Any]  # what `tests.security.inside` saw


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """Run the job in a UTS namespace of its own, whose host name can be chosen."""
    folder = tmp_path_factory.mktemp("secrets") / HOME
    (folder / "in").mkdir(parents=True)
    members = [("good.png", picture(form="PNG")), ("bad.png", b"<html>"), ("bad.mp4", b"<html>")]
    (folder / "in" / "a.tar").write_bytes(tar_bytes(members))
    made.checkpoint(folder / "checkpoint")
    (folder / "job.toml").write_text(made.job(f"{folder}/in/*.tar", folder / "checkpoint", folder / "out"))
    rays = Path(tempfile.mkdtemp(prefix="cm", dir="/tmp"))  # the paths of Ray's sockets must be short
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | KEYS
    environment |= {"HOME": str(folder), "RAY_TMPDIR": str(rays), "RAY_AUTH_MODE": "disabled"}
    inside = [
        sys.executable,
        "-m",
        "tests.security.inside",
        str(folder / "job.toml"),
        str(folder / "seen.json"),
    ]
    finished = subprocess.run(
        [*_renamed(), *inside],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stderr
    seen = json.loads((folder / "seen.json").read_text())
    yield Done(folder, rays, finished.stdout + finished.stderr, seen)
    shutil.rmtree(rays)


def _renamed() -> list[str]:
    """What runs a command under another host name; nothing where that is not allowed, as in some containers."""
    namespace = ["unshare", "--user", "--map-root-user", "--uts"]
    if shutil.which("unshare") and subprocess.run([*namespace, "true"], check=False).returncode == 0:
        return [*namespace, "sh", "-c", f'hostname {HOST}; exec "$@"', "-"]
    return []


def _written(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file, and of Parquet files also what is compressed in them."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.ParquetFile(path).read()
                yield path, repr((table.to_pylist(), table.schema.metadata)).encode()


def test_no_secret_is_in_the_output(done: Done) -> None:
    telltales = [*KEYS.values(), HOST, HOME]
    files = list(_written(done.folder / "out"))

    assert [
        (p, t)
        for p, data in files
        for t in telltales
        if t.encode() in data or t in str(p.relative_to(done.folder))
    ] == []
    assert len([path for path, _ in files if path.suffix == ".parquet"]) >= 6


def test_no_secret_is_said(done: Done) -> None:
    assert [telltale for telltale in (*KEYS.values(), HOST) if telltale in done.said] == []


def test_no_key_is_in_ray_s_logs_or_job_metadata(done: Done) -> None:
    """Folders and the host's name are there: they are Ray's own, and stay on this machine."""
    found = [
        (p, name) for p, data in _written(done.rays) for name, key in KEYS.items() if key.encode() in data
    ]

    assert list(done.rays.rglob("*.out"))
    assert found == []
    assert [name for name, key in KEYS.items() if key in done.seen["jobs"]] == []


def test_ray_listens_on_loopback_alone(done: Done) -> None:
    addresses = {address.removeprefix("::ffff:") for _, address in done.seen["listening"]}

    assert addresses == {"127.0.0.1"}
    assert {name for name, _ in done.seen["listening"]} >= {"gcs_server", "raylet"}


def test_who_lacks_the_token_is_refused(done: Done) -> None:
    """Also where the environment that the run was started in would have it otherwise."""
    assert done.seen["with_token"] == 0
    assert done.seen["without_token"] != 0
    assert done.seen["with_another_token"] != 0
