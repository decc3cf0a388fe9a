"""What captionmill takes of a core beside decoding, resizing and the model.

Small JPEGs in tars of 1,000 on the local disk go through whole runs, from the first look at the shards to the published
table, with a replica that says nothing. Counted is the CPU time of every process, Ray's own included, over the run.
Taken off are what a run over one asset takes (once a run, processes start and import), and what decoding and cutting
the same pictures takes in this process. Ray itself is started before, once for all runs, and one run warms it up.
"""

from __future__ import annotations

import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from actors.meter import Meter
from jobs.bench.cpu import Spent, counted
from jobs.bench.figure import Details, Figure, Found, Spread
from jobs.bench.subject import Options
from jobs.preflight import Ready, check
from jobs.run import actors, run
from jobs.session import session
from pipeline import image, tar
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ImageConfig, PromptConfig, read
from pipeline.types import Caption, Finish, Media, Request, Sample

NAME = "framework"
COUNTS = (1_000, 10_000, 100_000)  # of assets
MOST = 10_000  # unless the user says otherwise
EACH = 1_000  # assets a shard
SIDES = (48, 81)  # pixels
SEED = 0
DECODERS, REST = "decoders", "driver, Ray, publishing"
KINDS = {  # by what is in a command line
    "MapBatches(Indexer)": "indexers",
    "MapBatches(Preprocessor)": "preprocessors",
    "actors.sandboxed": DECODERS,
    "MapBatches(Captioner)": "captioners",
    "MapBatches(Committer)": "committers",
}
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
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        """An empty caption each."""
        for number in range(len(requests)):
            yield number, Caption("", (0,), Finish.STOP, 0.0, 1, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of one run over `assets` assets.

    `start_s` is what a run over one asset takes, `pixels_s` decoding and cutting the same pictures. `own` has, by kind
    of process, what is left without both.
    """

    assets: int
    run_s: float
    start_s: float
    pixels_s: float
    own: Mapping[str, float]

    @property
    def each_us(self) -> float:
        """Microseconds of CPU per asset, without start, decoding and cutting."""
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


def costs(folder: Path, counts: Sequence[int]) -> list[Cost]:
    """One round: a run over one asset, then one over each number of them. Ray is connected."""
    start, _ = _counted(folder, 1)
    return [_cost(count, start, *_counted(folder, count)) for count in counts]


def _counted(folder: Path, count: int) -> tuple[Spent, float]:
    """What a run over so many assets takes, and decoding and cutting them."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        shards = Path(place) / "in"
        write(shards, count)
        ready = check(read(JOB.format(folder=shards, output=Path(place) / "out")))
        return spent_on(ready), pixels_s(shards, ready.geometry)


def _cost(count: int, start: Spent, spent: Spent, pixels: float) -> Cost:
    before, after = _by_kind(start), _by_kind(spent)
    own = {kind: after[kind] - before[kind] for kind in after}
    own[DECODERS] -= pixels
    return Cost(count, spent.total, start.total, pixels, own)


def _by_kind(spent: Spent) -> dict[str, float]:
    """CPU seconds of every kind of process."""
    kinds = dict.fromkeys([*KINDS.values(), REST], 0.0)
    kinds[REST] -= spent.looking
    for name, seconds in spent.by_name.items():
        kinds[next((kind for word, kind in KINDS.items() if word in name), REST)] += seconds
    return kinds


def _figure(costs: Sequence[Cost], first: Sequence[Cost]) -> Figure:
    """Several runs over as many assets, beside as many over the least number of them."""

    def median(of: Callable[[Cost], float]) -> float:
        return statistics.median(map(of, costs))

    each = Spread.of(cost.each_us for cost in costs)
    details: Details = {
        "to the first": each.median / statistics.median(cost.each_us for cost in first),
        "a run, s": median(lambda cost: cost.run_s),
        "its start, s": median(lambda cost: cost.start_s),
        "pixels, s": median(lambda cost: cost.pixels_s),
        **{
            kind: statistics.median(cost.own[kind] / cost.assets * 1e6 for cost in costs)
            for kind in costs[0].own
        },
    }
    return Figure(f"{costs[0].assets:,} assets", each, "us of CPU an asset", details=details)


def measure(options: Options) -> Found:
    """CPU time per asset of runs of several sizes; the largest is `options.assets`, where given."""
    if options.subject.shards:
        return Found(NAME, "nothing", notes=["it makes pictures of its own; leave out --job"])
    counts = [*(count for count in COUNTS if count < (options.assets or MOST)), options.assets or MOST]
    with tempfile.TemporaryDirectory() as folder, session(Console(quiet=True)):
        costs(Path(folder), [])  # warm up
        done = [costs(Path(folder), counts) for _ in range(options.pairs)]
    said = (
        f"JPEGs of {SIDES[0]} to {SIDES[1] - 1} pixels a side, seed {SEED}, demo checkpoint, local disk; CPU time of "
        f"all processes, without the start of a run, decoding and cutting, medians of {options.pairs} rounds"
    )
    sizes = list(zip(*done, strict=True))
    return Found(NAME, said, [_figure(own, sizes[0]) for own in sizes])
