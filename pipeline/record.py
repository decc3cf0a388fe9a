"""What an output says of itself: snapshot, manifest, plan and recipe of the published run, read back and compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline import storage, units
from pipeline.columns import SCHEMA_VERSION
from pipeline.config import PromptConfig
from pipeline.errors import CaptionmillError
from pipeline.findings import Finding, Kind
from pipeline.publish import File
from pipeline.recipe import prompts_of

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of runs, recipes: they become paths
PATH = re.compile(r"(?:captions|failures|removed)(?:/[A-Za-z0-9_-]+){1,2}\.parquet")
INDEX = re.compile(r"[A-Za-z0-9._-]+\.parquet")  # as `index.index_name` makes them
WORK = re.compile(r"[0-9]{6}\.parquet")
TABLES = ("captions", "failures")
MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
T = TypeVar("T")


class Unusable(CaptionmillError):
    """A document or an index without which nothing further can be checked."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(str(finding))

    def __reduce__(self) -> tuple[type[Unusable], tuple[Finding]]:
        return Unusable, (self.finding,)


@dataclass(frozen=True, slots=True)
class Work:
    """Rows that are asked the same: the shard's number, the object that has them, and the prompts (none: all)."""

    shard: int
    path: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """The published run of `output`. `files` has the published files by table; `snapshot` is as it was read.

    `units` is int64 (n, 3): number of the work, first row, count; `shards` has paths and `indexes` the names of index
    objects, both by shard number. `recipes` has those of all rows, the run's first. `base` is the run whose table was
    published before. `footer` is what every published file's footer must say.
    """

    output: str
    snapshot: Mapping[str, Any]
    files: Mapping[str, tuple[File, ...]]
    removed: File
    footer: Mapping[str, str]
    shards: tuple[Mapping[str, Any], ...]
    indexes: tuple[str, ...]
    work: tuple[Work, ...]
    units: npt.NDArray[np.int64]
    recipes: Mapping[str, Mapping[str, Any]]
    base: str | None
    copies: int

    @property
    def run_id(self) -> str:
        """The published run."""
        return str(self.snapshot["run_id"])

    @property
    def recipe_id(self) -> str:
        """Its recipe."""
        return str(self.snapshot["recipe_ids"][0])

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The run's recipe."""
        return self.recipes[self.recipe_id]

    @cached_property
    def prompts(self) -> tuple[PromptConfig, ...]:
        """What the run asks, and with it all rows of the table answer."""
        return prompts_of(self.recipe)

    @property
    def assets(self) -> int:
        """All of the input."""
        return int(self.snapshot["assets"])

    @property
    def dataset(self) -> str:
        """The namespace of its asset ids."""
        return str(self.snapshot["dataset"])

    @cached_property
    def unit_ids(self) -> tuple[str, ...]:
        """Names of the units, in the order of `units`."""
        return tuple(units.name(*unit) for unit in self.units.tolist())

    def units_of(self, work: int) -> range:
        """The places in `units` of a work's units."""
        return range(*np.searchsorted(self.units[:, 0], [work, work + 1]).tolist())


def load(output: str) -> tuple[Record, list[Finding]]:
    """The record, and where its documents contradict each other. Raises Unusable where one cannot be read."""
    snapshot = _document(output, "snapshot.json", Kind.SNAPSHOT, _snapshot)
    run_id = snapshot["run_id"]
    manifest = _document(output, f"runs/{run_id}/manifest.json", Kind.SNAPSHOT, _manifest)
    plan = _document(output, f"runs/{run_id}/plan.json", Kind.RECORD, _plan)
    recipes = {
        name: _document(output, f"recipes/{name}.json", Kind.RECORD, _recipe)
        for name in snapshot["recipe_ids"]
    }
    record = Record(
        output=output,
        snapshot=snapshot,
        files={table: _files(snapshot, table) for table in TABLES},
        removed=File(**snapshot["removed"]),
        footer={"captionmill.schema_version": SCHEMA_VERSION, **manifest["metadata"]},
        shards=tuple(plan["shards"]),
        indexes=tuple(plan["indexes"]),
        work=_work(plan, run_id),
        units=plan["ranges"],
        recipes={name: recipe for name, (recipe, _) in recipes.items()},
        base=snapshot["previous_run_id"],
        copies=int(snapshot["copies"]),
    )
    digests = {name: digest for name, (_, digest) in recipes.items()}
    return record, [*_contradictions(record, manifest, plan), *_digests(digests)]


def _work(plan: Mapping[str, Any], run_id: str) -> tuple[Work, ...]:
    indexes = [f"index/{name}" for name in plan["indexes"]]
    if plan["work"] is None:
        return tuple(Work(number, path, ()) for number, path in enumerate(indexes))
    return tuple(
        Work(number, indexes[number] if name is None else f"runs/{run_id}/work/{name}", tuple(prompts))
        for number, name, prompts in plan["work"]
    )


