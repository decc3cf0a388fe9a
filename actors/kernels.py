"""What a processor computes in another way than transformers' layers ask for it: the same functions, in less time.

Modules are told by what they hold, never by a model's name. GPUs and quantized layers are left alone. Processors differ
so much that what is better is measured, in about a second.

- An MLP's product and its activation can be one call of oneDNN. Of 5,832 x 576 by 576 x 2,152 in float32 the product
  takes 49 ms on two cores of a Xeon, torch's GELU after it 83 more, both together 53. On an EPYC without AVX512, of
  4,374 rows, they take 82 and 18, together 126.
- Products of 16 bits may take longer than those of float32: 0.17 TFLOP/s in bfloat16 and 0.31 in float32 on a Xeon
  whose AMX is out of reach, 0.01 and 0.14 on that EPYC. Where that is so, passes of many tokens are made in float32,
  from the weights as they are: each matrix is converted when it is used, which costs little beside a product with
  thousands of rows. With the 8 rows of a step it costs what it saves or more, even there.
- A step of decoding multiplies few rows by every weight of the language model. MKL, which torch takes for float32,
  reads them at a quarter of the memory's rate: 8 rows by 448 x 152,000 take 66 ms on that EPYC, oneDNN 40, and 18 from
  weights in the layout it would have them in. These packed weights are a second copy, so they are an option.
- For products of 16 bits torch asks oneDNN, too, which lays out the weights anew in every call. On an EPYC with
  AVX512-BF16 that step takes 14 ms and 6 from packed weights, and 5,103 x 576 by 576 x 576 reaches 308 and 390 GFLOP/s:
  there all layers are packed, those of the vision tower too.
- Where products of 16 bits are that fast, attention is faster as two of them (`actors.attention`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import gelu, linear, silu
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers.activations import GELUTanh, SiLUActivation

from actors import attention

MANY = 512  # rows: with fewer, laying out the weights costs what it saves; each number of rows is a kernel to make
# Rows of float32 at most that oneDNN multiplies in place of MKL: each number of rows is a kernel, and where memory
# ends, oneDNN crashes making one. For 16 bits torch has it make them anyway.
FEW = 64
STEP = 8  # rows that are multiplied to see what is faster
SIDE = 1024  # of the matrices that are multiplied to see what is faster: 10 ms with many rows
SEEN = (2, 8, 729, 72)  # crops, heads, patches, width: attention that is computed to see what is faster
TIMES, ENOUGH_S = 5, 0.3  # of each way to compute something: so often, or until so many seconds have passed
CLEARLY = 0.9  # of the time: what gains less may be chosen today and not tomorrow, and rounds otherwise
GELU, GATED = "gelu", "gated"  # MLPs: of two layers with a GELU between them, and of three with a SiLU
Weights = tuple[Tensor, Tensor | None]  # a layer's, and its bias
Packed = Mapping[nn.Module, Weights]  # in oneDNN's layout, by layer
NONE: Packed = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Adapted:
    """How tokens shall be computed: the dtypes of the `many` of a prompt and the `few` of a step, and whether
    attention is `products`."""

    many: torch.dtype
    few: torch.dtype
    products: bool = False


def adapt(model: Any, pack: bool) -> Adapted:
    """Let the model on this device compute as it does best there.

    With `pack`, a second copy of weights may be made: in float32 of the language model's, in 16 bits of all.
    """
    own: torch.dtype = model.dtype
    if model.device.type != "cpu" or getattr(model, "is_quantized", False):
        return Adapted(own, own)
    eye = [model.model.vision_tower, model.model.multi_modal_projector]
    text = [model.model.language_model, model.get_output_embeddings()]
    wide = own == torch.float32 or _slower(own)
    return _in_float32(own, eye, text, pack) if wide else _in_16_bits(model, [*eye, *text], pack)


def _in_16_bits(model: Any, parts: Sequence[nn.Module], pack: bool) -> Adapted:
    """oneDNN multiplies them in any case: it has less to do where weights are laid out, and MLPs are fewer calls."""
    dtype: torch.dtype = model.dtype
    if fuses(dtype):
        packed = quicken(parts, dtype, pack=True) if pack else NONE
        for module in chain(*_mlps(parts).values()):
            fuse(module, dtype, packed)
    products = model.config._attn_implementation == "sdpa" and _products_gain(dtype)
    if products:
        model.model.vision_tower.set_attn_implementation(attention.NAME)
    return Adapted(dtype, dtype, products)


def _in_float32(own: torch.dtype, eye: Sequence[nn.Module], text: Sequence[nn.Module], pack: bool) -> Adapted:
    """oneDNN in place of MKL where that is faster."""
    dtype, packed, few, parts = torch.float32, NONE, own, [*eye, *text]
    if own != dtype:
        for part in parts:
            widen(part, dtype)
    if not fuses(dtype):
        return Adapted(dtype, own)
    if (pack or own == dtype) and _steps_gain(pack):
        packed, few = quicken(text, dtype, pack), dtype
    for kind, mlps in _mlps(parts).items():
        if _gains(kind, mlps[0], bool(packed)):
            for module in mlps:
                fuse(module, dtype, packed)
    return Adapted(dtype, few)


def _mlps(parts: Iterable[nn.Module]) -> dict[str, list[nn.Module]]:
    """Those that can be fewer calls, by kind."""
    found = dict[str, list[nn.Module]]()
    for module in (module for part in parts for module in part.modules()):
        if kind := _kind(module):
            found.setdefault(kind, []).append(module)
    return found


def _slower(dtype: torch.dtype) -> bool:
    """Whether products of many rows take longer in this dtype than in float32."""
    rows, weight = torch.randn(MANY, SIDE), torch.randn(SIDE, SIDE)
    narrow = rows.to(dtype), weight.to(dtype)
    return _share(lambda: linear(*narrow), lambda: linear(rows, weight)) > 1


def _gains(kind: str, like: Any, pack: bool) -> bool:
    """Whether what such an MLP begins with takes clearly less time in float32 where products end with what follows."""
    first: nn.Linear = like.fc1 if kind == GELU else like.gate_proj
    rows = torch.randn(4 * MANY, first.in_features)
    weight = torch.randn(min(first.out_features, 2 * SIDE), first.in_features)
    own: Weights = torch.ops.mkldnn._reorder_linear_weight(weight) if pack else weight, None
    if kind == GELU:
        share = _share(lambda: _gelu(rows, own), lambda: gelu(linear(rows, weight), approximate="tanh"))
    else:
        share = _share(
            lambda: _gated(rows, own, own), lambda: silu(linear(rows, weight)) * linear(rows, weight)
        )
    return share < CLEARLY


def _steps_gain(pack: bool) -> bool:
    """Whether a product of few rows of float32 takes clearly less time by `quicken`."""
    layer, rows = nn.Linear(4 * SIDE, 4 * SIDE, bias=False), torch.randn(STEP, 4 * SIDE)
    plain = layer.forward
    quicken([layer], torch.float32, pack)
    return _share(lambda: layer(rows), lambda: plain(rows)) < CLEARLY


def _products_gain(dtype: torch.dtype) -> bool:
    """Whether a vision tower's attention takes clearly less time as products."""
    crops, heads, patches, width = SEEN
    own = torch.randn(crops, patches, heads, width).to(dtype).transpose(1, 2)
    share = _share(lambda: attention.dense(own, own, own, width**-0.5), lambda: sdpa(own, own, own))
    return share < CLEARLY


