"""The recipe: everything that decides what a caption says. Equal recipes and equal bytes give equal captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.config import GenerationConfig, ImageConfig, ModelConfig, PromptConfig, VideoConfig


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


# model.path may be a private folder, and threads, batch bounds and deadlines do not change what is said
_NOT_DECIDING: Mapping[str, tuple[str, ...]] = {
    "model": ("path", "revision", "threads"),
    "generation": ("batch_tokens", "batch_size"),
    "image": ("timeout_s",),
    "video": ("timeout_s",),
}
