"""How busy GPUs would be, and what it takes to feed them: a whole run, whose replicas take the time of the roofline.

Index, reading, decoding, cutting, Ray and commits are real and on this machine; the model is not computed.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
from PIL import Image
from rich.console import Console

from actors import checkpoint
from jobs.bench.figure import Figure, Found, Spread, tell, to_json
from jobs.bench.preprocessing import photograph
from jobs.bench.published import PUBLISHED
from jobs.bench.simulated import PREPROCESSOR, REPLICA, Metered, Simulated, lines
from jobs.bench.work import MEDIAN, SIGMA
from jobs.preflight import Ready, check, placed
from jobs.run import Actors, actors, run
from jobs.session import session
from pipeline.anyres import Geometry
from pipeline.config import Loaded, ModelConfig, read
from pipeline.errors import ConfigError
from pipeline.footprint import Footprint
from pipeline.roofline import GPUS, Roofline

EACH, SIZE = 500, (640, 480)  # pictures a shard, and their pixels
OWN = """
[input]
dataset = "simulation"
uris = ["{folder}/in/*.tar"]
[model]
path = "demo"
[[prompt]]
id = "p"
text = "Describe the image in detail."
[output]
uri = "memory://nowhere"
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is simulated: `replicas` of `model` (a name in `PUBLISHED`, or the job's own) on one `gpu` each or as many
    as the job says. A machine with few cores stands for one with more where the GPUs are `slower` by as much."""

    gpu: str = "h100"
    model: str | None = None
    replicas: int = 2
    slower: float = 1.0
    images: int = 4_000


@dataclass(frozen=True, slots=True)
class Moment:
    """What a replica had done when it began a unit, and had no `captions` of it yet, or when it had them all: seconds
    busy, slots that steps of decoding offered, and those that were idle."""

    at: float
    busy: float
    slot_steps: float
    slots_idle: float
    captions: float


def show(job: Loaded | None, asked: Asked, console: Console, *, as_json: bool) -> None:
    """Simulate, and print what was found to standard output. A `job`'s output is not written to."""
    with tempfile.TemporaryDirectory() as folder:
        found = simulate(job, asked, Path(folder), console)
    if as_json:
        click.echo(to_json({}, [found]))
    else:
        tell(found, Console(soft_wrap=True))


def simulate(job: Loaded | None, asked: Asked, folder: Path, console: Console) -> Found:
    """Run the job, or one of our own, with its output below `folder`.

    ConfigError, RunError and StorageError as a run raises them.
    """
    if job is None:
        write(folder / "in", asked.images)
        job, asked = read(OWN.format(folder=folder)), replace(asked, model=asked.model or "onevision-7b")
    own, share, loaded = _settled(job, asked.replicas, str(folder / "out"))
    ready = check(loaded)
    tiles, footprint = _model(own, asked.model)
    ready = replace(ready, geometry=tiles.capped(ready.job.image.max_crops), footprint=footprint)
    roofline = Roofline(ready.footprint, own.dtype, own.quantization, GPUS[asked.gpu].times(share))
    (folder / "log").mkdir()
    with session(console):
        made_of = simulated(actors(ready), ready, roofline, asked.slower, folder / "log")
        run(ready, made_of, console)
    return _found(ready, asked, folder / "log")


def write(folder: Path, count: int) -> None:
    """Tars of so many JPEGs, each the same photograph turned by another angle."""
    folder.mkdir()
    picture = Image.open(io.BytesIO(photograph(*SIZE)))
    for first in range(0, count, EACH):
        with tarfile.open(folder / f"{first:08d}.tar", "w") as tar:
            for number in range(first, min(count, first + EACH)):
                stream = io.BytesIO()
                picture.rotate(number * 0.37 % 360).save(stream, "JPEG", quality=90)
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = stream.tell()
                stream.seek(0)
                tar.addfile(member, stream)


def _settled(loaded: Loaded, replicas: int, output: str) -> tuple[ModelConfig, float, Loaded]:
    """The job's own model, its GPUs per replica, and the job to be run: here, without a model to be computed."""
    if loaded.problems:
        raise ConfigError(loaded.problems)
    job = loaded.job()
    here = replace(
        job.cluster,
        replicas=replicas,
        gpus_per_replica=0.0,
        preprocessors=job.cluster.preprocessors or _cores(),
    )
    sections = {
        **loaded.sections,
        "model": ModelConfig("demo"),
        "cluster": here,
        "output": replace(job.output, uri=output),
    }
    return job.model, job.cluster.gpus_per_replica or 1.0, replace(loaded, sections=sections)


def _model(own: ModelConfig, name: str | None) -> tuple[Geometry, Footprint]:
    """Of the model that is asked for by name, else of the job's own, of which no weights are fetched."""
    if name:
        return Geometry.from_checkpoint(PUBLISHED[name], {}, None), Footprint.from_config(PUBLISHED[name])
    folder = checkpoint.settings(placed(own))
    return checkpoint.geometry(folder), checkpoint.footprint(folder)


def simulated(made_of: Actors, ready: Ready, roofline: Roofline, slower: float, log: Path) -> Actors:
    """The real actors, but for the model inside the captioner, and a meter on the preprocessor."""
    replica = partial(Simulated, roofline, ready.geometry, ready.job.model, slower, log)
    captioner = {**made_of.captioner.kwargs, "replica": replica}
    preprocessor = {**made_of.preprocessor.kwargs, "log": log}
    return replace(
        made_of,
        captioner=replace(made_of.captioner, kwargs=captioner),
        preprocessor=replace(made_of.preprocessor, cls=Metered, kwargs=preprocessor),
    )


def _found(ready: Ready, asked: Asked, log: Path) -> Found:
    if not list(log.glob(f"{REPLICA}-*")):
        return Found("simulation", "nothing", notes=["no asset of the job could be captioned"])
    replicas = [[Moment(*told) for told in lines(path)] for path in sorted(log.glob(f"{REPLICA}-*"))]
    fed = [told for path in log.glob(f"{PREPROCESSOR}-*") for told in lines(path)]
    busy, captions = sum(own[-1].busy for own in replicas), sum(m.captions for own in replicas for m in own)
    rate = captions / busy * asked.slower
    cost = sum(cpu for cpu, _ in fed) / sum(assets for _, assets in fed)
    units = [sum(moment.captions > 0 for moment in own) for own in replicas]
    figures = [_replica(number, own) for number, own in enumerate(replicas) if units[number] > 1]
    notes = [f"replica {n}: one unit is its warm-up" for n, count in enumerate(units) if count == 1]
    figures += [
        Figure(f"a {asked.gpu} that is always busy", Spread.of([rate]), "captions/s"),
        Figure("preprocessing", Spread.of([cost * 1e3]), "ms of a core an asset"),
        Figure(
            f"cores of this kind for a {asked.gpu}",
            Spread.of([rate * cost / len(ready.job.prompts)]),
            "cores",
        ),
    ]
    said = (
        f"{captions:,.0f} captions by {len(replicas)} simulated {asked.gpu}, {asked.slower:g} times slower, "
        f"{asked.model or 'the model of the job'}, {_cores()} cores here, output lengths log-normal "
        f"(median {MEDIAN}, sigma {SIGMA})"
    )
    return Found("simulation", said, figures, notes)


def _replica(number: int, own: Sequence[Moment]) -> Figure:
    """After warm-up, which is the first unit; slots also until the last unit begins, since then it runs dry."""
    done = [moment for moment in own if moment.captions]
    first, last = done[0], done[-1]
    late = [moment for moment in own if not moment.captions][-1]
    details: dict[str, str | int | float] = {"units": len(done)}
    for what, until in (("slots idle, %", late), ("with the end, %", last)):
        if (offered := until.slot_steps - first.slot_steps) > 0:
            details[what] = 100 * (until.slots_idle - first.slots_idle) / offered
    busy = (last.busy - first.busy) / (last.at - first.at)
    return Figure(f"replica {number} busy", Spread.of([100 * busy]), "%", details=details)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
