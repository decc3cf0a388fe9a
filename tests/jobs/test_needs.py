"""jobs.needs: what a machine lacks for a model, from the settings."""

from __future__ import annotations

import sys

import pytest

from jobs.needs import lacking
from pipeline.config import ClusterConfig, ModelConfig


def told(model: ModelConfig, gpus: float = 0.0) -> str:
    """Everything that is lacking."""
    return "\n".join(lacking(model, ClusterConfig(gpus_per_replica=gpus)))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without the packages of the extra: None in sys.modules is its own way to say that there is none."""
    for package in ("accelerate", "bitsandbytes", "flash_attn"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("gpus", [0.0, 0.5, 1.0])
def test_an_unquantized_model_on_one_device_needs_nothing(gpus: float) -> None:
    assert told(ModelConfig("m"), gpus) == ""


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_weights_need_packages(quantization: str) -> None:
    found = told(ModelConfig("m", quantization=quantization))

    assert f"[model] quantization: {quantization} needs the package bitsandbytes" in found
    assert "the package accelerate: pip install 'captionmill[large]'" in found


@pytest.mark.usefixtures("bare")
def test_several_gpus_need_accelerate() -> None:
    found = told(ModelConfig("m"), gpus=2)

    assert found == (
        "[cluster] gpus_per_replica above 1 needs the package accelerate: pip install 'captionmill[large]'"
    )


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("gpus", [0.0, 2.0])
def test_with_the_packages_nothing_is_lacking(quantization: str, gpus: float) -> None:
    assert told(ModelConfig("m", quantization=quantization), gpus) == ""


@pytest.mark.usefixtures("bare")
def test_everything_that_flash_attention_lacks_is_said_at_once() -> None:
    found = lacking(
        ModelConfig("m", attention="flash_attention_2", dtype="float32"), ClusterConfig(gpus_per_replica=0)
    )

    assert all(
        part in problem for part, problem in zip(("flash-attn", "a GPU", "float32"), found, strict=True)
    )


@pytest.mark.usefixtures("bare")
def test_flash_attention_on_a_gpu_in_half_precision_needs_its_package_only() -> None:
    found = lacking(ModelConfig("m", attention="flash_attention_2"), ClusterConfig(gpus_per_replica=1))

    assert len(found) == 1
    assert "pip install flash-attn" in found[0]
