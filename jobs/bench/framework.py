"""What captionmill takes of a core beside decoding, resizing and the model.

Small JPEGs in tars of 1,000 on the local disk go through whole runs, from the first look at the shards to the published
table, with a replica that says nothing. Counted is the CPU time of every process, Ray's own included, over the run.
Taken off are what a run over one asset takes (once a run, processes start and import), and what decoding and cutting
the same pictures takes in this process. Ray itself is started before, once for all runs, and one run warms it up.

The start of a run takes 20 s of CPU, give or take one, in which the work on 1,000 assets is lost. So the same runs are
made without Ray Data, too, their steps one after the other in this process: what starts there takes one second.
"""

from __future__ import annotations

import io
import itertools
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
from jobs.bench import in_process
from jobs.bench.cpu import Spent, counted, own_s
from jobs.bench.figure import Details, Figure, Found, Spread
from jobs.bench.rounds import tell
from jobs.bench.subject import Options
from jobs.preflight import Ready, check
from jobs.run import Actors, actors, run
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
TIMES, LONG = 15, 10_000  # short runs in this process are made so often; not those of so many assets
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
    of process, what is left without both. `steps_s` is what the run takes without Ray Data, without all of these.
    """

    assets: int
    run_s: float
    start_s: float
    pixels_s: float
    own: Mapping[str, float]
    steps_s: float

    @property
    def each_us(self) -> float:
        """Microseconds of CPU per asset, without start, decoding and cutting."""
        return (self.run_s - self.start_s - self.pixels_s) / self.assets * 1e6

    @property
    def steps_us(self) -> float:
        """The same without Ray Data."""
        return self.steps_s / self.assets * 1e6

    def __str__(self) -> str:
        return f"{self.assets:,} assets {self.each_us:.0f} us each, without Ray Data {self.steps_us:.0f}"


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
    """What a run takes. Ray is connected."""
    with counted() as spent:
        run(ready, made_of(ready), Console(quiet=True))
        time.sleep(SETTLE_S)
    return spent


def steps_s(ready: Ready) -> float:
    """CPU seconds of the same without Ray Data, the decoder's included."""
    begun = own_s()
    in_process.run(ready, made_of(ready))
    return own_s() - begun


def made_of(ready: Ready) -> Actors:
    """The real actors, with a replica that says nothing. Ray is connected."""
    real = actors(ready)
    captioner = replace(real.captioner, kwargs={**real.captioner.kwargs, "replica": Null})
    return replace(real, captioner=captioner)


def costs(folder: Path, counts: Sequence[int]) -> list[Cost]:
    """One round: runs over one asset, then over each number of them. Ray is connected.

    The tars are written into `folder`, where they are not yet.
    """
    start = _taken(folder, 1)
    return [_cost(count, start, _taken(folder, count)) for count in counts]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a run takes with Ray Data; without, beside decoding and cutting its pictures; and these."""

    whole: Spent
    steps_s: float
    pixels_s: float


def _taken(folder: Path, count: int) -> _Taken:
    """By runs over so many assets."""
    shards = folder / str(count)
    if not shards.exists():
        write(shards, count)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        jobs = (read(JOB.format(folder=shards, output=Path(place) / f"{i}")) for i in itertools.count())
        ready = check(next(jobs))
        whole, times = spent_on(ready), 1 if count >= LONG else TIMES
        # In turns: the machine's pace changes by a tenth within seconds.
        pairs = [(steps_s(check(next(jobs))), pixels_s(shards, ready.geometry)) for _ in range(times)]
        steps = statistics.median(steps - pixels for steps, pixels in pairs)
        return _Taken(whole, steps, statistics.median(pixels for _, pixels in pairs))


def _cost(count: int, start: _Taken, taken: _Taken) -> Cost:
    before, after, pixels = _by_kind(start.whole), _by_kind(taken.whole), taken.pixels_s
    own = {kind: after[kind] - before[kind] for kind in after}
    own[DECODERS] -= pixels
    return Cost(count, taken.whole.total, start.whole.total, pixels, own, taken.steps_s - start.steps_s)


def _by_kind(spent: Spent) -> dict[str, float]:
    """CPU seconds of every kind of process."""
    kinds = dict.fromkeys([*KINDS.values(), REST], 0.0)
    kinds[REST] -= spent.looking
    for name, seconds in spent.by_name.items():
        kinds[next((kind for word, kind in KINDS.items() if word in name), REST)] += seconds
    return kinds


def _figures(costs: Sequence[Cost], first: Sequence[Cost]) -> list[Figure]:
    """Several runs over as many assets, beside as many over the least number of them: with Ray Data, and without."""

    def median(of: Callable[[Cost], float]) -> float:
        return statistics.median(map(of, costs))

    def figure(name: str, each_us: Callable[[Cost], float], besides: Details) -> Figure:
        each = Spread.of(map(each_us, costs))
        to_first = each.median / statistics.median(map(each_us, first))
        details = {"to the first": to_first, **besides}
        return Figure(f"{costs[0].assets:,} assets{name}", each, "us of CPU an asset", details=details)

    whole: Details = {
        "a run, s": median(lambda cost: cost.run_s),
        "its start, s": median(lambda cost: cost.start_s),
        "pixels, s": median(lambda cost: cost.pixels_s),
        **{
            kind: statistics.median(cost.own[kind] / cost.assets * 1e6 for cost in costs)
            for kind in costs[0].own
        },
    }
    return [
        figure("", lambda cost: cost.each_us, whole),
        figure(", without Ray Data", lambda cost: cost.steps_us, {}),
    ]


def measure(options: Options) -> Found:
    """CPU time per asset of runs of several sizes; the largest is `options.assets`, where given."""
    if options.subject.shards:
        return Found(NAME, "nothing", notes=["it makes pictures of its own; leave out --job"])
    counts = [*(count for count in COUNTS if count < (options.assets or MOST)), options.assets or MOST]
    with tempfile.TemporaryDirectory() as folder, session(Console(quiet=True)):
        costs(Path(folder), [])  # warm up
        done = list[list[Cost]]()
        for number in range(1, options.pairs + 1):
            done.append(costs(Path(folder), counts))
            tell(number, options.pairs, ", ".join(map(str, done[-1])))
    said = (
        f"JPEGs of {SIDES[0]} to {SIDES[1] - 1} pixels a side, seed {SEED}, demo checkpoint, local disk; CPU time of "
        f"all processes, without the start of a run, decoding and cutting, medians of {options.pairs} rounds"
    )
    sizes = list(zip(*done, strict=True))
    return Found(NAME, said, [figure for own in sizes for figure in _figures(own, sizes[0])])
