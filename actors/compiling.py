"""Layers compiled by `torch.compile`: what lies between products becomes a few kernels, the captions stay the same.

An option that is off: it takes half a minute and a compiler at each start, 2 cores of an EPYC gained nothing by it
(vision and prefill 14.2 s, 14.5 without), and no GPU was there to measure it on.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from actors import slots
from actors.trimming import vision_layers


def compile_layers(model: Any) -> None:
    """Have every layer compiled when it is first used: those of a kind together, for any number of tokens.

    Left as they are: attention over packed tokens and the language model's last layer, which lists tell what belongs
    together.
    """
    AttentionInterface.register(slots.NAME, torch.compiler.disable(slots.attention))
    for layer in [*vision_layers(model.model), *model.model.language_model.layers[:-1]]:
        layer.compile(dynamic=True)
