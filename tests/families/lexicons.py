"""Tiny tokenizers of the families' own kinds, trained on the spot, with the hub's special tokens and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = (
    "Describe the image in detail.",
    "What is shown here? What differs between the pictures? system user assistant",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed,"
    " and polite answers to the human's questions.",
    "a red circle above a square [INST] [/INST] USER: ASSISTANT: <<SYS>> <</SYS>>",
)
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace("{1,3}", "")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class Lexicon:
    """A tokenizer: the content of tokenizer.json, and that of tokenizer_config.json."""

    tokenizer: Tokenizer
    config: Mapping[str, Any]

    def id(self, token: str) -> int:
        """The id of a token that must be there."""
        found = self.tokenizer.token_to_id(token)
        assert found is not None, token
        return found

    def padded_size(self) -> int:
        """The model's vocabulary: as transformers' conversion pads it, to a multiple of 64, and never just full."""
        return (self.tokenizer.get_vocab_size() // 64 + 1) * 64

    def save(self, folder: Path) -> None:
        """Write both files."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.config, indent=1))


def qwen(extra: Sequence[str]) -> Lexicon:
    """Byte-level, no token at the beginning; `<|im_end|>` ends (Qwen2Tokenizer)."""
    tokenizer = _byte_level(QWEN_WORDS)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(list(map(_special, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *extra))))
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    return Lexicon(tokenizer, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, **config})


def llama3() -> Lexicon:
    """Byte-level; `<|begin_of_text|>` before every text comes from the post-processor."""
    tokenizer = _byte_level(LLAMA3_WORDS)
    own = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer.add_special_tokens(list(map(_special, (*own, "<image>", "<pad>"))))
    tokenizer.post_processor = _begun(tokenizer, own[0])
    config = {"bos_token": own[0], "eos_token": "<|eot_id|>", "pad_token": "<pad>"}
    names = ["input_ids", "attention_mask"]
    return Lexicon(
        tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, **config}
    )


def llama2(extra: Sequence[str], **config: Any) -> Lexicon:
    """SentencePiece's kind, of Llama 2, Vicuna and Mistral: "▁" for spaces, bytes for what is unknown, `<s>` first."""
    tokenizer = _pieces(("<unk>", "<s>", "</s>"))
    tokenizer.add_special_tokens(list(map(_special, extra)))
    tokenizer.post_processor = _begun(tokenizer, "<s>")
    own = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    return Lexicon(tokenizer, {"tokenizer_class": "LlamaTokenizer", "add_eos_token": False, **own, **config})


def yi() -> Lexicon:
    """The same kind with ChatML's tokens in its vocabulary, and no token at the beginning (Nous-Hermes-2-Yi)."""
    own = ("<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = _pieces(own)
    tokenizer.add_special_tokens([_special("<image>")])
    names = {"unk_token": "<unk>", "bos_token": own[1], "eos_token": "<|im_end|>", "pad_token": "<unk>"}
    flags = {"add_bos_token": False, "add_eos_token": False, "legacy": True}
    return Lexicon(tokenizer, {"tokenizer_class": "LlamaTokenizer", **names, **flags})


def _byte_level(words: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 10, trainer)
    return tokenizer


def _pieces(own: Sequence[str]) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [*own, *BYTES]
    learner.train_from_iterator(
        CORPUS * 10, trainers.BpeTrainer(vocab_size=440, special_tokens=special, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    model = models.BPE(learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(list(map(_special, own)))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _begun(tokenizer: Tokenizer, first: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        f"{first} $A", f"{first} $A {first}:1 $B:1", [(first, tokenizer.token_to_id(first))]
    )
