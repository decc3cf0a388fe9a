"""The small job that is disturbed: 400 assets, some of them bad, in about 50 units."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests import made

SHARDS, EACH, UNIT = 4, 100, 8
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
gpus_per_replica = 0
"""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where one job's files are, below the root of all."""

    root: Path
    name: str

    @property
    def output(self) -> Path:
        """What the job writes."""
        return self.root / self.name / "out"

    @property
    def job(self) -> Path:
        """The job file."""
        return self.root / self.name / "job.toml"

    @property
    def diary(self) -> Path:
        """The units that captioners began."""
        return self.root / self.name / "diary"

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
        self.job.parent.mkdir()
        self.job.write_text(JOB.format(input=self.root / "input", unit=UNIT, output=self.output))

    def parts(self) -> set[str]:
        """The units that have a part now."""
        return {p.stem for p in self.output.glob("runs/*/units/*.parquet")}

    def planned(self) -> bool:
        """Whether there is a plan, and so every index."""
        return any(self.output.glob("runs/*/plan.json"))

    def published(self) -> bool:
        """Whether there is a manifest."""
        return any(self.output.glob("runs/*/manifest.json"))

    def begun(self) -> list[str]:
        """The units that captioners began, in time, each as often as it was begun."""
        text = self.diary.read_text() if self.diary.exists() else ""
        return text.split()


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
