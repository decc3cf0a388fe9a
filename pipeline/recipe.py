"""The recipe: everything that decides what a caption says. Equal recipes and equal bytes give equal captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import storage
from pipeline.config import GenerationConfig, ImageConfig, ModelConfig, PromptConfig, VideoConfig
from pipeline.types import Media, Turn


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it will be loaded.

    `name` is the hub id or the folder's last name, `revision` the commit or "sha256:" and the weights digest.
    `weights_sha256` is the sha256 over a line for each safetensors file that is loaded, in name order: name, 0 byte,
    size, 0 byte, sha256 of the content. `processor_sha256` is the same over the configuration, tokenizer, template
    and processor files.
    """

    name: str
    revision: str
    weights_sha256: str
    processor_sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """See the module. `software` maps package names to versions."""

    checkpoint: Checkpoint
    model: ModelConfig
    prompts: tuple[PromptConfig, ...]
    generation: GenerationConfig
    image: ImageConfig
    video: VideoConfig
    software: Mapping[str, str]

    def to_json(self) -> str:
        """The recipe in words: sorted keys, two spaces. Where the checkpoint lies and how fast it runs is left out."""
        raw = asdict(self)
        for section, left_out in _NOT_DECIDING.items():
            for name in left_out:
                del raw[section][name]
        raw["software"] = dict(self.software)
        return json.dumps(raw, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def recipe_id(self) -> str:
        """Hex blake2b-64 of `to_json`."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=8).hexdigest()


def prompts_of(told: Mapping[str, Any]) -> tuple[PromptConfig, ...]:
    """The prompts of a recipe as it was written down. Raises KeyError or TypeError where it is none."""
    return tuple(_prompt(raw) for raw in told["prompts"])


def _prompt(raw: Mapping[str, Any]) -> PromptConfig:
    turns = {name: tuple(Turn(**turn) for turn in raw[name]) for name in ("turns", *Media)}
    return PromptConfig(id=raw["id"], max_field_chars=raw["max_field_chars"], **turns)


def recipe_uri(output: str, recipe_id: str) -> str:
    """Where a recipe is written down."""
    return storage.join(output, "recipes", f"{recipe_id}.json")


# model.path may be a private folder; threads, packing, compiling, batch bounds and deadlines do not change what is said
_NOT_DECIDING: Mapping[str, tuple[str, ...]] = {
    "model": ("path", "revision", "threads", "packed", "compiled"),
    "generation": ("batch_tokens", "batch_size"),
    "image": ("timeout_s",),
    "video": ("timeout_s",),
}
