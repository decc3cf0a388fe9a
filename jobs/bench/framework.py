"""What captionmill takes of a core beside decoding, resizing and the model.

Small JPEGs in tars of 1,000 on the local disk go through whole runs, from the first look at the shards to the published
table, with a replica that says nothing. Counted is the CPU time of every process, Ray's own included, while actors have
work: what a run takes once, 15 s for processes that start, import and end, would hide the work on 1,000 assets, 0.5 s.
So at the start of each step the run waits until its actors are there, decoders too, and all is at rest, and at its end
until they are gone; what is taken meanwhile is left out. Taken off are what a run over one asset takes, counted alike,
and what decoding and cutting the same pictures takes in a process of its own. Ray itself is started before, once for
all runs, and one run warms it up.

The same runs are made without Ray Data, too, their steps one after the other in this process.
"""

from __future__ import annotations

import gc
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
from jobs.bench import in_process
from jobs.bench.cpu import Spent, counted, own_s
from jobs.bench.figure import Details, Figure, Found, Spread
from jobs.bench.rounds import tell
from jobs.bench.subject import Options
from jobs.preflight import Ready, check
from jobs.run import Actors, actors, run
from jobs.session import session
from pipeline import flow, image, tar
from pipeline.anyres import Geometry
from pipeline.commit import Parts
from pipeline.config import GenerationConfig, ImageConfig, PromptConfig, VideoConfig, read
from pipeline.draft import Probe
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
        self._started = False

    def before_execution_starts(self, executor: StreamingExecutor) -> None:
        """Before its actors are started."""
        self._leave_out()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """In the thread that gives them work."""
        if not self._started:
            self._go_on()
            self._started = True
        elif all(operator.has_execution_finished() for operator in executor._topology or ()):
            self._leave_out()

    def after_execution_succeeds(self, executor: StreamingExecutor) -> None:
        """When they have been told to end."""
        self._go_on()

    def _leave_out(self) -> None:
        self._apart.enter_context(self.spent.left_out())

    def _go_on(self) -> None:
        self.spent.at_rest()
        self._apart.close()


@dataclass(frozen=True, slots=True)
class Taken:
    """CPU seconds that runs take while their actors have work, in medians, by kind of process.

    `start_s` is what they take to start and to end; `steps_s` what they take without Ray Data, and without decoding
    and cutting their pictures, which takes `pixels_s`.
    """

    by_kind: Mapping[str, float]
    total_s: float
    start_s: float
    steps_s: float
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
            median(lambda run: run.steps_s),
            median(lambda run: run.pixels_s),
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs take over so many assets, beside what they take over one."""

    assets: int
    taken: Taken
    one: Taken

    @property
    def each_us(self) -> float:
        """Microseconds of CPU per asset, without start, decoding and cutting."""
        return self._each_us(self.taken.total_s - self.one.total_s - self.taken.pixels_s)

    @property
    def steps_us(self) -> float:
        """The same without Ray Data."""
        return self._each_us(self.taken.steps_s - self.one.steps_s)

    def kind_us(self, kind: str) -> float:
        """The part of `each_us` that is one kind of process's."""
        pixels = self.taken.pixels_s if kind == DECODERS else 0.0
        return self._each_us(self.taken.by_kind[kind] - self.one.by_kind[kind] - pixels)

    def _each_us(self, seconds: float) -> float:
        return seconds / self.assets * 1e6

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
    gc.collect()  # 0.2 s, which is else in one run and not in another
    Spent().at_rest()  # after the run before, Ray ends its processes and starts others in their place
    with counted() as spent, flow.called_back(AtWork):
        AtWork.spent = spent
        run(ready, made, Console(quiet=True))
    return spent


def steps_s(ready: Ready) -> float:
    """CPU seconds of the same without Ray Data, the decoder's included."""
    begun = own_s()
    in_process.run(ready, made_of(ready))
    return own_s() - begun


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
    """One round: runs over one asset and over each number of them, by turns. Ray is connected.

    The tars are written into `folder`, where they are not yet.
    """
    taken: dict[int, list[Taken]] = {count: [] for count in (1, *counts)}
    for count in taken:
        if not (folder / str(count)).exists():
            write(folder / str(count), count)
    for number in range(times):
        for count, runs in taken.items():
            if not number or count < LONG:
                runs.append(_taken(folder, count))
    one = Taken.of(taken[1])
    return [Cost(count, Taken.of(taken[count]), one) for count in counts]


def _taken(folder: Path, count: int) -> Taken:
    """By one run with Ray Data, and one without."""
    shards = folder / str(count)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        first, second = (check(read(JOB.format(folder=shards, output=Path(place) / name))) for name in "ab")
        spent, steps, pixels = spent_on(first), steps_s(second), pixels_s(shards, first.geometry)
    return Taken(_by_kind(spent), spent.total, spent.left_out_s, steps - pixels, pixels)


def _by_kind(spent: Spent) -> dict[str, float]:
    """CPU seconds of every kind of process."""
    kinds = dict.fromkeys([*KINDS.values(), REST], 0.0)
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
        "a run, s": median(lambda cost: cost.taken.start_s + cost.taken.total_s),
        "its start, s": median(lambda cost: cost.taken.start_s + cost.one.total_s),
        "pixels, s": median(lambda cost: cost.taken.pixels_s),
        **{kind: statistics.median(c.kind_us(kind) for c in costs) for kind in costs[0].taken.by_kind},
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
    return Found(NAME, said, [figure for own in sizes for figure in _figures(own, sizes[0])])
