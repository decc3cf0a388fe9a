"""Train the demo checkpoint: python -m jobs.demo.train OUT_DIR

Stage 1 teaches the vision tower patches, stage 2 everything through the model's real forward path. Both go by the
clock, so a busy machine trains less but ends when it was told to. At last the held-out accuracy is measured.

Stage 2 is a few processes of one thread each, which meet once a step. One process with two threads took ten times
as long a step wherever another process wanted a core: each of its thousands of parallel regions waited for the
thread that was off the processor.

The shipped checkpoint took 13 + 74 minutes of two shared cores. Its stage 2 was four resumed legs while this recipe
was being found (odds of scenes and grids, when the tower is frozen); as it stands it was not run from the start.
"""

import argparse
import tempfile
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from jobs.demo import accuracy, hub, lesson, tower
from jobs.demo.muon import optimizers, set_rate
from jobs.demo.scenes import PROMPTS, TILE, Scene

WORKERS = 2  # a step is WORKERS times lesson's scenes: the recipe was tuned with two
# (share of the course done, most tiles a picture may have from then on)
TILES = ((0.0, 1), (0.04, 2), (0.08, 6), (0.14, 12))
FROZEN = 0.6  # of the course the tower stands still: its backward pass is a quarter of a step's work
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

    def add(self, scenes: list[Scene], exact: np.ndarray) -> None:
        for scene, right in zip(scenes, exact, strict=True):
            self._last[scene.kind].append(right)
            if scene.kind == "image":
                height, width = scene.pictures[0].shape[:2]
                self._last[f"{-(-height // TILE)}x{-(-width // TILE)}"].append(right)

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


def advance(
    model: LlavaOnevisionForConditionalGeneration, both: list[torch.optim.Optimizer], loss: Tensor
) -> None:
    """One step of all processes, down the mean of their gradients."""
    loss.backward()
    average_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for engine in both:
        engine.step()
        engine.zero_grad()


def run(
    model: LlavaOnevisionForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, plan: Plan
) -> None:
    """Train the model in place, in every process of the group; the rates fall linearly to zero at the end.

    The first process prints the progress and saves the checkpoint, every few minutes and at the end.
    """
    rank, writer, tally = distributed.get_rank(), lesson.Writer(tokenizer), Tally()
    rng = np.random.default_rng([2, rank, int(1e6 * plan.behind)])
    both, start, saved, step = engines(model), time.monotonic(), time.monotonic(), 0
    while (done := share_done(start, plan)) < 1:
        model.model.vision_tower.requires_grad_(done >= FROZEN)
        for engine in both:
            set_rate(engine, min(1.0, (step + 1) / 50) * (1 - done))
        scenes = lesson.draw(rng, max(tiles for since, tiles in TILES if done >= since))
        loss, exact = step_loss(model, writer, scenes, rng)
        advance(model, both, loss)
        tally.add(scenes, exact)
        step += 1
        if rank == 0 and step % 20 == 0:
            print(f"{step} steps, {done:.1%}: loss {loss.item():.4f} {tally.words()}", flush=True)
        if rank == 0 and time.monotonic() - saved > SAVE_SECONDS:
            hub.save(model, tokenizer, plan.out)
            saved = time.monotonic()
    if rank == 0:
        hub.save(model, tokenizer, plan.out)


def learn(rank: int, meeting: str, tower_file: Path, plan: Plan) -> None:
    """One process of stage 2: the same weights in each, as the seed and the files are the same."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    torch.manual_seed(0)
    if plan.behind:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(plan.out)
        model = hub.make_model(tokenizer)
        model.load_state_dict(type(model).from_pretrained(plan.out, dtype=torch.float32).state_dict())
        distributed.barrier()  # before the first process may write there
    else:
        tokenizer = hub.make_tokenizer()
        model = hub.make_model(tokenizer)
        load_model(model.model.vision_tower, tower_file)
    run(model, tokenizer, plan)
    distributed.destroy_process_group()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the checkpoint and its ACCURACY.json")
    parser.add_argument("--tower", type=Path, default=Path("tower.safetensors"), help="stage 1's weights")
    parser.add_argument("--tower-minutes", type=float, default=13, help="stage 1, if its file is not there")
    parser.add_argument("--minutes", type=float, default=60, help="stage 2")
    parser.add_argument("--resume", type=float, default=0.0, help="share of stage 2 behind OUT_DIR's weights")
    parser.add_argument("--per-kind", type=int, default=400, help="held-out scenes of each kind")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not args.tower.exists():
        torch.manual_seed(0)
        model = hub.make_model(hub.make_tokenizer())
        tower.train(model.model.vision_tower, args.tower_minutes, seed=1)
        save_model(model.model.vision_tower, args.tower)
    plan = Plan(args.out, args.minutes, args.resume)
    with tempfile.TemporaryDirectory() as folder:
        spawn(learn, (f"{folder}/meeting", args.tower, plan), nprocs=WORKERS)
    accuracy.record(args.out, args.per_kind, args.tower_minutes + args.minutes)


if __name__ == "__main__":
    main()
