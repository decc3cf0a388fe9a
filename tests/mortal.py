"""A replica double that dies with its process, by SIGKILL, of the assets that it is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.meter import Meter
from pipeline.config import GenerationConfig
from pipeline.types import Caption, Request
from tests.double import Double


@dataclass(frozen=True, slots=True)
class Mortal(Double):
    """Dies of bytes with these digests, and leaves a line in the file `deaths` for each time."""

    culprits: frozenset[str] = frozenset()
    deaths: str = os.devnull

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        """What a double says, unless one of them kills it."""
        if any(request.sample.view.sha256 in self.culprits for request in requests):
            with Path(self.deaths).open("a", encoding="utf-8") as lines:
                lines.write(f"{len(requests)}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        yield from Double.generate(self, requests, settings, meter)
