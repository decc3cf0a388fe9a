"""Train the demo checkpoint: python -m jobs.demo.train OUT_DIR

Stage 1 teaches the vision tower patches, stage 2 everything through the model's real forward path. Both go by
the clock, so a busy machine trains less but ends when it was told to.
"""

import argparse
import time
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from jobs.demo import hub, lesson, tower
from jobs.demo.muon import optimizers, set_rate
from jobs.demo.scenes import PROMPTS, Scene

# (share of stage 2 done, most tiles a picture may have from then on)
TILES = ((0.0, 1), (0.06, 2), (0.12, 6), (0.2, 12))
FROZEN = 0.1  # of stage 2 the tower stands still, while the language model is still noise
MICRO = 14  # scenes of like length a language-model pass: a clip beside 241 tokens of tiles is mostly padding
SAVE_SECONDS = 240


class Tally:
    """The share of exact answers among the last 1,000 scenes of each sort; none of them was seen before."""

    def __init__(self) -> None:
        self._last: dict[str, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=1000))

    def add(self, scene: Scene, exact: np.ndarray) -> None:
        self._last[scene.kind].append(exact)
        if scene.kind == "image":
            height, width = scene.pictures[0].shape[:2]
            self._last[f"{-(-height // 72)}x{-(-width // 72)}"].append(exact)

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


def stage_two(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    minutes: float,
    out: Path,
) -> None:
    """Train the model in place for that long, saving it every few minutes; rates fall linearly to zero."""
    rng, writer, tally = np.random.default_rng(2), lesson.Writer(tokenizer), Tally()
    core = model.model
    core.vision_tower.requires_grad_(False)
    newline = torch.nn.ParameterList([core.image_newline])
    parts = [
        (core.vision_tower, 0.2),
        (core.multi_modal_projector, 1.0),
        (core.language_model, 1.0),
        (newline, 1.0),
    ]
    engines = optimizers(parts, muon=0.02, adamw=2e-3)
    start, step, saved = time.monotonic(), 0, time.monotonic()
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        if done >= FROZEN:
            core.vision_tower.requires_grad_(True)
        for engine in engines:
            set_rate(engine, min(1.0, (step + 1) / 50) * (1 - done))
        scenes = lesson.draw(rng, max(tiles for since, tiles in TILES if done >= since))
        loss, exact = step_loss(model, writer, scenes, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for engine in engines:
            engine.step()
            engine.zero_grad()
        for scene, right in zip(scenes, exact, strict=True):
            tally.add(scene, right)
        step += 1
        if step % 20 == 0:
            print(f"{step} steps, {done:.1%}: loss {loss.item():.4f} {tally.words()}", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS:
            hub.save(model, tokenizer, out)
            saved = time.monotonic()
    hub.save(model, tokenizer, out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the checkpoint and its ACCURACY.json")
    parser.add_argument(
        "--tower", type=Path, default=Path("tower.safetensors"), help="stage 1's result, reused if there"
    )
    parser.add_argument("--tower-minutes", type=float, default=13)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--per-kind", type=int, default=400, help="held-out scenes of each kind in the accuracy"
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    tokenizer = hub.make_tokenizer()
    model = hub.make_model(tokenizer)
    if not args.tower.exists():
        tower.train(model.model.vision_tower, args.tower_minutes, seed=1)
        save_model(model.model.vision_tower, args.tower)
    load_model(model.model.vision_tower, args.tower)
    stage_two(model, tokenizer, args.minutes, args.out)


if __name__ == "__main__":
    main()
