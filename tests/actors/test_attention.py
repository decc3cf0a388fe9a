"""Attention as products is attention: as exact as 16 bits are, whatever the size of the scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from actors import attention

TOKENS, HEADS, SHARED, WIDTH = 300, 6, 2, 24
SCALE = WIDTH**-0.5
OFF = 0.008  # of the result: half of it rounding to bfloat16, twice; 0.05 and more without the numbers taken off


def drawn(heads: int, *, times: float = 1.0, common: float = 0.0, seed: int = 0) -> Tensor:
    """bfloat16 (1, heads, tokens, width), with `common` in every token's."""
    dice = torch.Generator().manual_seed(seed)
    own = torch.randn(1, TOKENS, heads, WIDTH, generator=dice) * times
    return (own + common * torch.randn(1, 1, heads, WIDTH, generator=dice)).bfloat16().transpose(1, 2)


def off(found: Tensor, exact: Tensor) -> float:
    """The error as a share of the result, (1, tokens, heads, width)."""
    return float((found.double() - exact.transpose(1, 2)).norm() / exact.norm())


@pytest.mark.parametrize(("times", "common"), [(1.0, 0.0), (4.0, 0.0), (1.0, 30.0), (4.0, 100.0)])
def test_all_tokens_see_all(times: float, common: float) -> None:
    query, key = drawn(HEADS, times=times, seed=1), drawn(HEADS, times=times, common=common, seed=2)
    value = drawn(HEADS, seed=3)

    found = attention.dense(query, key, value, SCALE)

    assert found.dtype == torch.bfloat16
    assert off(found, sdpa(query.double(), key.double(), value.double(), scale=SCALE)) < OFF


@pytest.mark.parametrize("count", [TOKENS, 130, 1])
@pytest.mark.parametrize("common", [0.0, 30.0])
def test_the_last_tokens_see_themselves_and_those_before(count: int, common: float) -> None:
    query = drawn(HEADS, seed=1)[:, :, -count:]
    key, value = drawn(SHARED, common=common, seed=2), drawn(SHARED, seed=3)

    found = attention.causal(query, key, value, SCALE)

    keys, values = (own.double().repeat_interleave(HEADS // SHARED, dim=1) for own in (key, value))
    seen = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[-count:]
    assert off(found, sdpa(query.double(), keys, values, attn_mask=seen, scale=SCALE)) < OFF


@pytest.mark.parametrize("times", [4, 40])  # scores of 20, and of 200: two to that power is beyond a bfloat16
@pytest.mark.parametrize("place", [1, TOKENS - 2])
def test_a_key_far_above_those_that_are_looked_at_is_seen(place: int, times: float) -> None:
    query, key, value = drawn(HEADS, seed=1), drawn(HEADS, seed=2), drawn(HEADS, seed=3)
    key[:, :, place] = times * query[:, :, TOKENS - 1]
    assert place % attention.EVERY

    every, last = attention.dense(query, key, value, SCALE), attention.causal(query, key, value, SCALE)

    assert off(every, sdpa(query.double(), key.double(), value.double(), scale=SCALE)) < OFF
    exact = sdpa(query.double(), key.double(), value.double(), scale=SCALE, is_causal=True)
    assert off(last, exact) < OFF
