"""Everything that can be found wrong before work begins, found at once and said in one message."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from actors import checkpoint
from pipeline import prompt, shards, storage
from pipeline.anyres import Geometry
from pipeline.config import InputConfig, Job, Loaded, ModelConfig, OutputConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.plan import run_id
from pipeline.recipe import Checkpoint, Recipe
from pipeline.types import Shard

S = TypeVar("S")
T = TypeVar("T")
SOFTWARE = ("captionmill", "torch", "transformers", "tokenizers", "pillow", "av")  # what decides pixels and tokens
PLACEHOLDERS = ("<image>", "<video>")  # what prompts of other tools carry; the chat template puts pictures in
DEMO = Path(__file__).parent / "demo" / "checkpoint"


@dataclass(frozen=True, slots=True)
class Ready:
    """A job that may start: `job` has the demo's folder in place of "demo"."""

    job: Job
    shards: tuple[Shard, ...]
    geometry: Geometry
    recipe: Recipe

    @property
    def run_id(self) -> str:
        """Names the run of this job over this input; the same job over the same input is the same run."""
        return run_id(self.recipe.recipe_id, self.shards, self.job.input, self.job.unit)


def check(loaded: Loaded) -> Ready:
    """Check what a parsed job file points at. Raises ConfigError with every problem, the file's own included.

    Input, output and model are looked at side by side, so that one that does not answer costs its own time only.
    """
    problems = list(loaded.problems)
    with ThreadPoolExecutor(3) as pool:
        problems += prompt.problems(loaded.prompts, PLACEHOLDERS)
        listed = pool.submit(_try, _list, loaded.sections.get("input"), problems)
        pool.submit(_try, _write, loaded.sections.get("output"), problems)
        model = pool.submit(_try, _model, loaded.sections.get("model"), problems)
    found, loadable = listed.result(), model.result()
    if problems or found is None or loadable is None:
        raise ConfigError(sorted(set(problems), key=problems.index))
    folder, geometry = loadable
    job = loaded.job()
    job = replace(job, model=_resolved(job.model))
    return Ready(job, tuple(found), geometry, _recipe(job, checkpoint.describe(folder, job.model)))


def _recipe(job: Job, described: Checkpoint) -> Recipe:
    """What decides the captions of this job on this software."""
    software = {name: version(name) for name in SOFTWARE}
    return Recipe(described, job.model, job.prompts, job.generation, job.image, job.video, software)


def _try(look: Callable[[S], T], section: S | None, problems: list[str]) -> T | None:
    """What `look` finds, or None with its complaints in `problems`, also where the section itself did not parse."""
    if section is None:
        return None
    try:
        return look(section)
    except ConfigError as error:
        problems += error.problems
    except StorageError as error:
        problems.append(str(error))
    return None


def _list(section: InputConfig) -> list[Shard]:
    return shards.list_shards(section.uris, section.root)


def _write(section: OutputConfig) -> None:
    storage.check_writable(section.uri)


def _model(section: ModelConfig) -> tuple[Path, Geometry]:
    if section.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ConfigError(['[model] attention: flash_attention_2 needs the package flash-attn; "sdpa" needs nothing'])
    folder = checkpoint.fetch(_resolved(section))
    return folder, checkpoint.geometry(folder)


def _resolved(model: ModelConfig) -> ModelConfig:
    return replace(model, path=str(DEMO)) if model.path == "demo" else model
