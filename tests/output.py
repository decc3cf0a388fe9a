"""A real published output in small, made by the real steps one after the other, without Ray; and ways to damage it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from actors.captioner import Captioner, Generator
from actors.indexer import Indexer
from actors.preprocessor import Preprocessor
from actors.sandbox import Sandbox
from jobs.preflight import Ready, check
from jobs.run import compose, write_plan
from pipeline import config, publish, storage
from pipeline.commit import Committer
from pipeline.index import read_index
from pipeline.plan import Plan
from pipeline.provenance import Context
from tests import made
from tests.double import Double

JOB = """
[input]
dataset = "colours"
uris = ["{folder}/*.tar"]
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "short"
text = "What is it?"
[[prompt]]
id = "long"
text = "Describe the image in detail."
[unit]
max_assets = 5
[output]
uri = "{folder}/out"
[cluster]
gpus_per_replica = 0
"""


def encoded(number: int) -> bytes:
    """A small picture of a colour and size of its own."""
    sink = io.BytesIO()
    Image.new("RGB", (16 + 9 * number, 40), (10 * number, 200 - number, 77)).save(sink, "PNG")
    return sink.getvalue()


def write_input(folder: Path, shards: int = 2) -> None:
    """Tars of eight assets, the second of them two pictures and the sixth no picture, and a checkpoint."""
    for shard in range(shards):
        write_tar(folder / f"{shard}.tar", shard)
    made.checkpoint(folder / "checkpoint")


def write_tar(path: Path, shard: int, others: Mapping[int, bytes] = MappingProxyType({})) -> None:
    """A tar of such assets; `others` are single images at these places, among them or after them."""
    with tarfile.open(path, "w") as tar:
        for place in sorted({*range(8), *others}):
            for n in range(2 if place == 1 else 1):
                data = b"<html>" if place == 5 else others.get(place) or encoded(8 * shard + place + n)
                entry = tarfile.TarInfo(f"{place:03d}.{n}.png")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def captioned(job_file: str, replica: Callable[[Ready], Generator] = lambda ready: Double()) -> Ready:
    """The job, run to its snapshot."""
    ready = check(config.read(job_file))
    job, recipe, output = ready.job, ready.recipe, ready.job.output.uri
    storage.put(storage.join(output, "recipes", f"{recipe.recipe_id}.json"), recipe.to_json().encode())
    with Sandbox(job.image, job.video) as sandbox:
        indexer = Indexer(output, job.input, lambda: sandbox.probes, "as the job allows")
        indexes = tuple(indexer.index(shard) for shard in ready.shards)
    plan = write_plan(ready, compose(ready, indexes))
    metadata = {"captionmill.run_id": plan.run_id, "captionmill.recipe_id": plan.recipe_id}
    _commit(ready, plan, metadata, Captioner(lambda: replica(ready), job.prompts, job.generation))
    compactor = publish.Compactor(output, plan.run_id, plan.unit_ids, metadata, plan.carried)
    done = [compactor.compact(publish.Partition(i, 2)) for i in range(2)]
    publish.publish(output, plan, done, metadata)
    return ready


def _commit(ready: Ready, plan: Plan, metadata: Mapping[str, str], captioner: Captioner) -> None:
    job = ready.job
    context = Context(plan.dataset, plan.run_id, plan.recipe_id, ready.recipe.checkpoint, job.prompts)
    commit = Committer(job.output.uri, context, metadata)
    with Preprocessor(job.image, job.video, ready.geometry) as preprocessor:
        for unit in plan.units:
            prepared = preprocessor.prepare(unit, read_index(plan.index_of(unit), unit.first, unit.count))
            commit.commit(captioner.caption(prepared))


class Output:
    """A published output to damage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def snapshot(self) -> dict[str, Any]:
        """snapshot.json."""
        return self.json("snapshot.json")

    @property
    def run(self) -> str:
        """The published run."""
        return str(self.snapshot["run_id"])

    def json(self, path: str) -> dict[str, Any]:
        """A JSON document."""
        loaded: dict[str, Any] = json.loads((self.folder / path).read_text())
        return loaded

    def edit(self, path: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a JSON document."""
        content = self.json(path)
        change(content)
        (self.folder / path).write_text(json.dumps(content, indent=1) + "\n")

    def tell(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the snapshot, and the manifest as if it had been so from the beginning."""
        self.edit("snapshot.json", change)
        self.edit(f"runs/{self.run}/manifest.json", lambda manifest: change(manifest["snapshot"]))

    def path(self, table: str = "captions", number: int = 0) -> str:
        """A published file."""
        return str(self.snapshot[table]["files"][number]["path"])

    def rows(self, path: str) -> pa.Table:
        """Its rows."""
        return pq.ParquetFile(self.folder / path).read()

    def rewrite(
        self, path: str, change: Callable[[pa.Table], pa.Table], footer: Mapping[str, str] | None = None
    ) -> None:
        """Change the rows of a published file, and its footer, but nothing that is said of it."""
        table = self.rows(path)
        told = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()} | dict(footer or {})
        (self.folder / path).write_bytes(publish.parquet_bytes(change(table), told))

    def settle(self, path: str) -> None:
        """Let snapshot and manifest say of a file what is now true of it, its digest included."""
        data, ids = (self.folder / path).read_bytes(), self.rows(path)["asset_id"].to_pylist()
        facts = {"rows": len(ids), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        facts |= {"min_asset_id": ids[0], "max_asset_id": ids[-1]}
        table = path.partition("/")[0]

        def change(told: dict[str, Any]) -> None:
            files = [file | facts if file["path"] == path else file for file in told[table]["files"]]
            told[table] = {"rows": sum(file["rows"] for file in files), "files": files}

        self.tell(change)
