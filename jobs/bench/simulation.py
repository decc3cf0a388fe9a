"""How busy GPUs would be under a job: its real pipeline on this machine, with replicas that take the roofline's time.

    python -m jobs.bench.simulation JOB.toml --gpu h100 [--config CONFIG.json] [--slower F]

Reading, decoding, cutting, Ray and commits are real, the model is not computed: `--gpu` says which GPU each of the
job's replicas would have, `--config` which model (else the job's). A machine with few cores stands for one with more
where the GPU is `--slower` by as much. Printed for each replica: its share of the time, from the end of its first unit
to that of its last, in which it computed, and the share of slots that were idle while it did.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from jobs.bench.simulated import Simulated
from jobs.preflight import Ready, check
from jobs.run import Actors, actors, run
from jobs.session import session
from pipeline.config import read
from pipeline.footprint import Footprint
from pipeline.roofline import GPUS, Roofline

Line = tuple[float, float, int, int, int]  # time, busy seconds, steps, captions in them, requests of the unit


def simulated(made_of: Actors, ready: Ready, roofline: Roofline, slower: float, log: str) -> Actors:
    """The real actors, but for the model inside the captioner."""
    replica = partial(Simulated, roofline, ready.geometry, ready.job.model, slower, log)
    kwargs = {**made_of.captioner.kwargs, "replica": replica}
    return replace(made_of, captioner=replace(made_of.captioner, kwargs=kwargs))


def lines(log: Path) -> list[list[Line]]:
    """What each replica wrote."""
    return [[tuple(json.loads(line)) for line in file.read_text().splitlines()] for file in log.iterdir()]


def busy(own: list[Line]) -> float:
    """Share of the time after its first unit in which the replica computed."""
    return (own[-1][1] - own[0][1]) / (own[-1][0] - own[0][0])


def idle(own: list[Line], slots: int) -> float:
    """Share of slots that no caption was in, over the steps after the first unit but those of the last: it runs dry."""
    steps, captions = own[-2][2] - own[0][2], own[-2][3] - own[0][3]
    return 1 - captions / (steps * slots)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100")
    parser.add_argument("--config", type=Path, help="config.json of another model than the job's")
    parser.add_argument("--slower", type=float, default=1.0)
    given, console = parser.parse_args(), Console(stderr=True)
    ready = check(read(given.job.read_text()))
    own = Footprint.from_config(json.loads(given.config.read_text())) if given.config else ready.footprint
    model = ready.job.model
    roofline = Roofline(own, model.dtype, model.quantization, GPUS[given.gpu])
    with tempfile.TemporaryDirectory() as log:
        with session(console):
            run(ready, simulated(actors(ready), ready, roofline, given.slower, log), console)
        for number, told in enumerate(lines(Path(log))):
            captions = sum(line[4] for line in told[1:])
            seconds = told[-1][0] - told[0][0]
            Console(soft_wrap=True).print(
                f"replica {number}: {len(told)} units, busy {busy(told):.1%}, "
                f"slots idle {idle(told, ready.job.generation.batch_size):.1%}, "
                f"{captions / seconds * given.slower:.1f} captions/s on a {given.gpu}"
            )


if __name__ == "__main__":
    main()
