"""Does it fit? The batch that a replica's memory holds, and the refusal, with its arithmetic, where none does.

Weights and KV are exact (`pipeline.footprint`). What computing takes beside them is a bound from above, from the
tensors that are alive together in transformers' layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.config import GIB, GenerationConfig, ModelConfig
from pipeline.errors import ConfigError
from pipeline.footprint import BYTES, Footprint, Shape

# Crops in one pass of the vision tower. 32 of 729 patches make GEMMs of 23,000 rows, enough for any device, and bound
# the tower's activations (the widest, 4,304: 0.2 GB in bfloat16) whatever the batch.
CROPS_PER_PASS = 32
# Prompt tokens in one pass of the language model, unless one prompt has more: GEMMs of so many rows fill any device,
# and its activations (at 7B 0.14 MB a token) are bounded whatever the batch.
PREFILL_TOKENS = 4096
# Of a replica's memory: a CUDA context with its kernels takes 0.5 GiB, the allocator loses some to fragments, and
# layers do not divide evenly among GPUs, bitsandbytes unpacks 4-bit weights, one matrix at a time, to read them, and a
# CPU may compute a prompt of 16 bits in float32 (`actors.kernels`).
# What vLLM leaves by default (gpu_memory_utilization 0.9).
RESERVED = 0.1
# Of a CPU's memory for weights that are packed again: other replicas may be beside, each with such a copy.
PACKED = 1 / 8
PROMPT_TEXT = 512  # tokens of text beside the picture, in the longest prompt that must fit
# Projected patches for each visual token that is made of them: a video pools 27 x 27 to 14 x 14 (3.7), 36 tiles are
# scaled down to 9 (3.4), and a thin picture keeps its base crop and a strip of its tiles (5 in a grid of 4).
FEATURES_PER_TOKEN = 5
FLOAT32 = 4
# For each entry of the vocabulary and each caption, while a token is drawn: logits in the dtype and in float32, warped
# and sorted with int64 indices, and float64 probabilities and their sums.
BYTES_PER_LOGIT = 48


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a replica takes: `weights`, `vision` and `prefill` (one pass of the tower, and of prompts) once,
    `token` for each prompt token that has a place in the cache, and `caption` for each prompt."""

    weights: int
    vision: int
    prefill: int
    token: int
    caption: int

    def batch(self, tokens: int, captions: int) -> int:
        """Bytes of so many prompts at once with all that is held beside them."""
        return self.weights + self.vision + self.prefill + tokens * self.token + captions * self.caption


def needs(footprint: Footprint, model: ModelConfig, max_new_tokens: int) -> Needs:
    """What a replica of `footprint` takes, held and run as `model` says.

    A pass of prompts takes for each token the layers' activations, or the features that its picture is packed from,
    twice while they are joined. A token's share is its KV, a caption's the KV of `max_new_tokens` and the logits that
    its next token is drawn from.
    """
    size, text = BYTES[model.dtype], footprint.text
    kv = footprint.kv_bytes_per_token(model.dtype)
    features = 2 * FEATURES_PER_TOKEN * text.hidden * size
    return Needs(
        footprint.weight_bytes(model.dtype, model.quantization),
        _vision(footprint, model),
        max(PREFILL_TOKENS, longest(footprint)) * max(features, _layer(text, model, longest(footprint))),
        kv,
        max_new_tokens * kv + BYTES_PER_LOGIT * footprint.vocabulary,
    )


def longest(footprint: Footprint) -> int:
    """Tokens of the longest prompt about one image."""
    return footprint.image_tokens + PROMPT_TEXT


