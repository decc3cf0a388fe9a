"""A replica double: a small real model through the real seam (`actors.captioner.Generator`), in numpy alone.

It says what it saw: the digest that travelled with the pixels, the prompt, and the colour in the middle of the first
crop. Whoever knows an asset's bytes knows what must be said of it, so a caption on another asset's row, or pixels
under another asset's digest, show as wrong words.

    python -m tests.double JOB.toml [SECONDS [I/N]]    the real run of a job, or a share of it, with doubles, SECONDS of
                                                       work per request
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from actors.meter import Meter
from pipeline.config import GenerationConfig, PromptConfig, read
from pipeline.prompt import messages
from pipeline.types import Caption, Finish, Request, Sample
from pipeline.units import Share

if TYPE_CHECKING:
    from jobs.preflight import Ready
    from jobs.run import Actors


@dataclass(frozen=True, slots=True)
class Double:
    """Answers deterministically, whatever else is in the batch; takes `delay_s` per request."""

    delay_s: float = 0.0

    def encode(self, sample: Sample, prompt: PromptConfig, text: Mapping[str, str]) -> Request:
        """A prompt whose length depends on the sample. MediaError: missing_field, image_count."""
        view = sample.view
        messages(prompt.asked(view.media), view.media, len(view.sizes), text)
        length = 8 * len(sample.crops) + int(view.sha256[:2], 16)
        return Request(sample, prompt.id, (7,) * length, 8 * len(sample.crops))

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        """What `said` says for each request."""
        for number, request in enumerate(requests):
            time.sleep(self.delay_s)
            yield number, _caption(request)


def said(sha256: str, prompt_id: str, colour: Sequence[int]) -> str:
    """The double's words for bytes with this digest that show this colour."""
    return f"{sha256} under {prompt_id} shows {'-'.join(str(int(c)) for c in colour)}"


def _caption(request: Request) -> Caption:
    sample = request.sample
    middle = sample.crops.shape[1] // 2
    text = said(sample.view.sha256, request.prompt_id, sample.crops[0, middle, middle])
    return Caption(text, (7, 8, 2), Finish.STOP, -0.5, len(request.input_ids), request.n_visual_tokens)


def with_doubles(made_of: Actors, ready: Ready, delay_s: float = 0.0) -> Actors:
    """The real actors, but for the replica inside the captioner."""
    kwargs = {**made_of.captioner.kwargs, "replica": partial(Double, delay_s)}
    return replace(made_of, captioner=replace(made_of.captioner, kwargs=kwargs))


def caption_with_doubles(job_file: str, console: Console, delay_s: float = 0.0) -> dict[str, Any]:
    """What `captionmill run` does, with doubles. Returns the snapshot."""
    snapshot = _start(job_file, console, delay_s)
    assert snapshot is not None
    return snapshot


def main() -> None:
    """The command line."""
    job, delay, share, *_ = [*sys.argv[1:], "", ""]
    part = Share(*map(int, share.split("/"))) if share else None
    _start(Path(job).read_text(), Console(stderr=True), float(delay or 0), part)


def _start(
    job_file: str, console: Console, delay_s: float, share: Share | None = None
) -> dict[str, Any] | None:
    from jobs.run import actors
    from jobs.start import Options, start

    def made_of(ready: Ready) -> Actors:
        return with_doubles(actors(ready), ready, delay_s)

    return start(read(job_file), console, Options(share=share, made_of=made_of))


if __name__ == "__main__":
    from tests.double import main  # not __main__'s: workers get classes by name

    main()
