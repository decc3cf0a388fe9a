"""What the vision tower computes: crops to the visual tokens that the language model reads.

Arithmetic on tensors only. No padded crop is ever run, and samples of all shapes run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from actors.trimming import trim_vision
from pipeline.anyres import Geometry
from pipeline.fit import CROPS_PER_PASS
from pipeline.types import Media, Pixels, Sample, Size, View

Model = (
    Any  # LlavaOnevisionForConditionalGeneration or LlavaNextForConditionalGeneration: both have these parts
)


def normalized(crops: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(n, tile, tile, 3) uint8 to (n, 3, tile, tile) float32: (x / 255 - mean) / std by channel."""
    pixels = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # Dividing rounds as transformers' float64 product does; multiplying by 1 / 255 differs for 126 of 256 values.
    pixels /= pixels.new_tensor(255)
    pixels -= pixels.new_tensor(mean)[:, None, None]
    pixels /= pixels.new_tensor(std)[:, None, None]
    return pixels


class Vision:
    """The vision tower, of so many `crops` at once, the projector, and the packing of features into visual tokens."""

    def __init__(self, model: Model, geometry: Geometry, crops: int = CROPS_PER_PASS) -> None:
        self._model = model.model
        trim_vision(self._model)
        for module in self._model.vision_tower.modules():
            if hasattr(module, "patch_embedding"):
                module.register_forward_hook(_row_by_row)
        self._geometry = geometry
        self._crops = crops

    def tokens(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The visual tokens of each sample: (its number of visual tokens, width of the language model)."""
        distinct = [distinct_crops(sample.crops) for sample in samples]
        crops = [crop for own in distinct for crop in own]
        starts = range(0, len(crops), self._crops)
        features = torch.cat([self._tower(crops[i : i + self._crops]) for i in starts])
        each = features.split([len(own) for own in distinct])
        return [self._sample(own, sample) for own, sample in zip(each, samples, strict=True)]

    def _sample(self, features: Tensor, sample: Sample) -> Tensor:
        """Visual tokens of one sample, given the features of its distinct crops."""
        n = len(sample.crops)
        return self._pack(features if len(features) == n else features.expand(n, -1, -1), sample.view)

    def _tower(self, crops: Sequence[Pixels]) -> Tensor:
        """Projected features of crops, each (tile, tile, 3) uint8: (crops, patches, width)."""
        config = self._model.config
        layer = config.vision_feature_layer
        pixels = torch.from_numpy(np.stack(crops)).to(self._model.device)
        pixels = normalized(pixels, self._geometry.mean, self._geometry.std).to(self._model.dtype)
        hidden = self._model.vision_tower(pixels, output_hidden_states=layer).hidden_states
        chosen = hidden[layer] if isinstance(layer, int) else torch.cat([hidden[i] for i in layer], dim=-1)
        if config.vision_feature_select_strategy == "default":  # without the class token
            chosen = chosen[:, 1:]
        features: Tensor = self._model.multi_modal_projector(chosen)
        return features

    def _pack(self, features: Tensor, view: View) -> Tensor:
        if view.media is Media.VIDEO:
            return torch.cat([self._pool(features), self._newline(features)[None]])
        each = features.split(self._geometry.n_crops(view.media, view.sizes, 0))
        return torch.cat([self._picture(*own) for own in zip(each, view.sizes, strict=True)])

    def _newline(self, features: Tensor) -> Tensor:
        newline: Tensor = self._model.image_newline
        return newline.to(features)

    def _picture(self, features: Tensor, size: Size) -> Tensor:
        """One image: its base crop, and its tiles where there are some, else a newline."""
        newline = self._newline(features)
        rest = self._grid(features[1:], size, newline) if len(features) > 1 else newline[None]
        return torch.cat([features[0], rest])

    def _grid(self, tiles: Tensor, size: Size, newline: Tensor) -> Tensor:
        """Tiles of one image as one picture without its padding, each row closed with the newline."""
        rows, columns = self._geometry.grid(size)
        side = self._geometry.patches
        picture = tiles.view(rows, columns, side, side, -1).permute(4, 0, 2, 1, 3)
        picture = picture.reshape(-1, rows * side, columns * side)
        high, wide = self._geometry.unpadded(size)
        top, left = (picture.shape[1] - high) // 2, (picture.shape[2] - wide) // 2
        picture = picture[:, top : top + high, left : left + wide]
        if (packed := self._geometry.packed(size)) != (high, wide):
            picture = interpolate(picture[None], packed, mode="bilinear")[0]
        picture = torch.cat([picture, newline[:, None, None].expand(-1, picture.shape[1], 1)], dim=2)
        return picture.flatten(1).T

    def _pool(self, frames: Tensor) -> Tensor:
        """Frames (n, patches, width) at half the resolution, rounded up: (n * ceil(side / 2) ** 2, width)."""
        side = self._geometry.patches
        pictures = frames.view(len(frames), side, side, -1).permute(0, 3, 1, 2).contiguous()
        half = -(-side // 2)
        return interpolate(pictures, (half, half), mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)


def _row_by_row(_: Any, __: Any, patches: Tensor) -> Tensor:
    """A convolution leaves patches column by column, and so would all layers, with a copy before each norm."""
    return patches.contiguous()


def distinct_crops(crops: Pixels) -> Pixels:
    """One of two equal crops, as base and only tile of a square no larger than a tile are; else all."""
    return crops[:1] if len(crops) == 2 and np.array_equal(*crops) else crops
