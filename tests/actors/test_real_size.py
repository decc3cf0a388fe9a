"""A checkpoint of the real 0.5B dimensions on this machine: its memory, as predicted and as measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from actors.checkpoint import footprint, geometry
from actors.decoding import Branches
from actors.replica import Replica
from actors.slots import Slots
from pipeline import fit
from pipeline.batching import Slot
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Media, Pixels, Turn
from tests.checkpoints import Asked, captions_of
from tests.sized import write

DTYPE = "bfloat16"
NEW_TOKENS = 8
TURNS = (Turn("user", "Describe the image in detail."),)
ALLOWED = 2.5e9  # bytes above the interpreter
NEAR = 0.02  # of what was measured
CACHED = 64  # tokens of a prompt whose cache is measured


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_half_a_billion_parameters_load_and_caption_within_what_was_predicted(
    tmp_path: Path, packed: bool
) -> None:
    folder = write("half", tmp_path)
    command = [sys.executable, "-m", "tests.actors.test_real_size", str(folder), *["packed"] * packed]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    predicted = footprint(folder)
    model = ModelConfig(str(folder), dtype=DTYPE, packed=packed)
    need = fit.needs(predicted, model, NEW_TOKENS)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    copy = fit.packed_bytes(predicted, model, GenerationConfig(NEW_TOKENS), memory)

    print(f"\n{fit.said(predicted, model)}")
    print(json.dumps({**measured, "predicted": need.batch(measured["prompt_tokens"], 2)}, indent=1))
    assert measured["captions"] == 2
    assert measured["peak"] - measured["imported"] <= ALLOWED + copy
    assert measured["peak"] - measured["imported"] <= need.batch(measured["prompt_tokens"], 2) + copy
    assert predicted.weight_bytes(DTYPE, "none") == pytest.approx(measured["weights"], rel=NEAR)
    assert predicted.kv_bytes_per_token(DTYPE) == pytest.approx(measured["kv_per_token"], rel=NEAR)


def measure(folder: Path, packed: bool) -> dict[str, int]:
    """Bytes of this process and of what it holds, while the checkpoint captions two photographs."""
    imported = resident("VmRSS")
    model = ModelConfig(str(folder), dtype=DTYPE, threads=2, packed=packed)
    replica = Replica(model, str(folder), geometry(folder), NEW_TOKENS)
    loaded = resident("VmHWM")
    asked = [Asked(Media.IMAGE, (picture,), TURNS) for picture in photographs()]
    samples = [one.sample(geometry(folder), i) for i, one in enumerate(asked)]
    requests = [replica.encode(sample, PromptConfig("p", TURNS), {}) for sample in samples]
    captions = captions_of(replica, requests, GenerationConfig(max_new_tokens=NEW_TOKENS))
    held = replica._model
    return {
        "imported": imported,
        "loaded": loaded,
        "peak": resident("VmHWM"),
        "weights": size([*held.parameters(), *held.buffers()]),
        "kv_per_token": cached(replica) // CACHED,
        "captions": sum(bool(caption.token_ids) for caption in captions),
        "prompt_tokens": 2 * max(len(request.input_ids) for request in requests),
    }


def photographs() -> list[Pixels]:
    """A temple and a flower, 320 pixels wide."""
    pictures = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [np.asarray(picture.resize((320, 320 * picture.height // picture.width))) for picture in pictures]


def cached(replica: Replica) -> int:
    """Bytes of keys and values after a prompt of `CACHED` tokens, in a slot with room for as many."""
    cache = Slots(1, CACHED, replica._model.dtype)
    with torch.inference_mode():
        prompt = replica._model.get_input_embeddings()(torch.zeros(CACHED, dtype=torch.long))
        replica._decoder.start([Branches(prompt[:0], (prompt,))], [[Slot(cache, 0)]])
    return size([*cache.keys.values(), *cache.values.values()])


def size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def resident(line: str) -> int:
    """Bytes: VmRSS now, VmHWM at its highest."""
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), "packed" in sys.argv[2:])))
