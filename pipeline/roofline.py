"""The least time that a GPU takes for a caption, from the model's shape and the GPU's peaks.

Roofline (S. Williams, A. Waterman, D. Patterson, Communications of the ACM 52(4), 2009): a pass takes at least its
floating point operations by the peak rate and its bytes by the bandwidth of memory, whichever is longer. A product of
(n, a) and (a, b) is 2 n a b operations. Norms, activations and copies are left out: under 1 % of a pass of thousands of
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt

from pipeline.footprint import BYTES, Footprint


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peaks: dense operations a second in bfloat16 with float32 sums, bytes a second from memory, bytes of memory.

    `compute` and `stream` are the shares of them that good engines reach.
    """

    flops: float
    bandwidth: float
    memory: float
    compute: float = 0.5
    stream: float = 0.7

    def times(self, share: float) -> Gpu:
        """A part of it, or several of them between which nothing is lost."""
        return replace(
            self, flops=self.flops * share, bandwidth=self.bandwidth * share, memory=self.memory * share
        )


# From NVIDIA's data sheets; those that print rates with sparsity are halved.
GPUS: Mapping[str, Gpu] = {
    "h100": Gpu(989.4e12, 3.35e12, 80e9),  # SXM5
    "h200": Gpu(989.4e12, 4.8e12, 141e9),
    "a100": Gpu(312e12, 2.039e12, 80e9),  # SXM4, 80 GB
    "l40s": Gpu(362.05e12, 864e9, 48e9),
    "l4": Gpu(121e12, 300e9, 24e9),
}


@dataclass(frozen=True, slots=True)
class Roofline:
    """Seconds of passes of one model, weights and cache in `dtype`, on one GPU."""

    footprint: Footprint
    dtype: str
    quantization: str
    gpu: Gpu

    def vision_s(self, crops: int) -> float:
        """So many crops through tower and projector."""
        return self._seconds(vision_flops(self.footprint, crops), 0)

    def prefill_s(self, lengths: Sequence[int]) -> float:
        """Prompts of these lengths, packed, through the language model."""
        return self._seconds(prefill_flops(self.footprint, lengths), self._weights)

    def step_s(self, contexts: Sequence[int]) -> float:
        """One more token after each of these many, whose keys and values are read."""
        kv = self.footprint.kv_bytes_per_token(self.dtype)
        return self._seconds(step_flops(self.footprint, contexts), self._weights + kv * sum(contexts))

    def _seconds(self, flops: float, read: float) -> float:
        return max(flops / (self.gpu.flops * self.gpu.compute), read / (self.gpu.bandwidth * self.gpu.stream))

    @property
    def _weights(self) -> int:
        """Bytes of the language model and the output layer, which may be the embeddings."""
        head = self.footprint.vocabulary * self.footprint.text.hidden * BYTES[self.dtype]
        return self.footprint.language.held_bytes(self.dtype, self.quantization) + head


def vision_flops(footprint: Footprint, crops: int) -> float:
    """Patches, the layers of the tower that are read, their attention within a crop, and the projector."""
    tower, text = footprint.tower, footprint.text
    layer = 4 * tower.hidden**2 + 2 * tower.hidden * tower.intermediate
    attention = 2 * footprint.positions * tower.hidden
    patch = (
        3 * (footprint.tile // isqrt(footprint.positions)) ** 2 * tower.hidden
    )  # a class token is no patch
    projector = footprint.features * text.hidden + text.hidden**2
    each = footprint.layers_read * (layer + attention) + patch + projector
    return 2.0 * crops * footprint.positions * each


def prefill_flops(footprint: Footprint, lengths: Sequence[int]) -> float:
    """Linear layers for each token, causal attention within each prompt, the output layer after its last token.

    The last layer's gated MLP is run for last tokens only (`actors.trimming`).
    """
    text = footprint.text
    width = text.heads * text.head_dim * text.layers
    spared = 3 * text.hidden * text.intermediate * (sum(lengths) - len(lengths))
    linear = footprint.language.linear * sum(lengths) - spared
    causal = width * sum(n * n for n in lengths)
    return 2.0 * (linear + causal + len(lengths) * footprint.vocabulary * text.hidden)


def step_flops(footprint: Footprint, contexts: Sequence[int]) -> float:
    """Linear layers, attention to all that came before, and the output layer."""
    text = footprint.text
    attention = 2 * text.heads * text.head_dim * text.layers * sum(contexts)
    linear = footprint.language.linear + footprint.vocabulary * text.hidden
    return 2.0 * (len(contexts) * linear + attention)
