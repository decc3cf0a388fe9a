"""Whether `captionmill plan` knows which units take long: predicted against measured time of a real run's units.

Held-out scenes of the demo, pictures, sets and clips, in tars of very different lengths, a unit each; predicted by the
roofline of this machine as it was just measured, from the index alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from jobs import indexing
from jobs.bench.figure import Figure, Found, Spread
from jobs.bench.subject import Options
from jobs.demo.scenes import KINDS, PROMPTS, scene
from jobs.demo.shards import SEED, mp4, png, write_tar
from jobs.preflight import Ready, check
from jobs.run import actors, run
from jobs.session import session
from pipeline import forecast, parquet, storage, unit_records
from pipeline.config import read
from pipeline.forecast import Floats, Pace
from pipeline.planner import compose
from pipeline.pricing import Pricer, priced
from pipeline.roofline import Gpu, Roofline
from pipeline.toml import toml
from pipeline.types import Media

NAME = "forecast"
UNITS, ASSETS = 36, (4, 48)  # units of 4 to 48 assets, in equal ratios
NEW_TOKENS, TEXT_TOKENS = 12.0, 6
JOB = """
[input]
dataset = "forecast"
uris = [{uris}]
[model]
path = "demo"
dtype = "float32"
{prompts}
[generation]
max_new_tokens = 32
[output]
uri = {output}
[cluster]
gpus_per_replica = 0
"""


def write(folder: Path) -> None:
    """A tar for each unit, kinds by turns."""
    folder.mkdir()
    counts = np.geomspace(*ASSETS, UNITS // len(KINDS)).round().astype(int).tolist()
    for number, (count, kind) in enumerate((count, kind) for count in counts for kind in KINDS):
        members = []
        for i in range(count):
            one = scene(kind, SEED + 1000 * number + i)
            pictures = (
                [("mp4", mp4(one.pictures))] if kind == "video" else [("png", png(p)) for p in one.pictures]
            )
            members += [(f"{i:04d}.{n}.{form}", data) for n, (form, data) in enumerate(pictures)]
        write_tar(folder / f"{number:04d}.tar", members)


def predicted(ready: Ready, options: Options) -> tuple[list[str], Floats]:
    """The units' ids, and seconds of a replica on this machine for each."""
    job, machine = ready.job, options.machine
    peaks = Gpu(machine.gemm[job.model.dtype], machine.memory, machine.memory_bytes, compute=1.0, stream=1.0)
    roofline = Roofline(ready.footprint, job.model.dtype, job.model.quantization, peaks)
    texts = {media: dict.fromkeys((p.id for p in job.prompts), TEXT_TOKENS) for media in Media}
    pace = Pace(roofline, texts, NEW_TOKENS, job.generation.batch_size)
    indexes = indexing.addresses(job, ready.shards)
    found = priced(ready.shards, indexes, Pricer(ready.geometry, job.video))
    surveyed = forecast.Survey(compose(found, job.prompts, job.unit))
    return [unit.unit_id for unit in surveyed.units], pace.seconds(surveyed)


def compared(shards: Path, output: Path, options: Options) -> dict[str, float]:
    """One run: by column of `runs/<run_id>/units.parquet`, its rank correlation with what was predicted."""
    prompts = "".join(f"[[prompt]]\nid = {toml(i)}\ntext = {toml(text)}\n" for i, text in PROMPTS.items())
    job = JOB.format(uris=toml(f"{shards}/*.tar"), prompts=prompts, output=toml(str(output)))
    ready = check(read(job))
    run(ready, actors(ready), Console(quiet=True))
    ids, seconds = predicted(ready, options)
    data = storage.read(unit_records.uri(ready.job.output.uri, ready.run_id))
    took = {row["unit_id"]: row for row in parquet.read(data).to_pylist()}
    return {
        name: forecast.rank_correlation(seconds, np.array([took[unit_id][name] for unit_id in ids]))
        for name in ("busy_s", "caption_s")
    }


def measure(options: Options) -> Found:
    """Spearman's rank correlation over the units of a run, of `pairs` runs."""
    if options.subject.shards:
        return Found(NAME, "nothing", notes=["it makes pictures of its own; leave out --job"])
    with tempfile.TemporaryDirectory() as folder, session(Console(quiet=True)):
        shards = Path(folder) / "in"
        write(shards)
        found = [compared(shards, Path(folder) / f"out-{n}", options) for n in range(options.pairs)]
    names = {"busy_s": "with the seconds computed", "caption_s": "with the seconds in the captioner"}
    figures = [
        Figure(f"rank correlation {words}", Spread.of([one[name] for one in found]), "")
        for name, words in names.items()
    ]
    said = (
        f"{UNITS} units of {ASSETS[0]} to {ASSETS[1]} pictures, sets or clips of the demo under {len(PROMPTS)} "
        f"prompts, its checkpoint, fp32, {options.pairs} runs; predicted from the index by this machine's roofline"
    )
    return Found(NAME, said, figures)
