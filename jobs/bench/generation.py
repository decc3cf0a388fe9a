"""What captions cost here, beside transformers' `generate` one by one and in a left-padded batch.

    python -m jobs.bench.generation CHECKPOINT [--new-tokens N] [--pairs N] [--dtype NAME] [--threads N]

The pictures of `jobs.bench.prompts`, decoded and cut beforehand; every caption has exactly as many new tokens as asked
for. All sides run in turns in one process, on the same crops and token ids; printed are medians of ratios, with their
spread and seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from actors.checkpoint import geometry
from actors.loading import load_model
from actors.replica import Replica
from actors.vision import normalized
from jobs.bench.prompts import QUESTIONS, SEED, SIZES, samples
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Request, Turn

Ids = list[tuple[int, ...]]


class Peer:
    """transformers' own model and `generate`, given the crops and token ids of requests about single images."""

    def __init__(self, model: ModelConfig, folder: Path, tiles: Geometry, new_tokens: int) -> None:
        self._model: Any = load_model(model, folder, 0.0)
        self._tiles, self._new = tiles, new_tokens

    def one_by_one(self, requests: Sequence[Request]) -> Ids:
        """Each request by itself."""
        return [ids for request in requests for ids in self.batch([request])]

    def batch(self, requests: Sequence[Request]) -> Ids:
        """All in one batch, prompts padded on the left, crops with zeros."""
        prompts = [torch.tensor(request.input_ids) for request in requests]
        ids = pad_sequence(prompts, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left")
        sizes = [request.sample.view.sizes[0] for request in requests]
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=self._pixels(requests),
                image_sizes=torch.tensor([(size.height, size.width) for size in sizes]),
                max_new_tokens=self._new,
                min_new_tokens=self._new,
                do_sample=False,
            )
        return [tuple(row[ids.shape[1] :].tolist()) for row in out]

    def _pixels(self, requests: Sequence[Request]) -> Tensor:
        crops = [torch.from_numpy(request.sample.crops) for request in requests]
        pixels = [normalized(c, self._tiles.mean, self._tiles.std).to(self._model.dtype) for c in crops]
        most = max(map(len, pixels))
        return torch.stack([pad(p, (0, 0, 0, 0, 0, 0, 0, most - len(p))) for p in pixels])


def ours(replica: Replica, requests: Sequence[Request], new_tokens: int) -> Ids:
    """The replica's captions of all requests."""
    settings = GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    found = dict(replica.generate(requests, settings))
    return [found[number].token_ids for number in range(len(requests))]


def timed(side: Callable[[], Ids]) -> tuple[float, Ids]:
    """Seconds, and what was said."""
    begun = time.perf_counter()
    said = side()
    return time.perf_counter() - begun, said


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    model = ModelConfig(str(given.checkpoint), dtype=given.dtype, threads=given.threads)
    tiles, console, new = geometry(given.checkpoint), Console(soft_wrap=True), given.new_tokens
    replica = Replica(model, str(given.checkpoint), tiles, new)
    peer = Peer(model, given.checkpoint, tiles, new)
    asked = PromptConfig("p", (Turn("user", QUESTIONS[0]),))
    requests = [replica.encode(one, asked, {}) for one in samples(tiles)]
    console.print(
        f"{len(SIZES)} pictures, {new} new tokens each, {given.dtype}, {torch.get_num_threads()} threads, "
        f"seed {SEED}; medians of {given.pairs} rounds"
    )
    sides: dict[str, Callable[[], Ids]] = {
        "here": lambda: ours(replica, requests, new),
        "generate, one by one": lambda: peer.one_by_one(requests),
        "generate, one batch": lambda: peer.batch(requests),
    }
    sides["here"]()  # warm up
    rounds = [{name: timed(side) for name, side in sides.items()} for _ in range(given.pairs)]
    for name in sides:
        seconds = [each[name][0] for each in rounds]
        ratios = sorted(each[name][0] / each["here"][0] for each in rounds)
        same = sum(a == b for a, b in zip(rounds[0][name][1], rounds[0]["here"][1], strict=True))
        console.print(
            f"{name:22}{statistics.median(seconds):8.1f} s  {statistics.median(ratios):5.2f} x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})  {same} of {len(requests)} captions the same"
        )


if __name__ == "__main__":
    main()
