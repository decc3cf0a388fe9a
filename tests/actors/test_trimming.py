"""What is left out is what nobody reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, Gemma2Config, Qwen2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from actors.trimming import trim_text, trim_vision

SIZE: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 2,
    "attn_implementation": "eager",
}
TEXT: dict[str, Any] = {**SIZE, "num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 12}
LAYERS = 4


class Ends:
    """A pass whose segments have their last tokens here."""

    def last(self) -> list[int]:
        return [2, 6]


@torch.inference_mode()
def test_the_last_layer_gives_what_it_gave_for_the_last_tokens() -> None:
    config = Qwen2Config(**TEXT)
    layer: Any = Qwen2DecoderLayer(config, 0).eval()
    hidden = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(0))
    turned = Qwen2RotaryEmbedding(config)(hidden, torch.arange(7)[None])
    given: dict[str, Any] = {"position_embeddings": turned, "attention_mask": None, "captions": Ends()}
    whole: Tensor = layer(hidden, **given)

    trim_text(SimpleNamespace(layers=[layer]))

    assert layer(hidden, **given).numpy() == pytest.approx(whole[:, [2, 6]].numpy(), abs=1e-6)


def test_a_layer_of_other_parts_is_left_alone() -> None:
    layer = Gemma2DecoderLayer(Gemma2Config(**TEXT), 0)

    trim_text(SimpleNamespace(layers=[layer]))

    assert "forward" not in vars(layer)


@torch.inference_mode()
@pytest.mark.parametrize(("read", "run"), [(-2, 3), (-1, 4), ([-3, 1], 2), ([0, -1], 4)])
def test_the_tower_runs_up_to_the_last_layer_that_is_read(read: int | list[int], run: int) -> None:
    tower: Any = CLIPVisionModel(
        CLIPVisionConfig(**SIZE, num_hidden_layers=LAYERS, image_size=28, patch_size=14)
    )
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    before = tower(pixels, output_hidden_states=True).hidden_states
    ran = list[Any]()
    for layer in tower.encoder.layers:
        layer.mlp.register_forward_hook(lambda own, *_: ran.append(own))

    trim_vision(SimpleNamespace(vision_tower=tower, config=SimpleNamespace(vision_feature_layer=read)))

    after = tower(pixels, output_hidden_states=True).hidden_states
    assert all(torch.equal(before[i], after[i]) for i in ([read] if isinstance(read, int) else read))
    assert len(ran) == run
