"""A checkpoint over four pretended GPUs: is every operation's every tensor on one device?

    python -m tests.actors.pretended FOLDER

torch's fake tensors have a shape and a device, and no values; what takes two devices in one operation is refused, as
CUDA refuses it. The model is transformers' own, divided and given its hooks by accelerate, as a real one is. Printed
are the devices that hold the language model's layers, of their cache, and the logits' shape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import dispatch_model, infer_auto_device_map
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import AutoConfig, AutoModelForImageTextToText

from actors.checkpoint import geometry
from actors.decoding import Branches, Decoder
from actors.slots import Slots
from actors.vision import Vision
from pipeline.batching import Slot
from pipeline.types import Media, Sample, Size, View

GPUS = 4
SHARE = 0.4  # of the model's bytes that one of them holds, of which the tail of what fits nowhere leaves some empty


def pretend() -> None:
    """Let torch take "pretended:0" for a device, and make what it would make there in native code as zeros."""
    _setup_privateuseone_for_python_backend("pretended")
    made, taken = torch.tensor, torch.Tensor.__getitem__
    switches: Any = torch

    def tensor(data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
        return (
            made(data, **more)
            if device is None
            else torch.zeros(np.shape(data), dtype=torch.int64, device=device)
        )

    def like(self: torch.Tensor, data: Any) -> torch.Tensor:
        return self.new_zeros(np.shape(data))

    def item(self: torch.Tensor, index: Any) -> torch.Tensor:
        return taken(self, torch.zeros(len(index), dtype=torch.int64) if isinstance(index, list) else index)

    switches.tensor, switches.Tensor.new_tensor, switches.Tensor.__getitem__ = tensor, like, item


def skeleton(folder: Path) -> Any:
    """The model of the folder's configuration, nowhere yet."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    return model.eval().requires_grad_(False)


def spread(model: Any) -> Any:
    """The model over the GPUs, without values."""
    whole = sum(own.numel() * own.element_size() for own in model.parameters())
    room: Any = dict.fromkeys(range(GPUS), int(SHARE * whole))
    placed = infer_auto_device_map(model, room, no_split_module_classes=model._no_split_modules)
    devices = {name: f"pretended:{place}" for name, place in placed.items()}
    for name, device in devices.items():
        owner, _, last = name.rpartition(".")
        part = getattr(model.get_submodule(owner), last)
        if isinstance(part, torch.nn.Parameter):
            here = torch.nn.Parameter(torch.empty_like(part, device=device), requires_grad=False)
            setattr(model.get_submodule(owner), last, here)
        else:
            part.to_empty(device=device)
    return dispatch_model(model, devices, force_hooks=True)


def main(folder: Path) -> None:
    """A picture in tiles through the tower, two prompts about it through the language model, and a token of each."""
    bare, tiles = skeleton(folder), geometry(folder)
    pretend()
    shapes = ShapeEnv(allow_dynamic_output_shape_ops=True)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes):
        model = spread(bare)
        size = Size(2 * tiles.tile, tiles.tile)
        rows, columns = tiles.grid(size)
        count = 1 + rows * columns
        crops = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros(
            (tiles.tile, tiles.tile, 3), np.uint8
        )
        view = View(0, Media.IMAGE, "", (size,), (rows, columns), count, ())
        (visual,) = Vision(model, tiles).tokens([Sample(view, crops)])
        decoder, block = Decoder(model), Slots(2, 4 * len(visual), torch.float32)
        placeholder = model.config.image_token_index
        prompt = decoder.embed([1, *[placeholder] * len(visual), 2, 3], placeholder, visual)
        slots = [Slot(block, 0), Slot(block, 1)]
        begun = decoder.start([Branches(prompt[:-2], (prompt[-2:], prompt[-1:]))], [slots])
        logits = decoder.step(slots, [1, 2])
        layers = [str(layer.mlp.up_proj.weight.device) for layer in model.model.language_model.layers]
        caches = [str(block.keys[i].device) for i in range(len(layers))]
        print(*layers, *caches, *begun.shape, *logits.shape, model.model.vision_tower.device)


if __name__ == "__main__":
    run: Callable[[Path], None] = main
    run(Path(sys.argv[1]))
