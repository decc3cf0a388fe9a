"""The options of `captionmill doctor`, how it prints, and how it asks a cluster from outside."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from jobs.exit_codes import FAILED, exit_codes
from jobs.job_file import JOB, changes, changing, text
from pipeline import config
from pipeline.errors import ConfigError, RunError
from pipeline.quality import caption_text

if TYPE_CHECKING:
    from jobs.doctor.examine import Report

GB = 1e9


@click.command()
@click.argument("job", type=JOB)
@click.option(
    "--address",
    metavar="URL",
    help="Ask as a Ray job of the cluster whose dashboard is there: http://HOST:8265.  "
    "[default: the cluster of RAY_ADDRESS, else this machine]",
)
@changing
@click.option(
    "--with-code", is_flag=True, help="With --address: take this captionmill along, as submit does."
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For a node's answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
def doctor(
    job: Path, address: str | None, with_code: bool, patience: float, as_json: bool, **given: Any
) -> None:
    """Check that a cluster is fit for JOB: every node tries what a run would ask of it.

    Versions, GPUs, input and output, checkpoint, clock, disk and object store. Nothing is left behind. Exit code 1
    where something is found; each finding says what to do.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with exit_codes(console):
        if address:
            found = _from_outside(text(job), changes(given), (address, patience, with_code), console)
        else:
            found = _from_here(text(job), changes(given), patience, console)
        click.echo(json.dumps(found)) if as_json else _tell(found)
        sys.exit(FAILED if found["findings"] else 0)


def _from_here(job: str, changed: list[str], patience_s: float, console: Console) -> Mapping[str, Any]:
    loaded = config.read(job, changed)
    if loaded.problems:
        raise ConfigError(loaded.problems)
    from jobs.doctor.examine import examine
    from jobs.session import session

    with session(console):
        return _plain(examine(loaded, patience_s))


def _plain(report: Report) -> Mapping[str, Any]:
    """For programs."""
    nodes = [
        {
            "node": told.name,
            "cpus": told.has.cpus,
            "gpus": told.has.gpus,
            "object_store_bytes": told.has.store,
            "clock_ahead_s": round(told.ahead_s, 3),
            "versions": told.seen.versions if told.seen else None,
        }
        for told in report.nodes
    ]
    return {"nodes": nodes, "findings": [asdict(finding) for finding in report.findings]}


def _from_outside(
    job: str, changed: list[str], how: tuple[str, float, bool], console: Console
) -> Mapping[str, Any]:
    """The same as a Ray job on the head, whose last line of log is the report."""
    from jobs.submit.client import connect
    from jobs.submit.packing import pack

    address, patience_s, with_code = how
    packed = pack(job, changed, ["doctor", "--json", "--patience", f"{patience_s:g}"], with_code=with_code)
    client, name = connect(address), f"captionmill-doctor-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="captionmill-") as folder:
        packed.write(Path(folder))
        environment = packed.runtime_env(Path(folder))
        client.submit_job(entrypoint=packed.entrypoint, runtime_env=environment, submission_id=name)
    console.print(f"{name} asks every node", markup=False)
    while not client.get_job_info(name).status.is_terminal():
        time.sleep(0.5)
    log = client.get_job_logs(name)
    reports = [line for line in log.splitlines() if line.startswith('{"nodes": ')]
    if not reports:
        raise RunError(_unanswered(name, client.get_job_info(name).driver_exit_code, log))
    found: Mapping[str, Any] = json.loads(reports[-1])
    return found


def _unanswered(name: str, code: int | None, log: str) -> str:
    from jobs.submit.follow import NO_CAPTIONMILL, NOT_FOUND

    if code in NOT_FOUND:
        return f"{name} failed: {NO_CAPTIONMILL}"
    last = "\n".join(log.strip().splitlines()[-5:])
    return f"{name} ended with code {code} and without a report. The end of its log:\n{last}"


def _tell(found: Mapping[str, Any]) -> None:
    """For people, on standard output."""
    out = Console(highlight=False, soft_wrap=True)
    for node in found["nodes"]:
        has = f"{node['cpus']:g} CPU, {node['gpus']:g} GPU, object store {node['object_store_bytes'] / GB:.2f} GB"
        clock = f"clock {node['clock_ahead_s']:+.1f} s" if node["versions"] else "no answer"
        out.print(f"{node['node']}  {has}, {clock}", markup=False)
    for one in found["findings"]:
        where = f" on {one['node']}" if one["node"] else ""
        out.print(f"✗ {one['check']}{where}: {caption_text(one['problem'])}", markup=False)
        out.print(f"  → {caption_text(one['remedy'])}", markup=False)
    count = len(found["findings"])
    out.print(f"{count} finding{'s' * (count != 1)}" if count else "All is well.")
