"""The small job that is disturbed: 400 assets, some of them bad, in about 50 units."""

from __future__ import annotations

import io
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline import storage
from tests import made

SHARDS, EACH, UNIT = 2, 200, 8  # few shards: each may have an indexer of its own, 3 s of a core
BAD_EVERY = 23
JOB = """
[input]
dataset = "colours"
uris = ["{input}/*.tar"]
[model]
path = "{input}/checkpoint"
[[prompt]]
id = "short"
text = "What is it?"
[[prompt]]
id = "long"
text = "Describe the image in detail."
[unit]
max_assets = {unit}
[output]
uri = "{output}"
[cluster]
replicas = 2
gpus_per_replica = 1
preprocessors = 2
"""


@dataclass(frozen=True, slots=True)
class Begun:
    """A unit that a captioner began: when it found no part of it (UTC s), and for which driver (a process)."""

    at: float
    driver: int
    unit_id: str


@dataclass(frozen=True, slots=True)
class Folder:
    """Where one job's files are: below the root of all, but for the output where that has a place on a store."""

    root: Path
    name: str
    store: str = ""

    @property
    def home(self) -> Path:
        """What is on this machine."""
        return self.root / self.name

    @property
    def output(self) -> str:
        """What the job writes."""
        return storage.join(self.store or str(self.root), self.name, "out")

    @property
    def job(self) -> Path:
        """The job file."""
        return self.home / "job.toml"

    @property
    def diary(self) -> Path:
        """The units that captioners began (`tests.faults.driver`)."""
        return self.home / "diary"

    @property
    def assets(self) -> int:
        """Of the job."""
        return SHARDS * EACH

    @property
    def units(self) -> int:
        """Of the job."""
        return SHARDS * -(-EACH // UNIT)

    def make(self) -> None:
        """Write the job file."""
        self.home.mkdir()
        self.job.write_text(JOB.format(input=self.root / "input", unit=UNIT, output=self.output))

    def look(self) -> dict[str, float]:
        """The objects of the run by name, each with a time (UTC s) at which it was there: the first that is known.

        Names are `plan.json`, `manifest.json` and `units/<unit_id>.parquet`.
        """
        runs = storage.listing(storage.join(self.output, "runs"))
        found = {e.name.partition("/")[2]: time.time() if self.store else _linked(Path(e.uri)) for e in runs}
        return {name: at for name, at in found.items() if at}

    def begun(self) -> list[Begun]:
        """The units that captioners began, each as often as it was begun."""
        lines = self.diary.read_text().splitlines() if self.diary.exists() else []
        return [Begun(float(at), int(driver), unit) for at, driver, unit in map(str.split, lines)]

    def local(self) -> Path:
        """The output on this machine: itself, or a copy."""
        if not self.store:
            return Path(self.output)
        for entry in storage.listing(self.output):
            path = self.home / "copy" / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.read(entry.uri))
        return self.home / "copy"


def _linked(path: Path) -> float:
    """When a file got its name, or 0 where it has none any more."""
    try:
        return path.stat().st_ctime  # not mtime: what is written is given its name later
    except FileNotFoundError:
        return 0.0


def corpus(folder: Path) -> None:
    """Shards of small pictures, each of a colour and size of its own, and a checkpoint for doubles."""
    made.checkpoint(folder / "checkpoint")
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for place in range(EACH):
                data = _picture(shard * EACH + place)
                entry = tarfile.TarInfo(f"{place:05d}.png")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _picture(number: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (16 + number % 25, 16 + number % 15), (number % 256, number // 256, 77)).save(
        sink, "PNG"
    )
    whole = sink.getvalue()
    return whole[: len(whole) // 2] if number % BAD_EVERY == 0 else whole
