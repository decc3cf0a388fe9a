"""What a checkpoint is made of: its parameters, their bytes and those of its cache, from config.json alone.

Counts are exact: those of transformers' LlavaOnevisionForConditionalGeneration and
LlavaNextForConditionalGeneration; `tests/pipeline/test_footprint.py` compares them and the tables of defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import families
from pipeline.errors import ConfigError

BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}  # of one value
NF4_BLOCK = 64  # weights that share one float32 scale in bitsandbytes' nf4
SIGLIP, CLIP = "siglip_vision_model", "clip_vision_model"

# What transformers' configuration classes take for a key that a part of config.json omits. None: as many as there
# are heads, or hidden_size / heads.
_TEXT = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,
    "tie_word_embeddings": False,
}
_TOWER = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {**_TEXT, "intermediate_size": 22016, "num_key_value_heads": 32, "vocab_size": 151936},
    "llama": {
        **_TEXT,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "vocab_size": 32000,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "mistral": {**_TEXT, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32000},
    SIGLIP: {**_TOWER, "num_channels": 3, "vision_use_head": True},
    CLIP: {**_TOWER, "num_channels": 3},
}
PER_HEAD = ("num_key_value_heads", "head_dim")  # may be null
TEXTS = ("qwen2", "llama", "mistral")


@dataclass(frozen=True, slots=True)
class Omitted:
    """What an architecture takes where config.json omits a part as a whole, or only its model_type."""

    text_type: str
    vision_config: Mapping[str, Any]
    vision_feature_layer: int


OMITTED: Mapping[str, Omitted] = {
    "llava_onevision": Omitted(
        "qwen2",
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "vision_use_head": False,
        },
        -1,
    ),
    "llava_next": Omitted(
        "llama",
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        -2,
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters: `linear` are the weights of the linear layers that quantization packs, which have `rows` outputs;
    `other` are biases, norms, embeddings, convolutions and the output layer."""

    linear: int = 0
    rows: int = 0
    other: int = 0

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear + self.other

    def held_bytes(self, dtype: str, quantization: str) -> int:
        """Quantized by bitsandbytes as transformers asks it: int8 is a byte a weight and a float32 a row, int4 (nf4,
        its scales not quantized again) half a byte a weight and a float32 for 64. The output layer, biases, norms,
        convolutions and embeddings stay in `dtype`.
        """
        size = BYTES[dtype]
        linear = {
            "none": self.linear * size,
            "int8": self.linear + 4 * self.rows,
            "int4": self.linear // 2 + 4 * self.linear // NF4_BLOCK,
        }
        return linear[quantization] + self.other * size

    def __add__(self, more: Part) -> Part:
        return Part(self.linear + more.linear, self.rows + more.rows, self.other + more.other)

    def __mul__(self, times: int) -> Part:
        return Part(self.linear * times, self.rows * times, self.other * times)


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths and counts of the vision tower or of the language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


def layers_read(chosen: int | Sequence[int], layers: int) -> int:
    """How many of a vision tower's layers run until features are there; `chosen` is config's vision_feature_layer.

    Of its hidden states, 0 are the embeddings, and i what layer i found, counted from 1; -1 is the last layer's.
    """
    return max(index % (layers + 1) for index in ([chosen] if isinstance(chosen, int) else chosen))


