"""The prompts that the families' authors published are what a job's turns become, to the token.

They are quoted from transformers' conversion scripts (`convert_llava_next_weights_to_hf.py`,
`convert_llava_onevision_weights_to_hf.py`), which check the converted checkpoints with them. Of Llama 3's only the user
turn: its template on the hub puts one newline more into a system turn.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from actors.checkpoint import geometry
from pipeline.config import PromptConfig
from pipeline.types import Media, Turn
from tests.checkpoints import Asked, picture
from tests.conformance import ours
from tests.families.catalogue import FAMILIES, Family, write

ASKED = "<image>\nWhat is shown in this image?"
PUBLISHED = {
    "onevision-qwen2": f"<|im_start|>user {ASKED}<|im_end|><|im_start|>assistant\n",
    "next-mistral": f"[INST] {ASKED} [/INST]",
    "next-vicuna": "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    f"helpful, detailed, and polite answers to the human's questions. USER: {ASKED} ASSISTANT:",
    "next-llama3": f"<|start_header_id|>user<|end_header_id|>\n\n{ASKED}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "next-yi-chatml": "<|im_start|>system\nAnswer the questions.<|im_end|>"
    f"<|im_start|>user\n{ASKED}<|im_end|><|im_start|>assistant\n",
    "next-qwen-chatml": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_turns_become_the_published_prompt(family: Family, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = write(tmp_path, family, tile=70)
    published = PUBLISHED[family.name]
    question = Turn("user", "What is shown in this image?")
    turns = (Turn("system", family.system), question) if family.system in published else (question,)
    sample = Asked(Media.IMAGE, (picture(0, 70, 70),), turns).sample(geometry(folder))

    ids = ours.replica(folder).encode(sample, PromptConfig("p", turns), {}).input_ids

    tokenizer = AutoTokenizer.from_pretrained(folder)
    image = tokenizer.convert_tokens_to_ids("<image>")
    runs = ((token, len(list(run))) for token, run in groupby(ids))
    assert [token for token, n in runs for _ in range(1 if token == image else n)] == tokenizer(published)[
        "input_ids"
    ]
