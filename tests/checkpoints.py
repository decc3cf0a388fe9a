"""A tiny random-weight OneVision of 72 px for fast tests, and transformers' own processor and model as the oracle.

`tests.families` has one checkpoint of each family, with the families' real settings; the oracle serves them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.processing_utils import ProcessorMixin

from actors.captioner import Generator
from actors.meter import Meter
from pipeline import config
from pipeline.anyres import Geometry
from pipeline.types import Caption, Media, Pixels, Request, Sample, Size, Turn, View
from tests.families.catalogue import save_weights

TILE = 72
PATCHES = 5  # a side: 72 // 14
PINPOINTS = [[TILE * rows, TILE * columns] for rows in range(1, 5) for columns in range(1, 5)]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NORMALIZATION = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
PREPROCESSOR = {
    **NORMALIZATION,
    "do_resize": True,
    "do_pad": True,
    "do_convert_rgb": True,
    "size": {"height": TILE, "width": TILE},
    "resample": 3,
    "image_grid_pinpoints": PINPOINTS,
    "image_processor_type": "LlavaOnevisionImageProcessor",
}
PROCESSOR = {
    "processor_class": "LlavaOnevisionProcessor",
    "num_image_tokens": PATCHES**2,
    "vision_feature_select_strategy": "full",
    "image_token": "<image>",
    "video_token": "<video>",
}
CORPUS = (
    "Describe the image in detail.",
    "What is shown here? user assistant",
    "a red circle above a square",
)


def write(folder: Path, *, hub_names: bool = True, seed: int = 0) -> Path:
    """Write the checkpoint into `folder`; without `hub_names` its weights have the names transformers saves."""
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(_config(tokenizer)).eval()
    stop = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**stop)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if hub_names:
        save_weights(model, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CORPUS * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<image>", "<video>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionConfig:
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=14,
        vision_use_head=False,
    )
    # Wide initial weights, untied: the tokens then hang on every part of the prompt and do not settle into a
    # loop.
    text = Qwen2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_grid_pinpoints=PINPOINTS,
        image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"),
    )


class ImageOnlyProcessor(LlavaOnevisionProcessor):
    """transformers' processor without the video processor, which wants torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, files: dict[str, Any]) -> None:
        self.num_image_tokens = files["num_image_tokens"]
        self.vision_feature_select_strategy = files["vision_feature_select_strategy"]
        self.vision_aspect_ratio = files.get("vision_aspect_ratio", "anyres_max_9")
        self.image_token, self.video_token = files["image_token"], files["video_token"]
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=files["chat_template"])

    @classmethod
    def read(cls, folder: Path) -> ImageOnlyProcessor:
        """From a checkpoint's files."""
        files, _ = LlavaOnevisionProcessor.get_processor_dict(folder)
        pil = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
        return cls(pil, AutoTokenizer.from_pretrained(folder), files)


@dataclass(frozen=True, slots=True)
class Asked:
    """An asset with its prompt: pictures (H, W, 3) uint8, the frames of a video."""

    media: Media
    pictures: tuple[Pixels, ...]
    turns: tuple[Turn, ...]

    def sample(self, geometry: Geometry, position: int = 0) -> Sample:
        """The asset as our preprocessor hands it on."""
        pictures = [Image.fromarray(p) for p in self.pictures]
        sizes = tuple(Size(*p.size) for p in pictures)
        crops = np.concatenate([geometry.cut(p, self.media) for p in pictures])
        seconds = tuple(map(float, range(len(crops)))) if self.media is Media.VIDEO else ()
        grid = geometry.grid(sizes[0]) if self.media is Media.IMAGE else (0, 0)
        own = sizes[:1] if self.media is Media.VIDEO else sizes
        return Sample(View(position, self.media, f"{position:064x}", own, grid, len(crops), seconds), crops)

    def chat(self) -> list[dict[str, Any]]:
        """The conversation as the hub's model cards write it; without `Turn.images` the first user turn has all."""
        first = next(i for i, turn in enumerate(self.turns) if turn.role == "user")
        whole = 1 if self.media is Media.VIDEO else len(self.pictures)
        shown = [turn.images for turn in self.turns]
        shown = shown if any(shown) else [whole * (i == first) for i in range(len(self.turns))]
        part = {"type": "video" if self.media is Media.VIDEO else "image"}
        return [
            {"role": turn.role, "content": [part] * n + [{"type": "text", "text": turn.text}]}
            for turn, n in zip(self.turns, shown, strict=True)
        ]


