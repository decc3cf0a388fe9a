"""Held-out accuracy of a saved checkpoint: transformers' own image processor, packing and generate, fp32."""

import json
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from jobs.demo.lesson import normalise, squash
from jobs.demo.scenes import GRIDS, HELD_OUT_SEEDS, KINDS, PROMPTS, TILE, Kind, Scene, scene

SIDE = TILE // 14  # tokens along a tile
BATCH = 20
# Chosen on their own seeds: the sample shards start 1,000,000 further on.
SEED = HELD_OUT_SEEDS.start


def tiled_tokens(height: int, width: int) -> int:
    """Language-model tokens of one picture that fills its grid: base crop, tiles, a newline a row."""
    rows, columns = -(-height // TILE) * SIDE, -(-width // TILE) * SIDE
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
    ratio = math.sqrt(rows * columns / (9 * SIDE**2))  # anyres_max_9
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return SIDE**2 + rows * (columns + 1)


def visual_tokens(one: Scene) -> list[int]:
    """How many placeholders each <image>, or the one <video>, of the prompt becomes."""
    if one.kind == "video":
        return [len(one.pictures) * math.ceil(SIDE / 2) ** 2 + 1]
    if one.kind == "images":
        return [SIDE**2 + 1] * len(one.pictures)
    return [tiled_tokens(*one.pictures[0].shape[:2])]


class Reader:
    """A checkpoint folder as a function from scenes to captions."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.images = LlavaOnevisionImageProcessorPil.from_pretrained(folder)

    def prompt(self, one: Scene, text: str) -> str:
        """The chat prompt with its placeholders expanded, which transformers only does with torchvision."""
        media = [{"type": "video"}] if one.kind == "video" else [{"type": "image"}] * len(one.pictures)
        turn: dict[str, Any] = {"role": "user", "content": [*media, {"type": "text", "text": text}]}
        words = str(self.tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False))
        mark = "<video>" if one.kind == "video" else "<image>"
        first, *rest = words.split(mark)
        return first + "".join(
            mark * count + text for count, text in zip(visual_tokens(one), rest, strict=True)
        )

    def pixels(self, scenes: list[Scene]) -> dict[str, torch.Tensor]:
        """Model inputs of scenes of one kind; clips must be of one length."""
        if scenes[0].kind == "video":
            clips = [normalise(np.stack([squash(frame) for frame in one.pictures])) for one in scenes]
            return {"pixel_values_videos": torch.stack(clips)}
        nested: Any = [list(one.pictures) for one in scenes]  # the hints know only flat lists
        batch = self.images(nested, return_tensors="pt")
        return {
            name: torch.as_tensor(batch[name]) for name in ("pixel_values", "image_sizes", "batch_num_images")
        }

    @torch.inference_mode()
    def captions(self, scenes: list[Scene], text: str) -> list[str]:
        """The greedy answer to the prompt for each scene, in one batch padded on the left."""
        prompts = [self.prompt(one, text) for one in scenes]
        words = self.tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        inputs = {"input_ids": words.input_ids, "attention_mask": words.attention_mask} | self.pixels(scenes)
        out = self.model.generate(**inputs, max_new_tokens=40, do_sample=False)
        return self.tokenizer.batch_decode(out[:, words.input_ids.shape[1] :], skip_special_tokens=True)


def batches(kind: Kind, per_kind: int, seed0: int) -> Iterator[list[Scene]]:
    """The held-out scenes of a kind, like beside like: clips of one length, pictures of one grid."""
    scenes = [scene(kind, seed0 + i) for i in range(per_kind)]
    if kind == "image":
        scenes.sort(key=visual_tokens)
    scenes.sort(key=lambda one: len(one.pictures))
    group: list[Scene] = []
    for one in scenes:
        if group and (len(group) == BATCH or len(one.pictures) != len(group[0].pictures)):
            yield group
            group = []
        group.append(one)
    yield group


def record(folder: Path, per_kind: int, minutes: float) -> None:
    """Measure, print and write folder/ACCURACY.json, with how the checkpoint came about."""
    result = measure(folder, per_kind) | {
        "training_minutes": minutes,
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, no GPU",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    words = json.dumps(result, indent=1)
    (folder / "ACCURACY.json").write_text(words + "\n")
    print(words)


def measure(folder: Path, per_kind: int, seed0: int = SEED) -> dict[str, object]:
    """Exact matches on held-out scenes: right and all by kind and prompt, and by grid over all prompts."""
    reader, counts = Reader(folder), {}
    right = {kind: dict.fromkeys(PROMPTS, 0) for kind in KINDS}
    grids = {f"{rows}x{columns}": [0, 0] for rows, columns in GRIDS}
    for kind in KINDS:
        for group in batches(kind, per_kind, seed0):
            for name, text in PROMPTS.items():
                hits = [
                    one.truth[name] == said
                    for one, said in zip(group, reader.captions(group, text), strict=True)
                ]
                right[kind][name] += sum(hits)
                for one, hit in zip(group, hits, strict=True):
                    if kind == "image":
                        height, width = one.pictures[0].shape[:2]
                        cell = grids[f"{-(-height // TILE)}x{-(-width // TILE)}"]
                        cell[0], cell[1] = cell[0] + hit, cell[1] + 1
    counts = {
        kind: {name: {"right": n, "all": per_kind} for name, n in right[kind].items()} for kind in KINDS
    }
    return {
        "exact_match": counts,
        "grids": {name: {"right": hit, "all": every} for name, (hit, every) in grids.items()},
        "seeds": [seed0, seed0 + per_kind],
    }
