"""The replica: one LLaVA-OneVision checkpoint, loaded, and what the captioner asks of it.

Whatever differs between checkpoints is read from the checkpoint's own files in its folder. Nothing is
fetched, only safetensors are read, and no code of the checkpoint is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
)
from transformers.utils.logging import disable_progress_bar

from actors import checkpoint
from actors.captioner import OutOfMemory
from actors.decoding import Decoder, Spoken, Vision
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.errors import ConfigError, MediaError
from pipeline.prompt import messages
from pipeline.types import Caption, Code, Media, Request, Sample, View

# What torch's allocator for the CPU says, in a bare RuntimeError.
CPU_OUT_OF_MEMORY = "can't allocate memory"
WRONG_KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys")  # of transformers' loading report


class Replica:
    """A loaded model that encodes and generates (`actors.captioner.Generator`).

    `folder` holds the checkpoint in the hub's layout, `geometry` is its tile arithmetic. A request fits where
    prompt and `max_new_tokens` do not pass the model's positions. It runs on a GPU where `gpus` is above 0.
    ConfigError, with every finding, where the folder is no such checkpoint or torch sees no GPU.
    """

    def __init__(
        self,
        model: ModelConfig,
        folder: str,
        geometry: Geometry,
        max_new_tokens: int,
        gpus: float = 0.0,
        decoder: type[Decoder] = Decoder,
    ) -> None:
        if model.threads:
            torch.set_num_threads(model.threads)
        checkpoint.check(Path(folder))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._template = _template(folder, self._tokenizer)
        self._model = _load(model, folder, _device(gpus))
        self._geometry = geometry
        self._room = _room(self._model, max_new_tokens)
        self._vision = Vision(self._model, geometry)
        self._decoder = decoder(self._model, _stop(self._model, self._tokenizer))
        self._special = tuple(t for t in self._tokenizer.get_added_vocab() if len(t.strip()) > 1)
        self._visual: dict[View, torch.Tensor] = {}

    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        """The prompt in token ids, the placeholder's id once for each visual token.

        The same ids as transformers' processor makes. MediaError: missing_field, prompt_too_long.
        """
        view = sample.view
        chat = messages(prompt.turns, view.media, len(view.sizes), text, self._special)
        said: str = self._tokenizer.apply_chat_template(
            chat, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        bos = self._tokenizer.bos_token
        ids = self._tokenizer(said, add_special_tokens=not (bos and said.startswith(bos)))["input_ids"]
        counts = self._counts(view)
        ids = _expand(ids, self._placeholder(view), counts)
        if len(ids) > self._room:
            message = f"{len(ids)} prompt tokens; the model has room for {self._room} and the caption"
            raise MediaError(Code.PROMPT_TOO_LONG, message)
        return Request(sample, prompt.id, tuple(ids), sum(counts))

    def generate(self, requests: Sequence[Request], settings: GenerationConfig) -> list[Caption]:
        """One caption per request, in their order. OutOfMemory where the device cannot hold them all."""
        try:
            with torch.inference_mode():
                prompts = self._prompts(requests)
                spoken = self._decoder.speak(prompts, settings.max_new_tokens)
            return [self._caption(r, s) for r, s in zip(requests, spoken, strict=True)]
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not isinstance(error, torch.OutOfMemoryError) and CPU_OUT_OF_MEMORY not in str(error):
                raise
        # Below the handler, so that the error raised here does not keep the tensors of the failed batch alive.
        self._visual = {}
        longest = max(len(request.input_ids) for request in requests)
        raise OutOfMemory(f"the device has not enough memory for {len(requests)} x {longest} prompt tokens")

    def _prompts(self, requests: Sequence[Request]) -> list[torch.Tensor]:
        """The requests as embeddings. Visual tokens are kept until the next call asks for other samples."""
        samples = {request.sample.view: request.sample for request in requests}
        self._visual = {view: self._visual[view] for view in samples if view in self._visual}
        new = [sample for view, sample in samples.items() if view not in self._visual]
        if new:
            self._visual |= zip((sample.view for sample in new), self._vision.tokens(new), strict=True)
        return [
            self._decoder.embed(r.input_ids, self._placeholder(r.sample.view), self._visual[r.sample.view])
            for r in requests
        ]

    def _caption(self, request: Request, spoken: Spoken) -> Caption:
        text: str = self._tokenizer.decode(
            spoken.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        n_prompt = len(request.input_ids)
        return Caption(
            text, spoken.token_ids, spoken.finish, spoken.mean_logprob, n_prompt, request.n_visual_tokens
        )

    def _placeholder(self, view: View) -> int:
        config = self._model.config
        token: int = config.video_token_index if view.media is Media.VIDEO else config.image_token_index
        return token

    def _counts(self, view: View) -> list[int]:
        """Visual tokens of each placeholder of the prompt."""
        match view.media:
            case Media.IMAGE:
                return [self._geometry.image_tokens(view.sizes[0])]
            case Media.IMAGES:
                return [self._geometry.images_tokens(1)] * len(view.sizes)
            case Media.VIDEO:
                return [self._geometry.video_tokens(view.n_crops)]


def load(
    model: ModelConfig, geometry: Geometry, max_new_tokens: int, gpus: float, decoder: type[Decoder] = Decoder
) -> Replica:
    """A replica of the checkpoint that `model` names, which is fetched to this machine first where it must be."""
    return Replica(model, str(checkpoint.fetch(model)), geometry, max_new_tokens, gpus, decoder)


def _device(gpus: float) -> str:
    if gpus and not torch.cuda.is_available():
        raise ConfigError(
            [
                "[cluster] gpus_per_replica asks for GPUs, and torch sees none; install its CUDA build, or set 0"
            ]
        )
    return "cuda" if gpus else "cpu"


def _load(model: ModelConfig, folder: str, device: str) -> LlavaOnevisionForConditionalGeneration:
    """The checkpoint with every weight accounted for; ConfigError otherwise."""
    disable_progress_bar()
    # Its annotations do not know that output_loading_info returns a pair.
    from_pretrained: Any = LlavaOnevisionForConditionalGeneration.from_pretrained
    try:
        loaded, info = from_pretrained(
            folder,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, all of them
            output_loading_info=True,
        )
    except (ImportError, OSError, SafetensorError) as error:
        raise ConfigError([f"[model] path {folder}: {error}"]) from error
    found = [f"{key.replace('_keys', ' weights')}: {_some(info[key])}" for key in WRONG_KEYS if info[key]]
    if found:
        raise ConfigError([f"[model] path {folder}: {problem}" for problem in found])
    whole: LlavaOnevisionForConditionalGeneration = loaded.to(device)
    return whole


def _some(names: set[Any]) -> str:
    return ", ".join(sorted(map(str, names))[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _template(folder: str, tokenizer: Any) -> str:
    """The processor's chat template, else the tokenizer's."""
    files, _ = LlavaOnevisionProcessor.get_processor_dict(folder, local_files_only=True)
    template = files.get("chat_template") or tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not template:
        raise ConfigError([f"[model] path {folder}: chat_template.jinja (or .json) is missing"])
    return str(template)


def _stop(model: LlavaOnevisionForConditionalGeneration, tokenizer: Any) -> list[int]:
    """The ids that end a caption: the generation settings', else the tokenizer's."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    return [ids] if isinstance(ids, int) else list(ids or ())


def _room(model: LlavaOnevisionForConditionalGeneration, max_new_tokens: int) -> int:
    """Tokens that a prompt may have; ConfigError where there are none."""
    positions: int = model.config.get_text_config(decoder=True).max_position_embeddings
    if max_new_tokens >= positions:
        problem = f"[generation] max_new_tokens must be below the model's {positions} positions, not {max_new_tokens}"
        raise ConfigError([problem])
    return positions - max_new_tokens


def _expand(ids: Sequence[int], placeholder: int, counts: Sequence[int]) -> list[int]:
    """`ids` with each placeholder repeated; `counts` has its numbers in order."""
    if (written := ids.count(placeholder)) != len(counts):
        raise ConfigError([f"the chat template wrote {written} placeholders for {len(counts)} pictures"])
    remaining = iter(counts)
    return [token for i in ids for token in [i] * (next(remaining) if i == placeholder else 1)]