def _document(output: str, path: str, kind: Kind, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(storage.read(storage.join(output, path)))
    except storage.MissingError as error:
        gone = "there is none: nothing is published here" if path == "snapshot.json" else "it is gone"
        named = "" if path == "snapshot.json" else ", and the published run needs it"
        raise Unusable(Finding(kind, path, gone + named)) from error
    except MISSHAPEN as error:
        said = f"it is not what captionmill writes ({type(error).__name__}: {str(error)[:200]})"
        raise Unusable(Finding(kind, path, said)) from error


def _snapshot(data: bytes) -> dict[str, Any]:
    """Raises ValueError, KeyError or TypeError where it is no snapshot of this schema version."""
    told: dict[str, Any] = json.loads(data)
    if told["schema_version"] != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {told['schema_version']!r}, this captionmill knows {SCHEMA_VERSION}"
        )
    if not told["recipe_ids"]:
        raise ValueError("no recipe")
    for name in (told["run_id"], *told["recipe_ids"], told["previous_run_id"] or "none"):
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no id")
    files = [file for table in TABLES for file in _files(told, table)]
    if outside := [f.path for f in (*files, File(**told["removed"])) if not PATH.fullmatch(f.path)]:
        raise ValueError(f"{outside[0]!r} is no published file")
    needed = ("dataset", "assets", "output_tokens", "failures_by_code", "published_at", "job_id", "copies")
    if absent := [name for name in needed if name not in told]:
        raise ValueError(f"no {', '.join(absent)}")
    return told


def _files(snapshot: Mapping[str, Any], table: str) -> tuple[File, ...]:
    return tuple(File(**file) for file in snapshot[table]["files"])


def _manifest(data: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(data)
    _snapshot(json.dumps(told["snapshot"]).encode())
    dict(told["metadata"])
    return told


def _plan(data: bytes) -> dict[str, Any]:
    """With the units as `ranges`."""
    told: dict[str, Any] = json.loads(data)
    ranges = np.array([row[:3] for row in told["units"]], np.int64).reshape(-1, 3)
    work = told["work"]
    pieces = len(told["shards"] if work is None else work)
    if len(told["shards"]) != len(told["indexes"]) or (len(ranges) and ranges[:, 0].max() >= pieces):
        raise ValueError("shards, indexes and units do not belong together")
    if work is not None and any(not 0 <= number < len(told["shards"]) for number, _, _ in work):
        raise ValueError("work on a shard that there is not")
    if strange := [name for _, name, _ in work or () if name is not None and not WORK.fullmatch(name)]:
        raise ValueError(f"{strange[0]!r} is no work")
    if (np.diff(ranges[:, 0]) < 0).any():
        raise ValueError("its units are not in the order of its work")
    if strange := [name for name in told["indexes"] if not INDEX.fullmatch(name)]:
        raise ValueError(f"{strange[0]!r} is no index")
    if unnamed := [shard for shard in told["shards"] if not {"path", "etag"} <= shard.keys()]:
        raise ValueError(f"{unnamed[0]} is no shard")
    return told | {"ranges": ranges}


def _recipe(data: bytes) -> tuple[dict[str, Any], str]:
    """The recipe and its digest, which is its name."""
    told: dict[str, Any] = json.loads(data)
    for name in ("checkpoint", "generation"):
        dict(told[name])
    return told, hashlib.blake2b(data, digest_size=8).hexdigest()


def _contradictions(
    record: Record, manifest: Mapping[str, Any], plan: Mapping[str, Any]
) -> Iterator[Finding]:
    told, run = record.snapshot, f"runs/{record.run_id}"
    if different := sorted(
        n for n in {*told, *manifest["snapshot"]} if told.get(n) != manifest["snapshot"].get(n)
    ):
        said = f"it differs from {run}/manifest.json in {', '.join(different)}"
        yield Finding(Kind.SNAPSHOT, "snapshot.json", said)
    for table, files in record.files.items():
        yield from _order(record.run_id, table, files)
        if (rows := sum(f.rows for f in files)) != told[table]["rows"]:
            said = f"{told[table]['rows']:,} rows of {table} are said to be there, and {rows:,} in its files"
            yield Finding(Kind.SNAPSHOT, "snapshot.json", said)
    same = {name: told[name] for name in ("run_id", "job_id", "dataset", "assets")}
    for name, value in {
        **same,
        "planned": int(record.units[:, 2].sum()),
        "recipe_id": record.recipe_id,
    }.items():
        if plan[name] != value:
            yield Finding(
                Kind.RECORD, f"{run}/plan.json", f"its {name} is {plan[name]!r}, expected {value!r}"
            )
    carried = plan["carried"] or {"base": None, "copies": 0}
    for name, value, planned in (
        ("previous_run_id", record.base, carried["base"]),
        ("copies", record.copies, carried["copies"]),
    ):
        if value != planned:
            yield Finding(Kind.SNAPSHOT, "snapshot.json", f"its {name} is {value!r}, the plan's {planned!r}")
    if (manifest["units"], manifest["cost"]) != (len(record.units), plan["cost"]):
        yield Finding(Kind.RECORD, f"{run}/manifest.json", "its units or their cost are not the plan's")


def _order(run_id: str, table: str, files: tuple[File, ...]) -> Iterator[Finding]:
    """Names in order, and ranges of asset ids that follow each other."""
    expected = [f"{table}/{run_id}/part-{i:05d}.parquet" for i in range(len(files))]
    if [f.path for f in files] != expected:
        yield Finding(Kind.SNAPSHOT, "snapshot.json", f"the files of {table} are not those of run {run_id}")
    full = [f for f in files if f.rows]
    if any(str(a.max_asset_id) >= str(b.min_asset_id) for a, b in pairwise(full)):
        yield Finding(Kind.SNAPSHOT, "snapshot.json", f"the files of {table} are not in order of asset_id")


def _digests(recipes: Mapping[str, str]) -> Iterator[Finding]:
    for name, digest in recipes.items():
        if digest != name:
            said = f"its digest is {digest}: it was changed, and no longer says how the captions were made"
            yield Finding(Kind.RECORD, f"recipes/{name}.json", said)