class Oracle:
    """transformers' processor (PIL) and `generate`, one asset at a time, in float32."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        onevision = self.model.config.model_type == "llava_onevision"
        self.processor: Any = (
            ImageOnlyProcessor.read(folder) if onevision else LlavaNextProcessor.from_pretrained(folder)
        )

    def inputs(self, asked: Asked) -> dict[str, Any]:
        """What transformers makes of it: input_ids, pixel values and the rest, for a batch of one."""
        text = self.processor.apply_chat_template(asked.chat(), add_generation_prompt=True)
        if asked.media is Media.VIDEO:
            return self._video(text, asked.pictures)
        images = [Image.fromarray(p) for p in asked.pictures]
        return dict(self.processor(text=[text], images=[images], return_tensors="pt"))

    def _video(self, text: str, frames: Sequence[Pixels]) -> dict[str, Any]:
        """The video processor's work with the image processor's steps: squash, rescale, normalise."""
        pil = self.processor.image_processor
        pixels = [pil.resize(f.transpose(2, 0, 1), pil.size, pil.resample) for f in frames]
        pixels = [pil.rescale(p, pil.rescale_factor) for p in pixels]
        pixels = [pil.normalize(p, pil.image_mean, pil.image_std) for p in pixels]
        videos = torch.from_numpy(np.stack(pixels))[None]
        tokens = self.processor.replace_video_token({"pixel_values_videos": videos}, 0)
        encoded = self.processor.tokenizer([text.replace("<video>", tokens)], return_tensors="pt")
        return {**encoded, "pixel_values_videos": videos}

    def ids(self, asked: Asked) -> tuple[int, ...]:
        """The prompt's token ids."""
        return tuple(self.inputs(asked)["input_ids"][0].tolist())

    def greedy(self, asked: Asked, max_new_tokens: int) -> tuple[int, ...]:
        """The token ids that `generate` adds, the end-of-sequence token included."""
        return self.continued(self.inputs(asked), max_new_tokens)

    def continued(self, inputs: dict[str, Any], max_new_tokens: int) -> tuple[int, ...]:
        """The same for what `inputs` gave."""
        with torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return tuple(out[0, inputs["input_ids"].shape[1] :].tolist())


def captions_of(
    generator: Generator, requests: Sequence[Request], settings: config.GenerationConfig
) -> list[Caption]:
    """One caption per request, in their order."""
    found = dict(generator.generate(requests, settings, Meter()))
    return [found[number] for number in range(len(requests))]


@contextmanager
def watched(model: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Crops in each pass of a LLaVA model's vision tower, and tokens in each pass of its language model."""
    crops: list[int] = []
    passes: list[int] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        passes.append(kwargs["inputs_embeds"].shape[1])

    handles = [
        model.model.vision_tower.register_forward_pre_hook(lambda _, inputs: crops.append(len(inputs[0]))),
        model.model.language_model.register_forward_pre_hook(note, with_kwargs=True),
    ]
    yield crops, passes
    for handle in handles:
        handle.remove()


def crops(inputs: dict[str, Any]) -> npt.NDArray[np.float32]:
    """The normalised crops (n, 3, tile, tile) of an oracle's inputs in order, without those of zeros that pad them."""
    pixels = inputs["pixel_values_videos" if "pixel_values_videos" in inputs else "pixel_values"]
    return np.stack([crop for image in np.asarray(pixels, np.float32) for crop in image if crop.any()])


def picture(seed: int, width: int, height: int) -> Pixels:
    """Soft random colours (H, W, 3): resizing keeps what noise would lose."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def clip(seed: int, frames: int) -> tuple[Pixels, ...]:
    """Frames of 96 x 80 that have nothing in common."""
    return tuple(picture(seed * 1000 + i, 96, 80) for i in range(frames))