@dataclass(frozen=True, slots=True)
class Footprint:
    """Parameters by part. `embeddings` include the image newline; `head` is 0 where it is tied to them.

    A crop is (tile, tile, 3) and has `positions` in the tower, the class token included; of each the projector reads
    `features` values, of the first `layers_read` layers. `image_tokens` are the most visual tokens that one image has.
    """

    vision: Part
    projector: Part
    language: Part
    embeddings: Part
    head: Part
    tower: Shape
    text: Shape
    tile: int
    positions: int
    features: int
    layers_read: int
    vocabulary: int
    image_tokens: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Footprint:
        """From the contents of config.json. ConfigError for a model, or a part of one, that is not known here."""
        tower = families.tower(config)
        omitted = OMITTED[config["model_type"]]
        vision, text = _vision_config(config, omitted), _text_config(config, omitted)
        eye, language = _shape(vision), _shape(text)
        layer = config.get("vision_feature_layer", omitted.vision_feature_layer)
        features = eye.hidden * (len(layer) if isinstance(layer, list) else 1)
        positions = (tower.image_size // tower.patch_size) ** 2 + tower.class_token
        table = Part(other=text["vocab_size"] * language.hidden)
        return cls(
            vision=_tower(vision, eye, tower.patch_size, positions),
            projector=_projector(features, language.hidden, config.get("multimodal_projector_bias", True)),
            language=_language(text, language),
            embeddings=table + Part(other=language.hidden),
            head=Part() if _tied(config, text) else table,
            tower=eye,
            text=language,
            tile=tower.image_size,
            positions=positions,
            features=features,
            layers_read=layers_read(layer, eye.layers),
            vocabulary=text["vocab_size"],
            image_tokens=_image_tokens(config, tower),
        )

    @property
    def parameters(self) -> int:
        """Of the whole model, each tied one once."""
        return self._whole.parameters

    def weight_bytes(self, dtype: str, quantization: str) -> int:
        """Bytes of the weights as they are held, on all devices of a replica together."""
        return self._whole.held_bytes(dtype, quantization)

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of keys and values: 2 x layers x KV heads x head width x bytes of a value."""
        text = self.text
        return 2 * text.layers * text.kv_heads * text.head_dim * BYTES[dtype]

    @property
    def _whole(self) -> Part:
        return self.vision + self.projector + self.language + self.embeddings + self.head


def _vision_config(config: Mapping[str, Any], omitted: Omitted) -> Mapping[str, Any]:
    kind, given = families.family(config).tower_type, config.get("vision_config")
    if given is None:
        return _filled("vision_config", kind, omitted.vision_config)
    return _filled("vision_config", given.get("model_type", kind), given)


def _text_config(config: Mapping[str, Any], omitted: Omitted) -> Mapping[str, Any]:
    given = config.get("text_config") or {}
    kind = given.get("model_type", omitted.text_type)
    if kind not in TEXTS:
        raise ConfigError([f"config.json: text_config.model_type must be {' or '.join(TEXTS)}, not {kind!r}"])
    return _filled("text_config", kind, given)


def _filled(where: str, kind: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of config.json with what it omits. ConfigError where a count is none."""
    whole = {key: given.get(key, value) for key, value in DEFAULTS[kind].items()}
    wrong = [
        f"config.json: {where}.{key} must be a whole number above 0, not {value!r}"
        for key, value in whole.items()
        if not isinstance(DEFAULTS[kind][key], bool)
        and not (type(value) is int and value > 0)
        and not (value is None and key in PER_HEAD)
    ]
    if wrong:
        raise ConfigError(wrong)
    return {**whole, "model_type": kind}


def _tied(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Whether the output layer is the embeddings. OneVision takes its language model's word for it too."""
    own = config["model_type"] == "llava_onevision" and text["tie_word_embeddings"]
    return bool(config.get("tie_word_embeddings") or own)


def _shape(part: Mapping[str, Any]) -> Shape:
    hidden, heads = part["hidden_size"], part["num_attention_heads"]
    return Shape(
        hidden=hidden,
        intermediate=part["intermediate_size"],
        layers=part["num_hidden_layers"],
        heads=heads,
        kv_heads=part.get("num_key_value_heads") or heads,
        head_dim=part.get("head_dim") or hidden // heads,
    )


def _linear(inputs: int, outputs: int, bias: bool) -> Part:
    return Part(inputs * outputs, outputs, outputs if bias else 0)


def _projector(features: int, hidden: int, bias: bool) -> Part:
    return _linear(features, hidden, bias) + _linear(hidden, hidden, bias)


def _language(text: Mapping[str, Any], shape: Shape) -> Part:
    """Layers (attention, gated MLP, two RMS norms) and the last norm. Qwen2 has biases for q, k and v only."""
    output, mlp = bool(text.get("attention_bias")), bool(text.get("mlp_bias"))
    qkv = output or text["model_type"] == "qwen2"
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    read = _linear(hidden, queries, qkv) + _linear(hidden, keys, qkv) * 2
    gated = _linear(hidden, shape.intermediate, mlp) * 2 + _linear(shape.intermediate, hidden, mlp)
    layer = read + _linear(queries, hidden, output) + gated + Part(other=2 * hidden)
    return layer * shape.layers + Part(other=hidden)


def _tower(vision: Mapping[str, Any], shape: Shape, patch: int, positions: int) -> Part:
    """Patches, positions, layers (attention, MLP, two norms), the norm after them, and what a kind has besides."""
    hidden = shape.hidden
    norm = Part(other=2 * hidden)
    mlp = _linear(hidden, shape.intermediate, True) + _linear(shape.intermediate, hidden, True)
    layers = (_linear(hidden, hidden, True) * 4 + mlp + norm * 2) * shape.layers
    whole = Part(other=(vision["num_channels"] * patch**2 + positions) * hidden) + layers + norm
    if vision["model_type"] == CLIP:
        return whole + Part(other=hidden) + norm  # the class token, and the norm before the layers
    whole += Part(other=hidden)  # the patches' bias
    if not vision["vision_use_head"]:
        return whole
    # The pooling head: a query, torch's own attention, which is not quantized, a norm and an MLP.
    return whole + Part(other=hidden + 4 * hidden * (hidden + 1)) + norm + mlp


def _image_tokens(config: Mapping[str, Any], tower: families.Tower) -> int:
    """The base crop, the tiles of the largest grid, and a newline a row.

    anyres_max_9 scales down what holds more than 1.1^2 times 9 tiles.
    """
    side = tower.image_size // tower.patch_size
    most = 1.21 * families.max_tiles(config) or math.inf
    sizes = families.pinpoints(config, config)
    grids = [(high // tower.image_size, wide // tower.image_size) for high, wide in sizes]
    return max(math.ceil(side**2 * (1 + min(rows * columns, most))) + side * rows for rows, columns in grids)