def _share(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> float:
    """The time of `one` by that of the other: of the fastest of some times, by turns, after one that is not counted."""
    fastest, until = [math.inf, math.inf], math.inf
    for number in range(TIMES + 1):
        if number == 1:
            until = time.perf_counter() + ENOUGH_S
        for which, compute in enumerate((one, other)):
            begun = time.perf_counter()
            compute()
            if number:
                fastest[which] = min(fastest[which], time.perf_counter() - begun)
        if time.perf_counter() > until:
            break
    return fastest[0] / fastest[1]


def widen(part: nn.Module, dtype: torch.dtype) -> None:
    """Let layers compute in the dtype of what they are given; what a convolution finds is of this one."""
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            _follow(module)
        elif isinstance(module, nn.Conv2d):  # what a vision tower begins with
            module.register_forward_hook(lambda _, __, found: found.to(dtype))


def _follow(module: Any) -> None:
    plain = module.forward

    def forward(given: Tensor) -> Tensor:
        if given.dtype == module.weight.dtype:
            return plain(given)  # type: ignore[no-any-return]
        weights = {name: own.to(given.dtype) for name, own in module.named_parameters()}
        return functional_call(module, weights, given)  # type: ignore[no-any-return]

    module.forward = forward


def fuses(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's product with an activation, and the processor the dtype."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_linear_pointwise"):
        return False
    match dtype:
        case torch.bfloat16:
            return bool(ops._is_mkldnn_bf16_supported())
        case torch.float16:
            return bool(ops._is_mkldnn_fp16_supported())
    return True


def fuse(module: Any, dtype: torch.dtype, packed: Packed = NONE) -> bool:
    """Give the MLPs of SigLIP, and of Qwen2, Llama and their like, another forward pass for many rows of this dtype,
    or, of `packed` layers, for as many as these take.

    Whether it is such an MLP.
    """
    if not (kind := _kind(module)):
        return False
    fused = _gelu_mlp if kind == GELU else _gated_mlp
    plain: Callable[[Tensor], Tensor] = module.forward
    most = _most(dtype) if all(layer in packed for layer in _layers([module])) else 0

    def forward(given: Tensor) -> Tensor:
        rows = given.flatten(0, -2)
        if given.dtype != dtype or most < len(rows) < MANY:
            return plain(given)
        return fused(module, rows, packed).view(given.shape)

    module.forward = forward
    return True


def quicken(parts: Iterable[nn.Module], dtype: torch.dtype, pack: bool) -> dict[nn.Module, Weights]:
    """Let oneDNN multiply rows of `dtype`, of float32 at most `FEW`, by the packed weights of linear layers, which are
    returned; or as they are."""
    # Largest first: what one was converted in, the next of its size is made in. Else what is left between them adds up.
    layers = sorted(_layers(parts), key=_parameters, reverse=True)
    made = {layer: _quickened(layer, dtype, pack) for layer in layers}
    return made if pack else {}


def _quickened(layer: Any, dtype: torch.dtype, pack: bool) -> Weights:
    plain: Callable[[Tensor], Tensor] = layer.forward
    most = _most(dtype)
    weight = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    if pack:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(given: Tensor) -> Tensor:
        rows = given.flatten(0, -2)
        if given.dtype != dtype or len(rows) > most:
            return plain(given)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return found.view(*given.shape[:-1], -1)

    layer.forward = forward
    return weight, bias


def _most(dtype: torch.dtype) -> int:
    """Rows that oneDNN multiplies by packed weights."""
    return FEW if dtype == torch.float32 else sys.maxsize


def _parameters(layer: Any) -> int:
    return int(layer.weight.numel())


def _layers(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Each linear layer in them once."""
    found = (module for part in parts for module in part.modules() if isinstance(module, nn.Linear))
    return [*dict.fromkeys(found)]


def _kind(module: Any) -> str:
    """Which kind of MLP a module is, "" where it is none of them."""
    if hasattr(module, "fc1") and isinstance(getattr(module, "activation_fn", None), GELUTanh):
        return GELU
    if hasattr(module, "gate_proj") and isinstance(module.act_fn, SiLUActivation | nn.SiLU):
        return GATED
    return ""


def _gelu_mlp(own: Any, rows: Tensor, packed: Packed) -> Tensor:
    found: Tensor = own.fc2(_gelu(rows, _weights(own.fc1, rows, packed)))
    return found


def _gated_mlp(own: Any, rows: Tensor, packed: Packed) -> Tensor:
    gate, up = (_weights(layer, rows, packed) for layer in (own.gate_proj, own.up_proj))
    found: Tensor = own.down_proj(_gated(rows, gate, up))
    return found


def _gelu(rows: Tensor, own: Weights) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, *own, "gelu", [], "tanh")
    return found


def _gated(rows: Tensor, gate: Weights, up: Weights) -> Tensor:
    activated = torch.ops.mkldnn._linear_pointwise(rows, *gate, "swish", [], "")
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, activated, *up, "mul")
    return found


def _weights(layer: Any, rows: Tensor, packed: Packed) -> Weights:
    """Those that are packed, or the layer's in the dtype of `rows`."""
    if layer in packed:
        return packed[layer]
    bias = layer.bias
    return layer.weight.to(rows.dtype), bias if bias is None else bias.to(rows.dtype)
