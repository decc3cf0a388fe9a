"""`captionmill bench`: the parts that were asked for, one after the other, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import click
from rich.console import Console

from jobs.bench import PARTS, figure, machine, subject
from jobs.bench.apart import apart
from jobs.bench.figure import Found, scaled
from jobs.bench.machine import Machine
from jobs.bench.subject import Options
from jobs.preflight import check, placed
from pipeline.config import Loaded, ModelConfig

AS_REPLICA = ("generation", "prompts")  # parts that load the model
NOWHERE = "memory://captionmill-bench"  # a job's output: nothing is written there
AMOUNTS = ("pairs", "assets", "image_bytes", "pictures", "prompts", "new_tokens", "batches", "vllm_python")


def options(job: Loaded | None, given: Mapping[str, Any]) -> Options:
    """What was `given` on the command line, by the names of its options; the machine is measured meanwhile.

    ConfigError where the job or the model is wrong.
    """
    if job:
        about = subject.of_job(check(job), given["assets"] or 0)
    else:
        model = ModelConfig(given["model"], dtype=given["dtype"], threads=given["threads"])
        about = subject.of_model(placed(model))
    measured = machine.measure("cuda" if about.gpus else "cpu", about.model.threads)
    return Options(about, measured, **{name: given[name] for name in AMOUNTS})


def show(parts: Sequence[str], options: Options, console: Console, *, as_json: bool) -> None:
    """Run these parts, or all; tables and JSON go to standard output, and what is under way to `console`."""
    out, done = Console(soft_wrap=True), list[Found]()
    if not as_json:
        out.print(_machine(options.machine))
    for part in [name for name in PARTS if name in parts or not parts]:
        console.print(f"Measuring {part}")
        measure: Callable[[Options], Found] = import_module(PARTS[part]).measure
        done.append(apart(measure, options) if part in AS_REPLICA else measure(options))
        if not as_json:
            figure.tell(done[-1], out)
    if as_json:
        click.echo(figure.to_json(asdict(options.machine), done))


def _machine(machine: Machine) -> str:
    """Two lines for people."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.software.items())
    gemm = ", ".join(f"{scaled(rate)}FLOP/s in {dtype}" for dtype, rate in machine.gemm.items())
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads, model on {machine.device}; {versions}\n"
        f"Ceilings: matrix products {gemm}; memory {scaled(machine.memory)}B/s, on one core "
        f"{scaled(machine.memory_one_core)}B/s; disk: written {scaled(machine.disk_write)}B/s, read "
        f"{scaled(machine.disk_read)}B/s, read from the page cache {scaled(machine.cached_read)}B/s"
    )
