"""What captionmill takes of a core beside decoding, resizing and the model.

Small JPEGs in tars of 1,000 on the local disk go through whole runs, from the first look at the shards to the
published table, with a replica that says nothing. Counted is the CPU time of every process, Ray's own included, while
actors have work: 15 s for processes that start, import and end would hide the work on 1,000 assets, 0.6 s. So at the
start of each step the run waits until its actors are there, decoders too, and all is at rest, and at its end until
they are gone; what is taken meanwhile is left out. Taken off are what else a run takes once, and what decoding and
cutting the same pictures takes in a process of its own. What a run takes once (0.5 s: the driver's own steps, first
calls, memory that is touched first, which in the object store goes on for several units) is known from runs over
three and twelve tars of a unit each: as much as one over none would take, were all units like those between. Ray
itself is started before, once for all runs, and one run warms it up.
"""

from __future__ import annotations

import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from rich.console import Console

from actors import preprocessor
from actors.meter import Meter
from actors.sandbox import prober
from jobs.bench.cpu import Spent, counted
from jobs.bench.figure import Details, Figure, Found, Spread
from jobs.bench.rounds import tell
from jobs.bench.subject import Options
from jobs.preflight import Ready, check
from jobs.run import Actors, actors, run
from jobs.session import session
from pipeline import flow, image, tar
from pipeline.anyres import Geometry
from pipeline.commit import Parts
from pipeline.config import GenerationConfig, ImageConfig, PromptConfig, UnitConfig, VideoConfig, read
from pipeline.draft import Probe
from pipeline.types import Caption, Finish, Media, Request, Sample

NAME = "framework"
COUNTS = (1_000, 10_000, 100_000)  # of assets
MOST = 10_000  # unless the user says otherwise
EACH = 1_000  # assets a shard
SIDES = (48, 81)  # pixels
FEW, MORE = 3, 12  # tars of a unit each: what runs over them take says what a run over none would
UNIT = UnitConfig().max_assets
SEED = 0
DECODERS, REST = "decoders", "driver, Ray, publishing"
KINDS = {  # by what is in a command line
    "MapBatches(Indexer)": "indexers",
    "MapBatches(Preprocessor)": "preprocessors",
    "actors.sandboxed": DECODERS,
    "MapBatches(Captioner)": "captioners",
    "MapBatches(Committer)": "committers",
}
TIMES, LONG = 4, 10_000  # runs are made so often a round; not those of so many assets
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
preprocessors = 1
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


class Preprocessor(preprocessor.Preprocessor):
    """The real one, whose decoder is there before the first unit."""

    def __init__(
        self, image: ImageConfig, video: VideoConfig, geometry: Geometry, parts: Parts | None = None
    ) -> None:
        super().__init__(image, video, geometry, parts)
        self._sandbox.view(Media.IMAGE, [_first()])


def probes(image: ImageConfig, video: VideoConfig) -> Probe:
    """As `prober`, whose child is there before the first shard."""
    probe = prober(image, video)
    probe([(Media.IMAGE, _first())])
    return probe


class AtWork(ExecutionCallback):
    """Leaves out what a dataset's actors take to start and to end.

    They get no work until all is at rest, and when they have done it, all is at rest before the run goes on.
    """

    spent: ClassVar[Spent]

    def __init__(self) -> None:
        self._apart = ExitStack()
        self._starting = self._ending = False

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Before its actors are started."""
        self._starting = True
        self._apart.enter_context(self.spent.left_out())

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """In the thread that gives them work."""
        if self._starting:
            self._go_on()
            self._starting = False
        elif not self._ending and all(o.has_execution_finished() for o in executor._topology or ()):
            self._ending = True
            self._apart.enter_context(self.spent.left_out())

    def after_execution_succeeds(self, executor: StreamingExecutor) -> None:
        """When they have been told to end."""
        self._go_on()

    def _go_on(self) -> None:
        self.spent.at_rest()
        self._apart.close()


@dataclass(frozen=True, slots=True)
class Taken:
    """CPU seconds that runs take while their actors have work, in medians, by kind of process.

    `start_s` is what they take to start and to end, `pixels_s` what decoding and cutting their pictures takes.
    """

    by_kind: Mapping[str, float]
    total_s: float
    start_s: float
    pixels_s: float

    @classmethod
    def of(cls, runs: Sequence[Taken]) -> Taken:
        """The medians of several."""

        def median(of: Callable[[Taken], float]) -> float:
            return statistics.median(map(of, runs))

        kinds = {kind: statistics.median(run.by_kind[kind] for run in runs) for kind in runs[0].by_kind}
        return cls(
            kinds,
            median(lambda run: run.total_s),
            median(lambda run: run.start_s),
            median(lambda run: run.pixels_s),
        )

    def of_none(self, more: Taken) -> Taken:
        """Of no tars, where this is of `FEW` and the other of `MORE`: what a run takes once."""

        def none(few: float, more: float) -> float:
            return few - (more - few) / (MORE - FEW) * FEW

        return Taken(
            {kind: none(few, more.by_kind[kind]) for kind, few in self.by_kind.items()},
            none(self.total_s, more.total_s),
            none(self.start_s, more.start_s),
            none(self.pixels_s, more.pixels_s),
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs take over so many assets, beside what they would take over none, decoding and cutting taken off."""

    assets: int
    taken: Taken
    none: Taken

    @property
    def each_us(self) -> float:
        """Microseconds of CPU per asset, without start, decoding and cutting."""
        pixels = self.taken.pixels_s - self.none.pixels_s
        return self._each_us(self.taken.total_s - self.none.total_s - pixels)

    def kind_us(self, kind: str) -> float:
        """The part of `each_us` that is one kind of process's."""
        pixels = self.taken.pixels_s - self.none.pixels_s if kind == DECODERS else 0.0
        return self._each_us(self.taken.by_kind[kind] - self.none.by_kind[kind] - pixels)

    def _each_us(self, seconds: float) -> float:
        return seconds / self.assets * 1e6

    def __str__(self) -> str:
        return f"{self.assets:,} assets {self.each_us:.0f} us each"


