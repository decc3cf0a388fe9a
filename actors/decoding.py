"""What the model computes: crops to visual tokens, prompts to a cache, a cache to captions.

Arithmetic on tensors only: no files, no tokenizer, no Ray. The tokens are those that transformers' own model
gives for each sample alone, but no padded crop is ever run, and samples of all shapes run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, LlavaOnevisionForConditionalGeneration

from pipeline.anyres import Geometry
from pipeline.types import Finish, Media, Pixels, Sample, Size

# Crops in one pass of the vision tower. 32 of 729 patches make GEMMs of 23,000 rows, enough for any device, and bound
# the tower's activations (the widest, 4,304: 0.2 GB in bfloat16) whatever the batch.
CROPS_PER_PASS = 32


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

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, geometry: Geometry) -> None:
        self._model = model.model
        self._geometry = geometry

    def tokens(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The visual tokens of each sample: (its number of visual tokens, width of the language model)."""
        crops = [crop for sample in samples for crop in sample.crops]
        starts = range(0, len(crops), CROPS_PER_PASS)
        features = torch.cat([self._tower(crops[i : i + CROPS_PER_PASS]) for i in starts])
        each = torch.split(features, [len(sample.crops) for sample in samples])
        return [self._pack(own, sample) for own, sample in zip(each, samples, strict=True)]

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

    def _pack(self, features: Tensor, sample: Sample) -> Tensor:
        newline = self._model.image_newline.to(features.dtype)
        match sample.view.media:
            case Media.IMAGE:
                return torch.cat([features[0], self._grid(features[1:], sample.view.sizes[0], newline)])
            case Media.IMAGES:
                return torch.cat([features, newline.expand(len(features), 1, -1)], dim=1).flatten(0, 1)
            case Media.VIDEO:
                return torch.cat([self._pool(features), newline[None]])

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
class Spoken:
    """One generated sequence: its tokens, the stop token included, and their mean log-probability."""

    token_ids: tuple[int, ...]
    finish: Finish
    mean_logprob: float


class Decoder:
    """The language model: greedy continuation of prompts that are given as embeddings."""

    def __init__(self, model: LlavaOnevisionForConditionalGeneration, stop: Sequence[int]) -> None:
        self._model = model
        self._stop = frozenset(stop)

    def embed(self, input_ids: Sequence[int], placeholder: int, visual: Tensor) -> Tensor:
        """(tokens, width): the embeddings of `input_ids`, with `visual` in place of the placeholder's id."""
        ids = torch.tensor(input_ids, device=self._model.device)
        embedded: Tensor = self._model.get_input_embeddings()(ids)
        embedded[ids == placeholder] = visual.to(embedded.dtype)
        return embedded

    def speak(self, prompts: Sequence[Tensor], max_new_tokens: int) -> list[Spoken]:
        """Continue each prompt, (tokens, width), with the most probable tokens until a stop token or the limit.

        Sequences do not see each other, nor the padding on their left. One that has finished runs on, unread,
        until all have.
        """
        real = [prompt.new_ones(len(prompt), dtype=torch.long) for prompt in prompts]
        inputs, mask = self._padded(prompts), pad(self._padded(real), (0, max_new_tokens), value=1)
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        stop = torch.tensor(sorted(self._stop), device=inputs.device)
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=inputs.device)
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        while True:
            logits = self._forward(inputs, mask, cache)
            tokens.append(logits.argmax(-1))
            logprobs.append(logits.log_softmax(-1).gather(1, tokens[-1][:, None])[:, 0])
            finished |= torch.isin(tokens[-1], stop)
            if len(tokens) == max_new_tokens or bool(finished.all()):
                break
            inputs = self._model.get_input_embeddings()(tokens[-1][:, None])
        each = zip(torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist(), strict=True)
        return [self._cut(ids, logs) for ids, logs in each]

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of several lengths as one tensor, padded on the left: the last position of each is real."""
        return pad_sequence(list(rows), batch_first=True, padding_side="left")

    def _forward(self, inputs: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Float32 logits of the last position, (batch, vocabulary), after `inputs` have joined the cache."""
        begin = cache.get_seq_length()
        end = begin + inputs.shape[1]
        hidden = self._model.model.language_model(
            inputs_embeds=inputs,
            attention_mask=mask[:, :end],
            # A token's position counts the real tokens before it; padding has position 0 and is never seen.
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, begin:end],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self._model.lm_head(hidden[:, -1])
        return logits.float()

    def _cut(self, ids: list[int], logprobs: list[float]) -> Spoken:
        """A row of the batch up to its own end."""
        end = next((i for i, token in enumerate(ids, 1) if token in self._stop), None)
        own = ids[:end]
        finish = Finish.LENGTH if end is None else Finish.STOP
        return Spoken(tuple(own), finish, sum(logprobs[:end]) / len(own))
