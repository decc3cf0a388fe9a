"""Everything that can be found wrong before work begins, found at once and said in one message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from actors import checkpoint
from jobs.needs import lacking
from pipeline import fit, plan, prompt, publish, shards, storage
from pipeline.anyres import Geometry
from pipeline.config import (
    GIB,
    ClusterConfig,
    GenerationConfig,
    ImageConfig,
    InputConfig,
    Job,
    Loaded,
    ModelConfig,
    OutputConfig,
    is_hub_id,
)
from pipeline.errors import ConfigError, StorageError
from pipeline.footprint import Footprint
from pipeline.patterns import fixed_folder
from pipeline.recipe import Checkpoint, Recipe
from pipeline.types import Shard
from pipeline.units import Share

SOFTWARE = (
    "captionmill",
    "torch",
    "transformers",
    "tokenizers",
    "pillow",
    "av",
)  # what decides pixels and tokens
T = TypeVar("T")
PLACEHOLDERS = ("<image>", "<video>")  # what prompts of other tools carry; the chat template puts pictures in
DEMO = Path(__file__).parent / "demo" / "checkpoint"


@dataclass(frozen=True, slots=True)
class Looked:
    """A job without mistakes; its local addresses are absolute, and a model of the hub is at a commit.

    `published` is the snapshot of its output, if there is one.
    """

    job: Job
    shards: tuple[Shard, ...]
    geometry: Geometry
    footprint: Footprint
    published: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Ready(Looked):
    """A job that may start: its weights are here.

    `again` are codes of failures that are tried again, none for all of them; None for no failures. `share` is what this
    driver does where several split the run; None for all of it.
    """

    recipe: Recipe
    again: tuple[str, ...] | None = None
    share: Share | None = None

    @property
    def job_id(self) -> str:
        """Names this job over this input, whatever is published already."""
        return plan.job_id(self.recipe.recipe_id, self.shards, self.job.input, self.job.unit)

    @property
    def run_id(self) -> str:
        """Names the run of this job over this input after what is published; the same is the same run."""
        base = str(self.published["run_id"]) if self.published else None
        return plan.run_id(self.job_id, base, self.again)


def check(loaded: Loaded) -> Ready:
    """Check what a parsed job file points at. Raises ConfigError with every problem, the file's own included.

    Weights on the hub are fetched when nothing else is wrong.
    """
    return ready(look(loaded, _write))


def look(loaded: Loaded, output: Callable[[OutputConfig], None]) -> Looked:
    """The same, but for weights on the hub, and with another look at the output.

    Input, output and model are looked at side by side, so that one that does not answer costs its own time only.
    """
    problems = [*loaded.problems, *prompt.problems(loaded.prompts, PLACEHOLDERS)]
    sections = loaded.sections
    image = sections.get("image", ImageConfig())
    replica = (sections.get("cluster", ClusterConfig()), sections.get("generation", GenerationConfig()))
    with ThreadPoolExecutor(3) as pool:
        listed = pool.submit(_look, _list, sections.get("input"))
        written = pool.submit(_look, output, sections.get("output"))
        pinned = pool.submit(_look, _model, sections.get("model"), image, *replica)
    problems += [*listed.result()[1], *written.result()[1], *pinned.result()[1]]
    model = pinned.result()[0]
    if problems or model is None:
        raise ConfigError(problems)
    asked, folder = loaded.job(), checkpoint.settings(model)
    job = replace(asked, model=model, output=replace(asked.output, uri=storage.absolute(asked.output.uri)))
    tiles = checkpoint.geometry(folder).capped(job.image.max_crops)
    published = publish.snapshot(job.output.uri)
    footprint = checkpoint.footprint(folder)
    return Looked(job, tuple(listed.result()[0] or ()), tiles, footprint, published)


def ready(looked: Looked) -> Ready:
    """The job with its recipe: weights on the hub are fetched, and all have their digest."""
    job = looked.job
    described = checkpoint.describe(checkpoint.fetch(job.model), job.model)
    about = looked.job, looked.shards, looked.geometry, looked.footprint, looked.published
    return Ready(*about, _recipe(job, described))


def _recipe(job: Job, described: Checkpoint) -> Recipe:
    """What decides the captions of this job on this software."""
    names = SOFTWARE if job.model.quantization == "none" else (*SOFTWARE, "bitsandbytes")
    software = {name: version(name) for name in names}
    return Recipe(described, job.model, job.prompts, job.generation, job.image, job.video, software)


def _look(look: Callable[..., T], section: object | None, *others: object) -> tuple[T | None, Sequence[str]]:
    """What a look found and its complaints; neither where the section itself did not parse."""
    try:
        return (None if section is None else look(section, *others)), ()
    except ConfigError as error:
        return None, error.problems
    except StorageError as error:
        return None, (str(error),)


def _list(section: InputConfig) -> list[Shard]:
    """The shards, after a quick question to every store: a listing waits longer for one that does not answer."""
    folders = {uri: fixed_folder(uri) for uri in section.uris if "://" in uri}
    silent = {folder: said for folder in sorted(set(folders.values())) if (said := _look(_answer, folder)[1])}
    answering = [uri for uri in section.uris if folders.get(uri) not in silent]
    listed, problems = _look(lambda uris: shards.list_shards(uris, section.root), answering)
    if silent or listed is None:
        raise ConfigError([*(problem for said in silent.values() for problem in said), *problems])
    return listed


def _answer(folder: str) -> None:
    """StorageError where the store does not answer. What it does not have, the listing says better."""
    with contextlib.suppress(storage.MissingError):
        storage.check_readable(folder)


def _write(section: OutputConfig) -> None:
    storage.check_writable(section.uri)


def _model(
    section: ModelConfig, image: ImageConfig, cluster: ClusterConfig, generation: GenerationConfig
) -> ModelConfig:
    """The model at its commit, or with its absolute folder. Where the machine lacks something, nothing is fetched.

    Where the job says what memory the GPUs have, a model that does not fit is refused here, before its weights are
    fetched; else by the replica, before it loads them. So is a cap of crops that leaves the checkpoint no grid.
    """
    problems = lacking(section, cluster)
    if problems and is_hub_id(section):
        raise ConfigError(problems)
    pinned, said = _look(checkpoint.pin, placed(section))
    if problems or pinned is None:
        raise ConfigError([*problems, *said])
    folder = checkpoint.settings(pinned)
    problems += _look(checkpoint.geometry(folder).capped, image.max_crops)[1]
    if memory := int(cluster.gpu_memory_gib * cluster.gpus_per_replica * GIB):
        problems += _look(fit.batch_tokens, checkpoint.footprint(folder), pinned, generation, memory)[1]
    if problems:
        raise ConfigError(problems)
    return pinned


def placed(model: ModelConfig) -> ModelConfig:
    """The model with "demo" and local folders as absolute paths."""
    if is_hub_id(model):
        return model
    folder = DEMO if model.path == "demo" else Path(model.path).expanduser().absolute()
    return replace(model, path=str(folder))
