"""Bounds: the memory of actors over 50,000 images and 1,000 clips, in each process that Ray would start for them.

    python -m tests.bounds.memory --images 50000 --clips 1000 --captions 5000

100 shards of 10 contents: JPEG and PNG of 64 to 400 pixels, every 97th cut short, and clips of 1 to 3 s. Each actor
is called in a process of its own as Ray calls it, with one-row tables: the indexer and the preprocessor, whose
decoders are children of theirs; the captioner with a double, over all of them, and with the shipped checkpoint on one
thread, over `--captions`. Printed is the memory of each process, actor and decoder, in MiB: resident, and in brackets
what is its alone. After the first tenth (warm-up) is the median over the second, at the end that over the last. A
decoder is replaced after 5,000 calls; what is compared then are two of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image

from actors import checkpoint
from actors.captioner import Captioner, Generator
from actors.indexer import Indexer
from actors.preprocessor import Preprocessor
from actors.sandbox import prober
from jobs.preflight import DEMO
from pipeline import messages
from pipeline.config import GenerationConfig, ImageConfig, InputConfig, ModelConfig, PromptConfig, VideoConfig
from pipeline.index import index_uri, read_index
from pipeline.shards import list_shards
from pipeline.types import Cost, Shard, Turn, Unit
from tests.double import Double
from tests.films import Film

ROOT = Path(__file__).parents[2]
SHARDS, CONTENTS = 100, 10
UNIT = 64  # assets
BAD_EVERY = 97
GROWTH = 0.05  # the bound
IMAGE, VIDEO = ImageConfig(), VideoConfig()
PROMPT = PromptConfig("short", (Turn("user", "Describe the image."),))
SETTINGS = GenerationConfig(max_new_tokens=32)


def write_shards(folder: Path, images: int, clips: int) -> None:
    """Tars of so many assets together, each content under ten names."""
    rng = np.random.default_rng(0)
    for content in range(CONTENTS):
        first = folder / f"{content:03d}.tar"
        with tarfile.open(first, "w") as tar:
            for i in range(images // SHARDS):
                _add(tar, f"i{i:05d}", *_image(rng, i))
            for i in range(clips // SHARDS):
                frames = int(rng.integers(25, 75))
                _add(tar, f"v{i:05d}", "mp4", Film(times_ms=range(0, 40 * frames, 40)).data())
        for name in range(content + CONTENTS, SHARDS, CONTENTS):
            os.link(first, folder / f"{name:03d}.tar")


def _image(rng: np.random.Generator, i: int) -> tuple[str, bytes]:
    """Extension and bytes of a picture that is neither flat nor noise."""
    width, height = (int(n) for n in rng.integers(64, 401, 2))
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    kind, extension = ("PNG", "png") if i % 3 == 0 else ("JPEG", "jpg")
    sink = io.BytesIO()
    small.resize((width, height)).save(sink, kind)
    data = sink.getvalue()
    return extension, data[: len(data) // 2] if i % BAD_EVERY == 0 else data


def _add(tar: tarfile.TarFile, key: str, extension: str, data: bytes) -> None:
    entry = tarfile.TarInfo(f"{key}.{extension}")
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder with shards, an output and the units that the preprocessor prepared first."""

    folder: Path

    @property
    def shards(self) -> list[Shard]:
        return list_shards([f"{self.folder}/*.tar"])

    @property
    def config(self) -> InputConfig:
        return InputConfig("bounds", (f"{self.folder}/*.tar",))

    @property
    def output(self) -> str:
        return str(self.folder / "out")

    def index(self) -> Iterator[int]:
        """Index the shards; yields 1 for each."""
        indexer = Indexer(self.output, self.config, partial(prober, IMAGE, VIDEO))
        for shard in self.shards:
            indexer(messages.shard_to_table(shard))
            yield 1

    def prepare(self) -> Iterator[int]:
        """Prepare the units, and keep those of the first shards; yields 1 for each."""
        kept = self.folder / "prepared"
        kept.mkdir()
        with Preprocessor(IMAGE, VIDEO, checkpoint.geometry(DEMO)) as preprocessor:
            for number, shard in enumerate(self.shards):
                uri = index_uri(self.output, shard, self.config)
                for first in range(0, len(read_index(uri, 0, 1 << 30)), UNIT):
                    count = len(read_index(uri, first, UNIT))
                    unit = Unit(f"{number:06d}-{first:08d}-{count:05d}", shard, first, count, Cost(0, 0, 0))
                    table = preprocessor(messages.unit_to_table(unit, uri))
                    if number < CONTENTS:
                        with pa.ipc.new_file(str(kept / f"{unit.unit_id}.arrow"), table.schema) as file:
                            file.write_table(table)
                    yield 1

    def caption(self, replica: Callable[[], Generator], assets: int) -> Iterator[int]:
        """Caption prepared units, over and over until there were so many assets; yields 1 for each."""
        captioner = Captioner(replica, (PROMPT,), SETTINGS)
        files = sorted((self.folder / "prepared").iterdir())
        for turn in range(assets // UNIT):
            with pa.ipc.open_file(files[turn % len(files)].read_bytes()) as file:
                captioner(file.read_all())
            yield 1


@dataclass(frozen=True, slots=True)
class Watch:
    """Memory of this process and its decoder in bytes, (resident, its alone), at the start and after each call."""

    seen: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def look(self) -> None:
        """Look now."""
        me = psutil.Process()
        for name, process in [("actor", me), *(("decoder", child) for child in me.children())]:
            memory = process.memory_full_info()
            self.seen[name].append((memory.rss, memory.uss))


def _replica() -> Generator:
    from actors.replica import load

    model = ModelConfig(str(DEMO), dtype="float32", threads=1)
    return load(model, checkpoint.geometry(DEMO), SETTINGS.max_new_tokens, 0.0)


def watched(role: str, folder: Path, assets: int) -> dict[str, list[tuple[int, int]]]:
    """Play a role in this process, and watch its memory."""
    bench, watch = Bench(folder), Watch()
    steps: dict[str, Callable[[], Iterator[int]]] = {
        "indexer": bench.index,
        "preprocessor": bench.prepare,
        "captioner, double": partial(bench.caption, Double, assets),
        "captioner, model": partial(bench.caption, _replica, assets),
    }
    watch.look()
    for _ in steps[role]():
        watch.look()
    return watch.seen


def apart(role: str, folder: Path, assets: int) -> dict[str, list[tuple[int, int]]]:
    """`watched` in a new process."""
    command = [sys.executable, "-m", "tests.bounds.memory", "--role", role]
    command += ["--folder", str(folder), "--captions", str(assets)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[tuple[int, int]]] = json.loads(done.stdout)
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one process and one measure, in bytes."""

    start: float
    warm: float
    end: float

    @classmethod
    def of(cls, seen: Sequence[int]) -> Figures:
        """At the start; the median of the second tenth; that of the last."""
        tenth = max(1, len(seen) // 10)
        return cls(seen[0], statistics.median(seen[tenth : 2 * tenth]), statistics.median(seen[-tenth:]))

    @property
    def growth(self) -> float:
        """After warm-up; 0.01 is 1 %."""
        return self.end / self.warm - 1


def figures(seen: Sequence[tuple[int, int]]) -> tuple[Figures, Figures]:
    """Resident, and what is the process's alone."""
    return Figures.of([rss for rss, _ in seen]), Figures.of([uss for _, uss in seen])


def _line(name: str, seen: Sequence[tuple[int, int]]) -> str:
    rss, uss = figures(seen)
    pairs = [(rss.start, uss.start), (rss.warm, uss.warm), (rss.end, uss.end)]
    cells = [f"{a / 2**20:5.0f} ({b / 2**20:5.0f})" for a, b in pairs]
    return f"{name:28} {len(seen):>6}  {'  '.join(cells)}  {rss.growth:+6.1%} ({uss.growth:+6.1%})"


def _bench(folder: Path, given: argparse.Namespace) -> bool:
    """Print the table; whether all is within the bound."""
    write_shards(folder, given.images, given.clips)
    print(f"{given.images:,} images and {given.clips:,} clips in {SHARDS} shards")
    print(f"{'process':28} {'looks':>6}  {'start':13}  {'warmed up':13}  {'end':13}  growth", flush=True)
    everything = given.images + given.clips
    roles = {"indexer": 0, "preprocessor": 0, "captioner, double": everything}
    good = True
    for role, assets in {**roles, "captioner, model": given.captions}.items():
        for name, seen in apart(role, folder, assets).items():
            print(_line(f"{role}: {name}", seen), flush=True)
            good &= figures(seen)[0].growth <= GROWTH
    print(f"bound: {GROWTH:.0%}: {'kept' if good else 'NOT kept'}")
    return good


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--clips", type=int, default=1_000)
    parser.add_argument("--captions", type=int, default=5_000, help="assets for the captioner with a model")
    parser.add_argument("--role", help="play this role in this process, and print JSON")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.role:
        print(json.dumps(watched(given.role, given.folder, given.captions)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not _bench(Path(folder), given))


if __name__ == "__main__":
    _main()
