"""transformers' own model and `generate`: one by one, or in batches padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from actors.loading import load_model
from actors.vision import normalized
from jobs.bench.measured import Ids
from jobs.bench.subject import Subject
from pipeline.types import Request


class Transformers:
    """The same checkpoint, given the crops and token ids of requests about single images."""

    def __init__(self, subject: Subject) -> None:
        self._model: Any = load_model(subject.model, subject.folder, subject.gpus)
        self._tiles = subject.tiles

    def captions(self, requests: Sequence[Request], lengths: Sequence[int], size: int) -> Ids:
        """Greedy token ids in batches of `size`; a batch runs until its longest is done, and the others are cut."""
        starts = range(0, len(requests), size)
        return [ids for i in starts for ids in self._batch(requests[i : i + size], lengths[i : i + size])]

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], lengths: Sequence[int]) -> Ids:
        prompts = [torch.tensor(request.input_ids) for request in requests]
        ids = pad_sequence(prompts, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left")
        sizes = [request.sample.view.sizes[0] for request in requests]
        out = self._model.generate(
            input_ids=ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            pixel_values=self._pixels(requests).to(self._model.device),
            image_sizes=torch.tensor([(size.height, size.width) for size in sizes]),
            max_new_tokens=max(lengths),
            min_new_tokens=max(lengths),
            do_sample=False,
        )
        said = out[:, ids.shape[1] :].tolist()
        return [tuple(row[:length]) for row, length in zip(said, lengths, strict=True)]

    def _pixels(self, requests: Sequence[Request]) -> Tensor:
        """Normalised crops, (requests, most crops, 3, tile, tile), those that are missing as zeros."""
        crops = [torch.from_numpy(request.sample.crops) for request in requests]
        pixels = [normalized(c, self._tiles.mean, self._tiles.std).to(self._model.dtype) for c in crops]
        most = max(map(len, pixels))
        return torch.stack([pad(p, (0, 0, 0, 0, 0, 0, 0, most - len(p))) for p in pixels])
