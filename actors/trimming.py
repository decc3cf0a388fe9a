"""What layers compute that nobody reads, left out: the same captions, in less time.

- Captions begin with the last token of a prompt. The language model's last layer needs keys and values of all tokens,
  but attention and the MLP, most of a layer's products, for the last ones only: in a 7B model that is 1/32 of all.
- LLaVA-NeXT reads the last layer but one of CLIP; transformers computes all 24.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.footprint import layers_read

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}  # Qwen2, Llama and Mistral


def trim_vision(model: Any) -> None:
    """Skip the layers of the vision tower behind the last whose hidden states are features."""
    layers = vision_layers(model)
    for layer in layers[layers_read(model.config.vision_feature_layer, len(layers)) :]:
        layer.forward = _same


def vision_layers(model: Any) -> nn.ModuleList:
    """The layers of the vision tower, first to last."""
    found: nn.ModuleList = next(
        module.layers for module in model.vision_tower.modules() if hasattr(module, "layers")
    )
    return found


def _same(hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    return hidden_states


def trim_text(text: Any) -> int | None:
    """Let the last layer end with the last token of each segment of the pass, its keyword `captions`. Its number.

    A layer of other parts is left as it is, and one that accelerate has put on a GPU of several: it has the forward
    pass that carries tensors there.
    """
    layer = text.layers[-1]
    if {name for name, _ in layer.named_children()} != LAYER or hasattr(layer, "_hf_hook"):
        return None
    layer.forward = _Ends(layer)
    return len(text.layers) - 1


class _Ends:
    """The forward pass of a layer (`Qwen2DecoderLayer` and its like in transformers) for the last tokens."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, hidden_states: Tensor, **given: Any) -> Tensor:
        """(1, tokens, width) to (1, segments, width)."""
        own = self._layer
        found, _ = own.self_attn(hidden_states=own.input_layernorm(hidden_states), **given)
        ends = (hidden_states + found)[:, given["captions"].last()]
        return ends + own.mlp(own.post_attention_layernorm(ends))  # type: ignore[no-any-return]
