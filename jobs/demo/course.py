"""Stage 2: everything through the model's real forward path, by a few processes of one thread each.

One process with two threads took ten times as long a step wherever another process wanted a core: each of thousands
of parallel regions waited for the thread that was off the processor. Processes meet once a step.
"""

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from jobs.demo import hub, lesson
from jobs.demo.muon import optimizers, set_rate
from jobs.demo.scenes import PROMPTS, TILE, Scene

# (share of the course done, most tiles a picture may have from then on)
TILES = ((0.0, 1), (0.04, 2), (0.08, 6), (0.14, 12))
FROZEN = 0.07  # of the course the tower stands still, while the language model is still noise
MICRO = 7  # scenes of like length a language-model pass: a clip beside 241 tokens of tiles is mostly padding
SAVE_SECONDS = 150


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the course lasts, which share of it is behind the model it gets, and where it is saved."""

    out: Path
    minutes: float
    behind: float = 0.0


class Tally:
    """The share of exact answers among the last 500 scenes of each sort; none of them was seen before."""

    def __init__(self) -> None:
        self._last: dict[str, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=500))

    def add(self, scene: Scene, exact: np.ndarray) -> None:
        self._last[scene.kind].append(exact)
        if scene.kind == "image":
            height, width = scene.pictures[0].shape[:2]
            self._last[f"{-(-height // TILE)}x{-(-width // TILE)}"].append(exact)

    def words(self) -> str:
        """Percent right of each prompt, in the order of PROMPTS, for each kind and grid."""
        rows = ((sort, np.stack(list(last)).mean(0) * 100) for sort, last in sorted(self._last.items()))
        return "; ".join(f"{sort} " + "/".join(f"{share:.1f}" for share in shares) for sort, shares in rows)


def step_loss(
    model: LlavaOnevisionForConditionalGeneration,
    writer: lesson.Writer,
    scenes: list[Scene],
    rng: np.random.Generator,
) -> tuple[Tensor, np.ndarray]:
    """The mean loss per answer token and the exact answers, bool (scenes, prompts)."""
    seen = lesson.look(model, scenes, rng)
    scripts = [
        writer.script(scene.truth, len(features)) for scene, features in zip(scenes, seen, strict=True)
    ]
    order = sorted(range(len(scenes)), key=lambda i: len(scripts[i].ids))
    total, exact = torch.zeros(()), np.zeros((len(scenes), len(PROMPTS)), bool)
    for first in range(0, len(order), MICRO):
        part = order[first : first + MICRO]
        loss, right = lesson.answer(model, [scripts[i] for i in part], [seen[i] for i in part])
        total, exact[part] = total + loss, right
    return total / sum(label != lesson.IGNORE for script in scripts for label in script.labels), exact


def engines(model: LlavaOnevisionForConditionalGeneration) -> list[torch.optim.Optimizer]:
    """Muon and AdamW; the tower, which stage 1 has taught, learns at a fifth of the rate."""
    core = model.model
    newline = torch.nn.ParameterList([core.image_newline])
    rest = [core.multi_modal_projector, core.language_model, newline]
    return optimizers([(core.vision_tower, 0.2), *((part, 1.0) for part in rest)], muon=0.02, adamw=2e-3)


def average_gradients(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Every process gets the mean of all processes' gradients, in one exchange of 5.6 MB."""
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def share_done(start: float, plan: Plan) -> float:
    """The share of the course that is done by the first process's clock, the same in every process."""
    since = (time.monotonic() - start) / (60 * plan.minutes)
    done = torch.tensor(plan.behind + (1 - plan.behind) * since, dtype=torch.float64)
    distributed.broadcast(done, src=0)
    return done.item()


def run(
    model: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, plan: Plan
) -> None:
    """Train the model in place, in every process of the group; the rates fall linearly to zero at the end.

    The first process prints the progress and saves the checkpoint, every few minutes and at the end.
    """
    rank = distributed.get_rank()
    rng, writer, tally = (
        np.random.default_rng([2, rank, int(1e6 * plan.behind)]),
        lesson.Writer(tokenizer),
        Tally(),
    )
    both, start, saved, step = engines(model), time.monotonic(), time.monotonic(), 0
    while (done := share_done(start, plan)) < 1:
        model.model.vision_tower.requires_grad_(done >= FROZEN)
        for engine in both:
            set_rate(engine, min(1.0, (step + 1) / 50) * (1 - done))
        scenes = lesson.draw(rng, max(tiles for since, tiles in TILES if done >= since))
        loss, exact = step_loss(model, writer, scenes, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for engine in both:
            engine.step()
            engine.zero_grad()
        for scene, right in zip(scenes, exact, strict=True):
            tally.add(scene, right)
        step += 1
        if rank == 0 and step % 20 == 0:
            print(f"{step} steps, {done:.1%}: loss {loss.item():.4f} {tally.words()}", flush=True)
        if rank == 0 and time.monotonic() - saved > SAVE_SECONDS:
            hub.save(model, tokenizer, plan.out)
            saved = time.monotonic()
    if rank == 0:
        hub.save(model, tokenizer, plan.out)
