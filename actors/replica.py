"""The replica: one LLaVA checkpoint, loaded, and what the captioner asks of it.

Whatever differs between checkpoints is read from the checkpoint's own files in its folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from transformers import AutoTokenizer

from actors import checkpoint, kernels
from actors.captioner import OutOfMemory
from actors.compiling import compile_layers
from actors.decoding import Branches, Decoder
from actors.engine import Call, Engine, Group
from actors.kernels import Adapted
from actors.loading import chat_template, device, load_model
from actors.meter import Meter
from actors.sampling import Choice, Ending, Opening, Spoken, seed_of
from actors.slots import Slots
from actors.vision import Vision
from pipeline import fit
from pipeline.anyres import Geometry
from pipeline.batching import Rooms, longest_first
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.errors import ConfigError, MediaError
from pipeline.prompt import messages
from pipeline.types import Caption, Code, Media, Request, Sample, View

# What torch's allocator for the CPU, cuBLAS and the CUDA driver say, in a bare RuntimeError.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "could not create a primitive",  # oneDNN's only words where it finds no memory for one
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


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
        self._template = chat_template(Path(folder), self._tokenizer)
        self._config = model
        self._footprint = checkpoint.footprint(Path(folder))
        device(gpus)  # refuses GPUs that torch does not see, before their memory is counted
        _keep_to_share(gpus)
        self._memory = _memory(gpus)
        settings = GenerationConfig(max_new_tokens)
        packed = 0 if gpus else fit.packed_bytes(self._footprint, model, settings, self._memory)
        self._memory -= packed
        self.batch_tokens(settings)  # refuses what does not fit before it is loaded
        # In a thread that ends: OpenMP keeps threads for each that ever had it compute, and where they are more than
        # the cores, all are woken later: with the engine's and the main thread's, up to 1.4 x the time on two cores.
        with ThreadPoolExecutor(1, "loading") as aside:
            self._model: Any = aside.submit(load_model, model, Path(folder), gpus).result()
            self._adapted = aside.submit(_quickened, self._model, model.compiled, packed > 0).result()
        self._geometry = geometry
        self._room = _room(self._model, max_new_tokens)
        self._vision = Vision(self._model, geometry, self._of_many(fit.CROPS_PER_PASS))
        self._decoder = decoder(self._model, self._adapted)
        self._stop = _stop(self._model, self._tokenizer)
        self._engines = dict[GenerationConfig, Engine[Branches, Opening, Spoken]]()
        self._making, self._tokenizing = Lock(), Lock()  # a tokenizer is one thread's at a time
        self._special = tuple(t for t in self._tokenizer.get_added_vocab() if len(t.strip()) > 1)

    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        """The prompt in token ids, the placeholder's id once for each visual token.

        The same ids as transformers' processor makes. MediaError: missing_field, prompt_too_long.
        """
        view = sample.view
        turns = prompt.asked(view.media)
        chat = messages(turns, view.media, len(view.sizes), text, self._special, prompt.max_field_chars)
        said: str = self._tokenizer.apply_chat_template(
            chat, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        bos = self._tokenizer.bos_token
        with self._tokenizing:
            ids = self._tokenizer(said, add_special_tokens=not (bos and said.startswith(bos)))["input_ids"]
        counts = self._geometry.tokens(view.media, view.sizes, view.n_crops)
        ids = _expand(ids, self._placeholder(view), counts)
        if len(ids) > self._room:
            message = f"{len(ids)} prompt tokens; the model has room for {self._room} and the caption"
            raise MediaError(Code.PROMPT_TOO_LONG, message)
        return Request(sample, prompt.id, tuple(ids), sum(counts))

    def batch_tokens(self, settings: GenerationConfig) -> int:
        """As the settings say, or as many as the memory holds beside the weights. ConfigError where it holds none."""
        return min(
            settings.batch_tokens, fit.batch_tokens(self._footprint, self._config, settings, self._memory)
        )

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        """Each caption as it is done, with its request's number; those that several threads ask for go on together.

        OutOfMemory where the device cannot hold them all.
        """
        try:
            yield from self._captions(requests, self._settled(settings), meter)
            return
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            known = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not known and not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
        # Below the handler, so that the error raised here does not keep the tensors of the failed batch alive.
        longest = max(len(request.input_ids) for request in requests)
        raise OutOfMemory(f"the device has not enough memory for {len(requests)} x {longest} prompt tokens")

    def _captions(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        """The captions; those of the longest prompts begin first."""
        lengths = [len(r.input_ids) + settings.max_new_tokens for r in requests]
        openings = [
            Opening(r.input_ids, seed_of(settings.seed, r.sample.view.sha256, r.prompt_id)) for r in requests
        ]
        begin = partial(self._branches, requests, meter)
        call = Call[Branches, Opening, Spoken](lengths, openings, begin, meter)
        groups = longest_first(_groups(requests), lengths)
        for number, spoken in self._engine(settings).captions(call, groups):
            yield number, self._caption(requests[number], spoken, settings)

    def _engine(self, settings: GenerationConfig) -> Engine[Branches, Opening, Spoken]:
        """The one of these settings; a job has one."""
        with self._making:
            if settings not in self._engines:
                tokens = self.batch_tokens(settings) + settings.batch_size * settings.max_new_tokens
                rooms = partial(Rooms, tokens, settings.batch_size, partial(Slots, dtype=self._model.dtype))
                prefill = self._of_many(fit.PREFILL_TOKENS)
                self._engines = {settings: Engine(self._decoder, self._choice(settings), rooms, prefill)}
            return self._engines[settings]

    def _of_many(self, count: int) -> int:
        """`count`, or so many that in the dtype of many they take no more memory than `count` in the model's."""
        own: torch.dtype = self._model.dtype
        return count * own.itemsize // self._adapted.many.itemsize

    def _choice(self, settings: GenerationConfig) -> Choice:
        return Choice(settings, self._ending(settings), self._model.device)

    def _ending(self, settings: GenerationConfig) -> Ending:
        return Ending(self._stop, settings.stop, self._text)

    def _settled(self, settings: GenerationConfig) -> GenerationConfig:
        """The settings with what they leave to the checkpoint."""
        own = settings.repetition_penalty or self._model.generation_config.repetition_penalty or 1.0
        return replace(settings, repetition_penalty=own)

    @torch.inference_mode()
    def _branches(self, requests: Sequence[Request], meter: Meter, groups: Sequence[Group]) -> list[Branches]:
        """Groups of the requests as embeddings, with what those of one sample have in common taken out."""
        samples = [requests[group[0]].sample for group in groups]
        visual = self._vision.tokens(samples)
        begun = [
            self._branch([requests[i] for i in group], own) for group, own in zip(groups, visual, strict=True)
        ]
        meter.prefill_tokens += sum(len(own) for one in begun for own in (one.prefix, *one.suffixes))
        return begun

    def _branch(self, group: Sequence[Request], visual: torch.Tensor) -> Branches:
        start = common([request.input_ids for request in group]) if len(group) > 1 else 0
        placeholder = self._placeholder(group[0].sample.view)
        embedded = [self._decoder.embed(request.input_ids, placeholder, visual) for request in group]
        return Branches(embedded[0][:start], tuple(prompt[start:] for prompt in embedded))

    def _caption(self, request: Request, spoken: Spoken, settings: GenerationConfig) -> Caption:
        text = self._ending(settings).cut(self._text(spoken.token_ids))
        ids, n_prompt = spoken.token_ids, len(request.input_ids)
        return Caption(text, ids, spoken.finish, spoken.mean_logprob, n_prompt, request.n_visual_tokens)

    def _text(self, token_ids: Sequence[int]) -> str:
        with self._tokenizing:
            text: str = self._tokenizer.decode(
                token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return text

    def _placeholder(self, view: View) -> int:
        config = self._model.config
        token: int = config.video_token_index if view.media is Media.VIDEO else config.image_token_index
        return token


def _groups(requests: Sequence[Request]) -> list[list[int]]:
    """The requests' numbers, those of one sample together."""
    found: dict[View, list[int]] = {}
    for number, request in enumerate(requests):
        found.setdefault(request.sample.view, []).append(number)
    return list(found.values())


def common(prompts: Sequence[Sequence[int]]) -> int:
    """How many token ids all prompts begin with, at least one less than the shortest has."""
    same = takewhile(lambda ids: len(set(ids)) == 1, zip(*(prompt[:-1] for prompt in prompts), strict=False))
    return sum(1 for _ in same)


def load(
    model: ModelConfig, geometry: Geometry, max_new_tokens: int, gpus: float, decoder: type[Decoder] = Decoder
) -> Replica:
    """A replica of the checkpoint that `model` names, which is fetched to this machine first where it must be."""
    return Replica(model, str(checkpoint.fetch(model)), geometry, max_new_tokens, gpus, decoder)


def _quickened(model: Any, compiled: bool, packed: bool) -> Adapted:
    """The model made fast on its device, and what it is best given."""
    if not compiled:
        return kernels.adapt(model, packed)
    compile_layers(model)
    return Adapted(model.dtype, model.dtype)


def _keep_to_share(gpus: float) -> None:
    """Of a GPU that replicas share: else one's allocator takes what the others were planned with."""
    if 0 < gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus)


def _memory(gpus: float) -> int:
    """Bytes of memory of the GPUs that this process sees, or of its share of one; the machine's on CPU."""
    if not gpus:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    seen = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return int(sum(seen) * min(1.0, gpus))


def _stop(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a caption: the generation settings', else the tokenizer's."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    return (ids,) if isinstance(ids, int) else tuple(ids or ())


def _room(model: Any, max_new_tokens: int) -> int:
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
