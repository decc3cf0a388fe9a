"""What captionmill takes of a core beside decoding, resizing and the model.

    python -m jobs.bench.framework [--assets N ...] [--rounds N]

Small JPEGs in tars of 1,000 on the local disk go through whole runs, from the first look at the shards to the published
table, with a replica that says nothing. Counted is the CPU time of every process, Ray's own included, over the run.
Two things are taken off and shown: what a run over one asset takes (processes that start and import, once a run), and
what decoding and cutting the same pictures takes in this process. Ray itself is started before, once for all runs.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from jobs.bench.cpu import Spent, counted
from jobs.preflight import Ready, check
from jobs.run import actors, run
from jobs.session import session
from pipeline import image, tar
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ImageConfig, PromptConfig, read
from pipeline.types import Caption, Finish, Media, Request, Sample

COUNTS = (1_000, 10_000, 100_000)
EACH = 1_000  # assets a shard
SIDES = (48, 81)  # pixels
SEED = 0
SETTLE_S = 3.0  # after a run, in which Ray ends its processes and starts others in their place
JOB = """
[input]
dataset = "bench"
uris = ["{folder}/*.tar"]
[model]
path = "demo"
[[prompt]]
id = "short"
text = "What is it?"
[output]
uri = "{output}"
[cluster]
gpus_per_replica = 0
"""


class Null:
    """A replica that says nothing at once."""

    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        """A prompt of one token."""
        return Request(sample, prompt.id, (0,), 0)

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig
    ) -> Iterator[tuple[int, Caption]]:
        """An empty caption each."""
        for number in range(len(requests)):
            yield number, Caption("", (0,), Finish.STOP, 0.0, 1, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of one run over `assets` assets, of a run over one, and of decoding and cutting the pictures.

    `by_process` is what kinds of processes took, a run over one asset taken off.
    """

    assets: int
    run_s: float
    start_s: float
    pixels_s: float
    by_process: Mapping[str, float]

    @property
    def overhead_us(self) -> float:
        """Microseconds of CPU per asset."""
        return (self.run_s - self.start_s - self.pixels_s) / self.assets * 1e6


def write(folder: Path, count: int) -> None:
    """Tars of `count` small JPEGs of noise, of all sizes between `SIDES`."""
    folder.mkdir()
    for first in range(0, count, EACH):
        dice = np.random.default_rng([SEED, first])
        with tarfile.open(folder / f"{first:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for number in range(first, min(first + EACH, count)):
                data = _jpeg(dice)
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def _jpeg(dice: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    height, width = dice.integers(*SIDES, 2)
    Image.fromarray(dice.integers(0, 256, (height, width, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def pixels_s(folder: Path, geometry: Geometry) -> float:
    """CPU seconds to decode and cut every picture of the tars, as the decoder's child does."""
    limits, spent = ImageConfig(), 0.0
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            pictures = [stream.read(header.size) for header in tar.members(stream)]
        begun = time.process_time()
        for data in pictures:
            geometry.cut(image.decode(data, limits), Media.IMAGE)
        spent += time.process_time() - begun
    return spent


def spent_on(ready: Ready) -> Spent:
    """What a run takes with a replica that says nothing. Ray is connected."""
    made_of = actors(ready)
    captioner = replace(made_of.captioner, kwargs={**made_of.captioner.kwargs, "replica": Null})
    with counted() as spent:
        run(ready, replace(made_of, captioner=captioner), Console(quiet=True))
        time.sleep(SETTLE_S)
    return spent


def measure(folder: Path, counts: Sequence[int]) -> list[Cost]:
    """One round: a run over one asset, then one over each number of them. Ray is connected; `folder` is empty."""
    start, costs = _counted(folder, 1)[0], []
    for count in counts:
        spent, pixels = _counted(folder, count)
        by_process = Counter(_kinds(spent))
        by_process.subtract(_kinds(start))
        costs.append(Cost(count, spent.total, start.total, pixels, by_process))
    return costs


def _counted(folder: Path, count: int) -> tuple[Spent, float]:
    """What a run over so many assets takes, and decoding and cutting them."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        shards = Path(place) / "in"
        write(shards, count)
        ready = check(read(JOB.format(folder=shards, output=Path(place) / "out")))
        return spent_on(ready), pixels_s(shards, ready.geometry)


def _kinds(spent: Spent) -> Counter[str]:
    kinds = Counter[str]()
    for name, seconds in spent.by_name.items():
        kinds[name[:60]] += seconds
    return kinds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--assets", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--rounds", type=int, default=5)
    given, console = parser.parse_args(), Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder, session(Console(quiet=True)):
        rounds = [measure(Path(folder), given.assets) for _ in range(given.rounds)]
    for costs in zip(*rounds, strict=True):
        for c in costs:
            console.print(
                f"{c.assets:9,} run {c.run_s:.2f} start {c.start_s:.2f} pixels {c.pixels_s:.2f}: {c.overhead_us:.0f} us/asset"
            )
            for name, s in Counter(c.by_process).most_common(12):
                console.print(f"    {s / c.assets * 1e6:8.1f} {name}")


if __name__ == "__main__":
    main()
