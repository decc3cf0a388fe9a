"""What the model computes: crops to visual tokens, prompts to a cache, a cache to captions.

Arithmetic on tensors only: no files, no tokenizer, no Ray. The tokens are those that transformers' own model
gives for each sample alone, but no padded crop is ever run, samples of all shapes run side by side, and what
the prompts of one sample have in common is run once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from actors.sampling import Choice, Spoken
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
    """The vision tower, the projector, and the packing of their features into visual tokens."""

    def __init__(self, model: Model, geometry: Geometry) -> None:
        self._model = model.model
        self._geometry = geometry

    def tokens(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The visual tokens of each sample: (its number of visual tokens, width of the language model)."""
        crops = [crop for sample in samples for crop in sample.crops]
        starts = range(0, len(crops), CROPS_PER_PASS)
        features = torch.cat([self._tower(crops[i : i + CROPS_PER_PASS]) for i in starts])
        each = torch.split(features, [len(sample.crops) for sample in samples])
        return [self._pack(own, sample.view) for own, sample in zip(each, samples, strict=True)]

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


@dataclass(frozen=True, slots=True)
class Branches:
    """Prompts with a common beginning, as embeddings (tokens, width).

    `prefix` is the beginning, which may be empty; each of `suffixes` goes on from it with one token at least.
    """

    prefix: Tensor
    suffixes: tuple[Tensor, ...]


class Decoder:
    """The language model: continuation of prompts that are given as embeddings."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._config = model.config.get_text_config(decoder=True)

    @property
    def can_branch(self) -> bool:
        """Whether a prefix may be shared. A sliding window counts the padding between prefix and suffix too, so
        that a shared prefix would be seen less far than a prompt's own."""
        return not any(DynamicCache(config=self._config).is_sliding)

    def embed(self, input_ids: Sequence[int], placeholder: int, visual: Tensor) -> Tensor:
        """(tokens, width): the embeddings of `input_ids`, with `visual` in place of the placeholder's id."""
        ids = torch.tensor(input_ids, device=self._model.device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        embedded[ids == placeholder] = visual.to(embedded)
        return embedded

    def speak(self, groups: Sequence[Branches], choice: Choice, max_new_tokens: int) -> list[Spoken]:
        """Continue every prompt of every group, in order, by `choice` until it is done.

        Prefixes are run once each. Either all groups have a prefix or none has. Sequences do not see each other,
        nor the padding on their left. One that has finished runs on, unread, until all have.
        """
        cache = DynamicCache(config=self._config)
        hidden, mask = self._prefill(groups, cache, max_new_tokens)
        while True:
            logits = self._model.get_output_embeddings()(hidden[:, -1])
            token = choice.next(logits.to(self._model.device, torch.float32))
            if choice.done():
                return choice.spoken()
            hidden = self._forward(self._model.get_input_embeddings()(token[:, None]), mask, cache)

    def _prefill(
        self, groups: Sequence[Branches], cache: DynamicCache, max_new_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of the suffixes, and the mask of all tokens that there will be, prompts' and captions'."""
        suffixes, mask = self._side_by_side([suffix for group in groups for suffix in group.suffixes])
        if any(len(group.prefix) for group in groups):
            prefixes, before = self._side_by_side([group.prefix for group in groups])
            self._forward(prefixes, before, cache)
            owner = [i for i, group in enumerate(groups) for _ in group.suffixes]
            owners = torch.tensor(owner)  # on the CPU: a cache may lie on several GPUs, layer by layer
            cache.batch_select_indices(owners)
            mask = torch.cat([before[owners], mask], dim=1)
        mask = pad(mask, (0, max_new_tokens), value=1)
        return self._forward(suffixes, mask, cache), mask

    def _side_by_side(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows of several lengths as one tensor, (rows, longest, width), and its mask: 1 where a token is real."""
        real = [row.new_ones(len(row), dtype=torch.long) for row in rows]
        return self._padded(rows), self._padded(real)

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        """Padded on the left: the last position of each row is real."""
        return pad_sequence(list(rows), batch_first=True, padding_side="left")

    def _forward(self, inputs: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states, (batch, tokens, width), of `inputs`, (batch, tokens, width), which join the cache."""
        begin = cache.get_seq_length()
        end = begin + inputs.shape[1]
        hidden: Tensor = self._model.model.language_model(
            inputs_embeds=inputs,
            attention_mask=mask[:, :end],
            # A token's position counts the real tokens before it; padding has position 0 and is never seen.
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, begin:end],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden
