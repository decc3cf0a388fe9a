"""actors.loading: checkpoints as the hub has them, quantized weights, memory, and chat templates."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from actors.loading import chat_template, load_model
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.types import Media, Turn
from tests.checkpoints import Asked, Oracle, picture, write
from tests.families.catalogue import save_weights

ROOT = Path(__file__).parents[2]
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False,
}  # fmt: skip
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "projection_dim": 16,
}  # fmt: skip
OLD_BUFFERS = {  # what files of earlier transformers carry beside the weights
    "vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
    "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
}
MEMORY = """
import re, sys, torch
from pathlib import Path
from actors.loading import load_model
from pipeline.config import ModelConfig
torch.set_num_threads(1)
def mib():
    status = Path("/proc/self/status").read_text()
    return [int(re.search(rf"{name}:\\s+(\\d+)", status)[1]) / 1024 for name in ("RssAnon", "VmHWM")]
config = ModelConfig(sys.argv[1], dtype=sys.argv[2])
before = mib()
model = load_model(config, Path(sys.argv[1]), 0)
model.generate(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 2), max_new_tokens=2, min_new_tokens=2)
print(*(after - b for after, b in zip(mib(), before)))
"""


@pytest.fixture(scope="module")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write(tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="module")
def oracle(onevision: Path) -> Oracle:
    return Oracle(onevision)


def load(folder: Path, quantization: str = "none", gpus: float = 0) -> Any:
    """The model in a folder, in float32."""
    return load_model(ModelConfig(str(folder), dtype="float32", quantization=quantization), folder, gpus)


def problems(folder: Path, gpus: float = 0) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load(folder, gpus=gpus)
    return raised.value.problems


def llava_next(folder: Path, **text: Any) -> Any:
    """Write a NeXT under the hub's names, and return it."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llava_next",
        vision_config=CLIP,
        text_config=TEXT | text,
        image_grid_pinpoints=[[56, 112]],
        image_token_index=299,
        tie_word_embeddings=False,
    )
    model = AutoModelForImageTextToText.from_config(config)
    config.save_pretrained(folder)
    save_weights(model, folder)
    return model


@pytest.mark.parametrize("text", ["mistral", "llama", "qwen2"])
def test_a_next_checkpoint_with_the_hubs_names_and_old_buffers_loads_whole(tmp_path: Path, text: str) -> None:
    written = llava_next(tmp_path, model_type=text).state_dict()
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | OLD_BUFFERS, file, {"format": "pt"})

    loaded = load(tmp_path)

    assert isinstance(loaded, LlavaNextForConditionalGeneration)
    assert not loaded.training
    assert loaded.state_dict().keys() == written.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in loaded.state_dict().items())


def test_the_names_of_the_hubs_next_weights_are_those_tested(tmp_path: Path) -> None:
    llava_next(tmp_path, model_type="mistral")
    names = {re.sub(r"\.\d+\.", ".0.", name) for name in load_file(tmp_path / "model.safetensors")}

    assert {
        "image_newline",
        "multi_modal_projector.linear_1.weight",
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    } <= names


def test_the_class_is_the_one_that_the_configuration_names(onevision: Path) -> None:
    assert isinstance(load(onevision), LlavaOnevisionForConditionalGeneration)


def test_a_model_without_pictures_is_refused(onevision: Path, tmp_path: Path) -> None:
    AutoConfig.for_model("qwen2", **TEXT).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(onevision / "model.safetensors")

    (problem,) = problems(tmp_path)

    assert "Qwen2Config" in problem


def test_absent_foreign_and_misshapen_weights_are_told_by_name(tmp_path: Path) -> None:
    file = write(tmp_path) / "model.safetensors"
    weights = load_file(file)
    weights["language_model.model.extra"] = weights.pop("image_newline").clone()
    weights["language_model.model.norm.weight"] = torch.ones(3)
    save_file(weights, file, {"format": "pt"})

    found = [problem.split(": ", 1)[1] for problem in problems(tmp_path)]

    assert found[:2] == [
        "missing weights: model.image_newline",
        "unexpected weights: model.language_model.extra",
    ]
    assert found[2].startswith("mismatched weights: ('model.language_model.norm.weight'")


def test_a_file_that_is_cut_off_is_a_configuration_error(tmp_path: Path) -> None:
    file = write(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

    assert str(tmp_path) in problems(tmp_path)[0]


@pytest.mark.parametrize("gpus", [0.5, 1.0, 4.0])
def test_gpus_that_torch_does_not_see_are_a_configuration_error(onevision: Path, gpus: float) -> None:
    (problem,) = problems(onevision, gpus)

    assert f"asks for {gpus:g} GPUs, and torch sees 0" in problem


QUANTIZED: dict[str, dict[str, Any]] = {  # as transformers' documentation of these models has it
    "int8": {"load_in_8bit": True},
    "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
}


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_quantized_weights_say_what_transformers_own_say(tmp_path: Path, quantization: str) -> None:
    exact = llava_next(tmp_path, model_type="mistral").eval()
    theirs = LlavaNextForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=BitsAndBytesConfig(**QUANTIZED[quantization])
    )

    one, other, unquantized = map(said, (load(tmp_path, quantization), theirs, exact))

    assert one.sequences.tolist() == other.sequences.tolist()
    assert torch.equal(one.logits[0], other.logits[0])
    assert not torch.equal(one.logits[0], unquantized.logits[0])


def said(model: Any) -> Any:
    """Eight tokens about a picture of 112 x 56, with their logits: 16 visual tokens whole, 4 rows of 8 in two tiles."""
    torch.manual_seed(1)
    prompt = torch.tensor([[1, 5, *[299] * (16 + 4 * (8 + 1)), 7, 9]])
    settings = {
        "max_new_tokens": 8,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    return model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=torch.randn(1, 3, 3, 56, 56),
        image_sizes=torch.tensor([[56, 112]]), pad_token_id=0, **settings,
    )  # fmt: skip


def test_int4_layers_of_any_size_run_on_the_cpu(onevision: Path, oracle: Oracle) -> None:
    """As SigLIP's 4,304, which a CPU's packed kernels do not take: 32 is no multiple of 64. Others round to bf16."""
    asked = Asked(Media.IMAGE, (picture(0, 200, 90),), (Turn("user", "Describe the image in detail."),))
    inputs = oracle.inputs(asked)

    with torch.inference_mode():
        ours = load(onevision, "int4")(**inputs).logits
        exact = load(onevision, "int4").dequantize()(**inputs).logits

    assert float((ours - exact).abs().mean()) < 0.05 * float(exact.std())


@pytest.mark.parametrize(("quantization", "kind"), [("int8", "Linear8bitLt"), ("int4", "Linear4bit")])
def test_all_linear_layers_but_the_head_are_quantized(onevision: Path, quantization: str, kind: str) -> None:
    linear = {
        name: type(module).__name__
        for name, module in load(onevision, quantization).named_modules()
        if isinstance(module, torch.nn.Linear)
    }

    assert linear.pop("lm_head") == "Linear"
    assert set(linear.values()) == {kind}
    assert {name.split(".")[1] for name in linear} == {
        "vision_tower", "multi_modal_projector", "language_model",
    }  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NeXT of 200 MB in bfloat16."""
    folder = tmp_path_factory.mktemp("large")
    model = llava_next(folder, model_type="llama", hidden_size=512, vocab_size=100_000)
    save_weights(model.to(torch.bfloat16), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "copied", "peak"), [("bfloat16", 0.0, 1.0), ("float32", 2.0, 3.0)])
def test_memory_while_loading_stays_near_the_weights(
    large: Path, dtype: str, copied: float, peak: float
) -> None:
    """In the file's dtype no byte is copied; else there is one copy, and the pages of the file may be resident too."""
    size = (large / "model.safetensors").stat().st_size / (1 << 20)
    command = [sys.executable, "-c", MEMORY, str(large), dtype]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    anonymous, highest = map(float, done.stdout.split())

    print(
        f"{dtype}: a file of {size:.0f} MiB, {anonymous:.0f} MiB of its own memory, {highest:.0f} MiB at most"
    )
    assert abs(anonymous - copied * size) < 0.2 * size + 20
    assert highest < (peak + 0.2) * size + 40


TEMPLATES = {
    "chat_template.jinja": "A",
    "chat_template.json": json.dumps({"chat_template": "A"}),
    "processor_config.json": json.dumps({"chat_template": "A", "processor_class": "LlavaNextProcessor"}),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_chat_template_is_found_where_the_processor_keeps_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "processor_config.json").write_text('{"processor_class": "LlavaNextProcessor"}')
    (tmp_path / name).write_text(TEMPLATES[name])

    assert chat_template(tmp_path, tokenizer("B")) == "A"


@pytest.mark.parametrize("own", ["B", {"default": "B", "rag": "C"}])
def test_else_it_is_the_tokenizers(tmp_path: Path, own: str | dict[str, str]) -> None:
    assert chat_template(tmp_path, tokenizer(own)) == "B"


@pytest.mark.parametrize("own", [None, {"rag": "C"}])
def test_without_any_it_is_said_what_is_missing(tmp_path: Path, own: dict[str, str] | None) -> None:
    with pytest.raises(ConfigError, match=r"chat_template\.jinja \(or \.json\) is missing"):
        chat_template(tmp_path, tokenizer(own))


def test_a_template_that_is_no_json_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text("{")

    with pytest.raises(ConfigError, match="cannot be read"):
        chat_template(tmp_path, tokenizer("B"))


def tokenizer(template: str | dict[str, str] | None) -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template of its own."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), chat_template=template)
