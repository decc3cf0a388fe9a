"""vLLM's side of `captionmill bench`: a program for an interpreter that has vLLM, which need not have captionmill.

    PYTHON vllm_peer.py

The first line of standard input is a job in JSON: `model` (folder), `dtype`, `threads`, `prefix_caching`, and
`requests`, each with `image` (file) and `prompt_token_ids`, the image's placeholder once. Each further line is a list
of output lengths, for which all requests are run once. Answered are lines of JSON: the version, when the model is
loaded, and then `seconds` and `token_ids`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image


def load(job: dict[str, Any]) -> Any:
    """The engine in this process, its processor's cache off where prefixes are not kept either."""
    vllm = importlib.import_module("vllm")
    return vllm.LLM(
        model=job["model"],
        dtype=job["dtype"],
        enable_prefix_caching=job["prefix_caching"],
        limit_mm_per_prompt={"image": 1},
        **({} if job["prefix_caching"] else {"mm_processor_cache_gb": 0}),
    )


def forget(engine: Any) -> None:
    """Drop what an earlier round left: every round is about pictures that were never seen."""
    engine.reset_prefix_cache()
    engine.llm_engine.reset_mm_cache()
    engine.llm_engine.reset_encoder_cache()


def run(engine: Any, prompts: Sequence[dict[str, Any]], lengths: Sequence[int]) -> dict[str, Any]:
    """All requests at once, greedily, each exactly as long as it shall be."""
    vllm = importlib.import_module("vllm")
    settings = [
        vllm.SamplingParams(temperature=0.0, max_tokens=n, min_tokens=n, ignore_eos=True) for n in lengths
    ]
    begun = time.perf_counter()
    outputs = engine.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "token_ids": [list(output.outputs[0].token_ids) for output in outputs]}


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM and what it calls may print
    job = json.loads(sys.stdin.readline())
    cores = sorted(os.sched_getaffinity(0))[: job["threads"]]
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process, as for who calls LLM.generate
    engine = load(job)
    pictures = {request["image"]: Image.open(request["image"]).convert("RGB") for request in job["requests"]}
    prompts = [
        {"prompt_token_ids": r["prompt_token_ids"], "multi_modal_data": {"image": pictures[r["image"]]}}
        for r in job["requests"]
    ]
    answers.write(json.dumps({"version": importlib.import_module("vllm").__version__}) + "\n")
    for line in sys.stdin:
        forget(engine)
        answers.write(json.dumps(run(engine, prompts, json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
