"""vLLM beside us: a process of an environment of its own, which waits while the others run."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from jobs.bench import vllm_peer
from jobs.bench.measured import Ids
from jobs.bench.subject import CAPPED, Options
from jobs.bench.work import Work, png
from pipeline.errors import RunError
from pipeline.types import Request

TOLD = 2_000  # characters of its last words, where it fails


class Vllm:
    """A running `vllm_peer`, its model loaded."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], job: dict[str, Any]) -> None:
        self._process, self._errors = process, errors
        self.version: str = self._ask(job)["version"]

    def captions(self, lengths: Sequence[int]) -> Ids:
        """Token ids of every request, from pixels on."""
        return [tuple(ids) for ids in self._ask(list(lengths))["token_ids"]]

    def _ask(self, question: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._errors.seek(0)
            raise RunError(f"vLLM ended: {self._errors.read()[-TOLD:]}")
        told: dict[str, Any] = json.loads(answer)
        return told


def vllm_or_none(
    options: Options, work: Work, requests: Sequence[Request], *, prefix_caching: bool
) -> AbstractContextManager[Vllm | None]:
    """vLLM, its model loaded, with the work's pictures and the prompts of `requests`; None where `told` says why."""
    if _without(options):
        return nullcontext()
    return _vllm(options, work, requests, prefix_caching)


def told(options: Options, peer: Vllm | None) -> str:
    """One line about vLLM's side."""
    return (
        f"vLLM {peer.version}, from decoded pixels on" if peer else f"vLLM is left out: {_without(options)}"
    )


def _without(options: Options) -> str:
    """Why vLLM is not beside us, "" where it is."""
    subject = options.subject
    if not options.vllm_python:
        return "--vllm-python names an interpreter that has it"
    if subject.model.quantization != "none":
        return f"it does not read {subject.model.quantization} as we do"
    return CAPPED if subject.image.max_crops else ""


@contextmanager
def _vllm(options: Options, work: Work, requests: Sequence[Request], prefix_caching: bool) -> Iterator[Vllm]:
    """RunError where it fails."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        job = {
            "model": str(options.subject.folder),
            "dtype": options.subject.model.dtype,
            "threads": options.machine.threads,
            "prefix_caching": prefix_caching,
            "requests": list(_told(Path(folder), work, requests)),
        }
        process = subprocess.Popen(
            [str(options.vllm_python), vllm_peer.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process:  # at the end its input is closed, which ends it
            yield Vllm(process, errors, job)


def _told(folder: Path, work: Work, requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
    """The requests for vLLM, which makes crops and as many placeholders itself."""
    for number, picture in enumerate(work.pictures):
        (folder / f"{number}.png").write_bytes(png(picture))
    for request in requests:
        runs = (list(run) for _, run in groupby(request.input_ids))
        once = [token for run in runs for token in (run[:1] if len(run) == request.n_visual_tokens else run)]
        name = folder / f"{request.sample.view.position}.png"
        yield {"image": str(name), "prompt_token_ids": once}
