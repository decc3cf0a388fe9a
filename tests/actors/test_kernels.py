"""Layers that are computed in another way compute the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, SiglipVisionConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.siglip.modeling_siglip import SiglipMLP

from actors import kernels
from actors.kernels import FEW, MANY

ROWS = MANY + 3
SIZE: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 40}
MLPS: dict[str, Callable[[], Any]] = {
    "SigLIP's": partial(SiglipMLP, SiglipVisionConfig(**SIZE)),
    "Qwen2's": partial(Qwen2MLP, Qwen2Config(**SIZE)),
}


def given(rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(1, rows, 24)."""
    return torch.randn(1, rows, 24, generator=torch.Generator().manual_seed(0)).to(dtype)


@torch.inference_mode()
@pytest.mark.skipif(not kernels.fuses(torch.float32), reason="this torch has no oneDNN")
@pytest.mark.parametrize("kind", MLPS)
def test_fused_mlps_compute_what_transformers_does(kind: str) -> None:
    mlp = MLPS[kind]()
    few, many = mlp(given(2)), mlp(given(ROWS))

    assert kernels.fuse(mlp, torch.float32)

    assert torch.equal(mlp(given(2)), few)
    assert mlp(given(ROWS)).numpy() == pytest.approx(many.numpy(), abs=1e-6)


@torch.inference_mode()
@pytest.mark.skipif(not kernels.fuses(torch.bfloat16), reason="oneDNN has no bfloat16 here")
@pytest.mark.parametrize("kind", MLPS)
@pytest.mark.parametrize("rows", [2, ROWS])
def test_mlps_of_packed_weights_compute_what_transformers_does(kind: str, rows: int) -> None:
    mlp = MLPS[kind]().bfloat16()
    exact = MLPS[kind]()
    exact.load_state_dict(mlp.state_dict())

    kernels.fuse(mlp, torch.bfloat16, kernels.quicken([mlp], torch.bfloat16, pack=True))

    found = mlp(given(rows, torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert found.float().numpy() == pytest.approx(
        exact(given(rows, torch.bfloat16).float()).numpy(), abs=0.02
    )


@torch.inference_mode()
@pytest.mark.skipif(not kernels.fuses(torch.float32), reason="this torch has no oneDNN")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_are_multiplied_as_more_are(packed: bool, bias: bool) -> None:
    layer = nn.Linear(24, 40, bias=bias)
    few, more = layer(given(FEW)), layer(given(FEW + 1))

    kernels.quicken([layer], torch.float32, packed)

    assert layer(given(FEW)).numpy() == pytest.approx(few.numpy(), abs=1e-6)
    assert torch.equal(layer(given(FEW + 1)), more)


@torch.inference_mode()
@pytest.mark.skipif(not kernels.fuses(torch.float32), reason="this torch has no oneDNN")
def test_few_rows_by_packed_weights_of_16_bits_are_multiplied_in_float32() -> None:
    layer = nn.Linear(24, 40).bfloat16()
    own = layer(given(5, torch.bfloat16))

    kernels.quicken([layer], torch.float32, pack=True)

    assert torch.equal(layer(given(5, torch.bfloat16)), own)
    exact = nn.functional.linear(given(5), layer.weight.float(), layer.bias.float())
    assert layer(given(5)).numpy() == pytest.approx(exact.numpy(), abs=1e-6)


@torch.inference_mode()
@pytest.mark.skipif(not kernels.fuses(torch.bfloat16), reason="oneDNN has no bfloat16 here")
@pytest.mark.parametrize("rows", [FEW, FEW + 1])
def test_rows_of_16_bits_are_multiplied_by_packed_weights_however_many_there_are(rows: int) -> None:
    layer = nn.Linear(24, 40).bfloat16()
    exact = nn.functional.linear(
        given(rows, torch.bfloat16).float(), layer.weight.float(), layer.bias.float()
    )

    assert list(kernels.quicken([layer, layer], torch.bfloat16, pack=True)) == [layer]

    found = layer(given(rows, torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert found.float().numpy() == pytest.approx(exact.numpy(), abs=0.02)


@torch.inference_mode()
def test_layers_of_16_bits_follow_the_dtype_they_are_given() -> None:
    layers = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 40), nn.Linear(40, 8, bias=False)).bfloat16()
    own = layers(given(3, torch.bfloat16))

    kernels.widen(layers, torch.float32)

    assert torch.equal(layers(given(3, torch.bfloat16)), own)
    wide = layers(given(3))
    assert torch.equal(wide, layers.float()(given(3)))
    assert wide.dtype == torch.float32