def write(folder: Path, count: int, each: int = EACH) -> None:
    """Tars of `each` of `count` small JPEGs of noise, of all sizes between `SIDES`."""
    folder.mkdir()
    for first in range(0, count, each):
        dice = np.random.default_rng([SEED, first])
        with tarfile.open(folder / f"{first:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for number in range(first, min(first + each, count)):
                data = _jpeg(dice)
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def _first() -> bytes:
    """Of no tar: what each decoder is asked of first."""
    return _jpeg(np.random.default_rng(SEED))


def _jpeg(dice: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    height, width = dice.integers(*SIDES, 2)
    Image.fromarray(dice.integers(0, 256, (height, width, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def pixels_s(folder: Path, geometry: Geometry) -> float:
    """CPU seconds to decode and cut every picture of the tars: in a new process, as the decoder is one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_pixels_s, folder, geometry).result()


def _pixels_s(folder: Path, geometry: Geometry) -> float:
    limits, spent = ImageConfig(), 0.0
    geometry.cut(image.decode(_first(), limits), Media.IMAGE)
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
    made = made_of(ready)  # an actor starts, too: the ledger
    Spent().at_rest()  # after the run before, Ray ends its processes and starts others in their place
    with counted() as spent, flow.called_back(AtWork):
        AtWork.spent = spent
        run(ready, made, Console(quiet=True))
    return spent


def made_of(ready: Ready) -> Actors:
    """The real actors, with a replica that says nothing. Ray is connected."""
    real, job = actors(ready), ready.job
    return Actors(
        flow.Actor(
            real.indexer.cls, {**real.indexer.kwargs, "probe_factory": partial(probes, job.image, job.video)}
        ),
        flow.Actor(Preprocessor, real.preprocessor.kwargs),
        flow.Actor(real.captioner.cls, {**real.captioner.kwargs, "replica": Null}),
    )


def costs(folder: Path, counts: Sequence[int], times: int = TIMES) -> list[Cost]:
    """One round: runs over few tars of a unit and over each number of assets, by turns. Ray is connected.

    The tars are written into `folder`, where they are not yet.
    """
    each = {FEW * UNIT: UNIT, MORE * UNIT: UNIT, **dict.fromkeys(counts, EACH)}
    taken: dict[int, list[Taken]] = {count: [] for count in each}
    for number in range(times):
        for count, runs in taken.items():
            shards = folder / str(count)
            if not shards.exists():
                write(shards, count, each[count])
            if not number or count < LONG:
                runs.append(_taken(shards))
    none = Taken.of(taken[FEW * UNIT]).of_none(Taken.of(taken[MORE * UNIT]))
    return [Cost(count, Taken.of(taken[count]), none) for count in counts]


def _taken(shards: Path) -> Taken:
    """By one run."""
    with tempfile.TemporaryDirectory(dir=shards.parent) as place:
        ready = check(read(JOB.format(folder=shards, output=Path(place) / "out")))
        spent = spent_on(ready)
    return Taken(_by_kind(spent), spent.total, spent.left_out_s, pixels_s(shards, ready.geometry))


def _by_kind(spent: Spent) -> dict[str, float]:
    """CPU seconds of every kind of process."""
    kinds = dict.fromkeys([*KINDS.values(), REST], 0.0)
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
        "a run, s": median(lambda cost: cost.taken.start_s + cost.taken.total_s),
        "its start, s": median(lambda cost: cost.taken.start_s + cost.none.total_s),
        "pixels, s": median(lambda cost: cost.taken.pixels_s),
        **{kind: statistics.median(c.kind_us(kind) for c in costs) for kind in costs[0].taken.by_kind},
    }
    return Figure(f"{costs[0].assets:,} assets", each, "us of CPU an asset", details=details)


def measure(options: Options) -> Found:
    """CPU time per asset of runs of several sizes; the largest is `options.assets`, where given."""
    if options.subject.shards:
        return Found(NAME, "nothing", notes=["it makes pictures of its own; leave out --job"])
    counts = [*(count for count in COUNTS if count < (options.assets or MOST)), options.assets or MOST]
    with tempfile.TemporaryDirectory() as folder, session(Console(quiet=True)):
        costs(Path(folder), [], times=1)  # warm up
        done = list[list[Cost]]()
        for number in range(1, options.pairs + 1):
            done.append(costs(Path(folder), counts))
            tell(number, options.pairs, ", ".join(map(str, done[-1])))
    said = (
        f"JPEGs of {SIDES[0]} to {SIDES[1] - 1} pixels a side, seed {SEED}, demo checkpoint, local disk; CPU time of "
        f"all processes, without the start of a run, decoding and cutting, medians of {options.pairs} rounds"
    )
    sizes = list(zip(*done, strict=True))
    return Found(NAME, said, [_figure(own, sizes[0]) for own in sizes])
