"""Many assets through `captionmill submit` and `ray job submit`, on four hosts with a token, beside a local run.

    python -m tests.cluster.submitted --assets 100000

The assets are those of `tests.bounds.million`, and the replicas doubles, in place of `captionmill` on the hosts' PATH.
Checked: both tables are the local run's, row by row, and `captionmill verify` is content. Printed: what passes from the
command to the first unit, part by part, and how long all takes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from tests import made
from tests.bounds.million import published, write, wrong
from tests.cluster.double_command import MARKS
from tests.cluster.hosts import Host, Hosts
from tests.faults.compare import Verdict, compare

ROOT = Path(__file__).parents[2]
STEPS = (
    "submission",
    "Ray starts the driver",
    "imports, job checked, Ray connected",
    "index",
    "plan",
    "actors, model",
    "first unit",
)


def cold_start(asked: float, submitted: float, marks: Path, output: Path) -> Iterator[tuple[str, float]]:
    """Each step with its seconds, from the command to the first unit."""
    noted = {word: float(at) for word, at in reversed([*map(str.split, marks.read_text().splitlines())])}
    indexed = max(path.stat().st_mtime for path in (output / "index").iterdir())
    (planned,) = (path.stat().st_mtime for path in output.glob("runs/*/plan.json"))
    first = pc.min(published(output, "captions")["created_at"]).as_py().timestamp()
    moments = [asked, submitted, noted["began"], noted["connected"], indexed, planned, noted["loaded"], first]
    for step, before, after in zip(STEPS, moments, moments[1:], strict=False):
        yield step, after - before


def submit(hosts: Hosts, job: Path) -> float:
    """Submit and follow; when the submission was accepted (UTC s)."""
    command = [sys.executable, "-m", "jobs", "submit", str(job), "--address", hosts.url]
    accepted = 0.0
    with subprocess.Popen(
        command, cwd=ROOT, env=hosts.client(), text=True, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr
        for line in process.stderr:
            accepted = accepted or time.time() * ("is submitted" in line)
            print(f"  {line}", end="", flush=True)
    assert process.returncode == 0
    return accepted


def plainly(hosts: Hosts, job: Path) -> None:
    """The same by Ray's own command."""
    command = ["ray", "job", "submit", "--address", hosts.url, "--working-dir", str(job.parent)]
    asked = [*command, "--entrypoint-num-cpus", "1", "--", "captionmill", "run", job.name]
    subprocess.run(
        asked, env=hosts.client(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def locally(job: Path, environment: Mapping[str, str]) -> None:
    """On this machine, with the same doubles."""
    own = {k: v for k, v in environment.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.cluster.double_command", "run", "--quiet", str(job)]
    subprocess.run(command, cwd=ROOT, env=own, check=True, stderr=subprocess.DEVNULL)


def harness(root: Path, assets: int) -> list[Verdict]:
    """All of it; what the two tables are, held against the local one."""
    truth = write(root / "in", assets)
    made.checkpoint(root / "checkpoint")
    jobs = {}
    for name in ("submitted", "plain", "local"):
        (root / f"{name}-job").mkdir()
        jobs[name] = root / f"{name}-job" / "job.toml"
        jobs[name].write_text(made.job(f"{root}/in/*.tar", root / "checkpoint", root / name, replicas=2))
    (root / "bin").mkdir()
    stand_in = root / "bin" / "captionmill"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.cluster.double_command "$@"\n')
    stand_in.chmod(0o755)
    worker = Host(cpus=2, gpus=2, labels={"kind": "gpu"})
    more = {MARKS: str(root / "marks")}
    with Hosts(Host(cpus=1), worker, worker, Host(cpus=2), environment=more, path=root / "bin") as hosts:
        asked = time.time()
        accepted = submit(hosts, jobs["submitted"])
        print(f"{assets:,} assets, captionmill submit: {time.time() - asked:.1f} s")
        for step, seconds in cold_start(asked, accepted, root / "marks", root / "submitted"):
            print(f"  {step:36} {seconds:6.1f} s", flush=True)
        tables = [published(root / "submitted", name) for name in ("captions", "failures")]
        print(f"  wrong or missing {wrong(truth, *tables)}", flush=True)
        begun = time.time()
        plainly(hosts, jobs["plain"])
        print(f"{assets:,} assets, ray job submit: {time.time() - begun:.1f} s", flush=True)
        environment = hosts.client()
    begun = time.time()
    locally(jobs["local"], environment)
    print(f"{assets:,} assets, local: {time.time() - begun:.1f} s", flush=True)
    verdicts = [compare(root / "local", root / name) for name in ("submitted", "plain")]
    print(*verdicts, sep="\n")
    return verdicts


def main(arguments: Sequence[str]) -> int:
    """The command line; 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.submitted")
    parser.add_argument("--assets", type=int, default=100_000)
    given = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp())
    try:
        return int(any(not verdict.good for verdict in harness(root, given.assets)))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