def batch_tokens(
    footprint: Footprint, model: ModelConfig, generation: GenerationConfig, memory_bytes: int
) -> int:
    """The most prompt tokens whose KV `memory_bytes` (of a replica's GPUs together) hold at once.

    At least `longest`: ConfigError, with the arithmetic and what would fit, where one such prompt does not.
    """
    need = needs(footprint, model, generation.max_new_tokens)
    room = _room(memory_bytes)
    alone = longest(footprint)
    if need.batch(alone, 1) > room:
        raise ConfigError([_refusal(footprint, model, generation, memory_bytes)])
    return max(alone, (room - need.batch(0, generation.batch_size)) // need.token)


def packed_bytes(
    footprint: Footprint, model: ModelConfig, generation: GenerationConfig, memory_bytes: int
) -> int:
    """Of a second copy of weights, from which a CPU multiplies (`actors.kernels`): the larger one of those of the
    language model in float32, and of all in `model`'s dtype.

    0 where `model` does without, where it takes more than `PACKED` of the memory, or where a prompt of `longest` has
    no place beside it.
    """
    if not model.packed or model.compiled or model.quantization != "none":
        return 0
    text = footprint.language.linear + footprint.vocabulary * footprint.text.hidden
    whole = text + footprint.vision.linear + footprint.projector.linear
    size = max(FLOAT32 * text, BYTES[model.dtype] * whole if model.dtype != "float32" else 0)
    beside = needs(footprint, model, generation.max_new_tokens).batch(longest(footprint), 1)
    return size if size <= PACKED * memory_bytes and beside <= _room(memory_bytes - size) else 0


def said(footprint: Footprint, model: ModelConfig) -> str:
    """One line for people: parameters, weights and KV."""
    kv = footprint.kv_bytes_per_token(model.dtype)
    return f"{_weights(footprint, model)}, {kv:,} bytes of KV a token"


def _layer(shape: Shape, model: ModelConfig, length: int) -> int:
    """Bytes of activations for each position of sequences of `length`, at the widest point of a layer.

    In a gated MLP: gate, up and their product, the layer's input and its normed copy, and two more copies of the
    embeddings that its callers hold; of a plain one (quick_gelu: x, 1.702 x, its sigmoid) the same bounds it.
    Attention's queries, keys, values and their rotated copies are fewer. LLM.int8 adds rows of int8 and products
    of int32. The scores of eager attention: as computed, masked, and as probabilities in float32 and in the dtype.
    The other implementations need neither scores nor a mask.
    """
    size = BYTES[model.dtype]
    values = (3 * shape.intermediate + 4 * shape.hidden) * size
    if model.quantization == "int8":
        values += shape.intermediate + 4 * shape.intermediate
    if model.attention == "eager":
        values += shape.heads * length * (3 * size + FLOAT32)
    return values


def _vision(footprint: Footprint, model: ModelConfig) -> int:
    """Bytes of one pass: pixels as uint8, float32 and the dtype, and the wider of a tower's layer and the projector
    (its input, both linear layers' outputs and the activation's)."""
    size, tower = BYTES[model.dtype], footprint.tower
    pixels = 3 * footprint.tile**2 * (1 + FLOAT32 + size)
    layer = _layer(tower, model, footprint.positions)
    projector = (footprint.features + 3 * footprint.text.hidden) * size
    return CROPS_PER_PASS * (
        pixels + footprint.positions * (max(layer, projector) + footprint.features * size)
    )


def _refusal(footprint: Footprint, model: ModelConfig, generation: GenerationConfig, memory: int) -> str:
    new, tokens = generation.max_new_tokens, longest(footprint)
    need = needs(footprint, model, new)
    whole = need.batch(tokens, 1)
    terms = (
        f"{_weights(footprint, model)}",
        f"{_gib(need.vision)} for {CROPS_PER_PASS} crops in the vision tower",
        f"{_gib(whole - need.weights - need.vision)} for one prompt of {tokens:,} tokens and {new:,} new ones "
        f"(of which KV {need.token:,} bytes a token)",
    )
    has = f"a replica has {_gib(memory)}, of which {1 - RESERVED:.0%} can be planned with"
    ways = "; ".join(_ways(footprint, model, new, memory))
    return (
        f"[model] {model.path} needs {' + '.join(terms)} = {_gib(whole)}, and {has}; what would fit: {ways}"
    )


def _ways(footprint: Footprint, model: ModelConfig, new: int, memory: int) -> Iterator[str]:
    """What would fit: each change alone, and last, more memory."""
    room, tokens = _room(memory), longest(footprint)
    changes = {
        'attention = "sdpa"': replace(model, attention="sdpa"),
        'dtype = "bfloat16"': replace(model, dtype="bfloat16"),
        'quantization = "int8"': replace(model, quantization="int8"),
        'quantization = "int4"': replace(model, quantization="int4"),
    }
    for words, changed in changes.items():
        if (whole := needs(footprint, changed, new).batch(tokens, 1)) <= room:
            yield f"[model] {words} ({_gib(whole)})"
    times = math.ceil(needs(footprint, model, new).batch(tokens, 1) / room)
    yield f"{times} times the memory ([cluster] gpus_per_replica)"


def _room(memory: int) -> int:
    return int(memory * (1 - RESERVED))


def _weights(footprint: Footprint, model: ModelConfig) -> str:
    weights = footprint.weight_bytes(model.dtype, model.quantization)
    held = model.dtype if model.quantization == "none" else f"{model.quantization} and {model.dtype}"
    return f"{_gib(weights)} of weights ({_count(footprint.parameters)} parameters in {held})"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:,.1f} M"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):,.0f} MiB"
