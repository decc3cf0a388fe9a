"""Stage 1: teach the vision tower alone what each patch shows. Without it captions stayed under 10 %."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionModel

from jobs.demo.hub import MEAN, STD
from jobs.demo.muon import optimizers, set_rate
from jobs.demo.scenes import COLOURS, SHAPES, TILE, background, coverage, shade

SIDE = TILE // 14
BATCH = 256
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Labels:
    """Per patch (n, 25): colour (0 = none) and shape classes int64, IGNORE where unsure.

    geometry (n, 25, 4) float32 is the owner's centre and half size (y, x, y, x) over the tile's side, NaN
    where the patch has no owner.
    """

    colour: np.ndarray
    shape: np.ndarray
    geometry: np.ndarray


class Heads(nn.Module):
    """Linear readers of the tower's last hidden state; thrown away after stage 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.colour, self.shape = nn.Linear(width, len(COLOURS) + 1), nn.Linear(width, len(SHAPES))
        self.geometry = nn.Linear(width, 4)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.norm(hidden)
        return self.colour(hidden), self.shape(hidden), self.geometry(hidden)


def _places(rng: np.random.Generator) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Centres and half sizes (y, x) of a tile's shapes: cut by its edges as in a grid, or squashed as a base."""
    if rng.random() < 0.6:
        count = int(rng.integers(1, 3))
        halves = [np.repeat(rng.uniform(12, 28), 2) for _ in range(count)]
        centres = [
            rng.uniform(-16, TILE + 16, 2) if rng.random() < 0.6 else rng.uniform(h, TILE - h) for h in halves
        ]
    else:
        squash = np.asarray([1.0, 1.0, 4 / 3, 2.0, 3.0, 4.0])[rng.integers(6, size=2)]
        halves = [np.maximum(rng.uniform(14, 26) / squash, 3.5) for _ in range(int(rng.integers(1, 4)))]
        centres = [rng.uniform(h, TILE - h) for h in halves]
    return [
        ((float(c[0]), float(c[1])), (float(h[0]), float(h[1]))) for c, h in zip(centres, halves, strict=True)
    ]


def tile(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One (72, 72, 3) float32 tile 0..255 and its rows of `Labels`."""
    canvas = np.empty((TILE, TILE, 3), np.float32)
    canvas[:] = background(rng)
    box, facts = (0, 0, TILE, TILE), []
    shares: list[np.ndarray] = []
    for centre, half in _places(rng):
        shape, colour = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS)))
        alpha = coverage(SHAPES[shape], box, centre, half)
        canvas += alpha[..., None] * (shade(rng, list(COLOURS)[colour]) - canvas)
        patches = alpha[:70, :70].reshape(SIDE, 14, SIDE, 14).mean((1, 3)).ravel()
        shares = [share * (1 - patches) for share in shares] + [patches]
        facts.append((colour + 1, shape if min(half) >= 7 else IGNORE, np.asarray([*centre, *half]) / TILE))
    canvas += rng.integers(-6, 7, canvas.shape, np.int8)
    return canvas, *_labels(np.stack(shares), facts)


def _labels(
    shares: np.ndarray, facts: list[tuple[int, int, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A patch belongs to the shape that covers most of it, if that is 12 % or more; under 2 % it is empty."""
    owner, most = shares.argmax(0), shares.max(0)
    colour = np.asarray([fact[0] for fact in facts])[owner]
    shape = np.where(most >= 0.12, np.asarray([fact[1] for fact in facts])[owner], IGNORE)
    geometry = np.where((most >= 0.12)[:, None], np.stack([fact[2] for fact in facts])[owner], np.nan)
    return (
        np.where(most >= 0.12, colour, np.where(most < 0.02, 0, IGNORE)),
        shape,
        geometry.astype(np.float32),
    )


def batch(rng: np.random.Generator) -> tuple[Tensor, Labels]:
    """BATCH tiles as normalised (n, 3, 72, 72) float32, and their labels."""
    pixels, colour, shape, geometry = (
        np.stack(part) for part in zip(*(tile(rng) for _ in range(BATCH)), strict=True)
    )
    normal = (np.clip(pixels, 0, 255) / 255 - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32)), Labels(colour, shape, geometry)


def loss(out: tuple[Tensor, Tensor, Tensor], labels: Labels) -> tuple[Tensor, str]:
    """The weighted sum of the three losses, and the accuracies in words."""
    colour, shape = torch.from_numpy(labels.colour).flatten(), torch.from_numpy(labels.shape).flatten()
    geometry = torch.from_numpy(labels.geometry).flatten(0, 1)
    known = ~geometry.isnan().any(-1)
    total = functional.cross_entropy(out[0].flatten(0, 1), colour, ignore_index=IGNORE)
    total = total + functional.cross_entropy(out[1].flatten(0, 1), shape, ignore_index=IGNORE)
    total = total + 4 * functional.smooth_l1_loss(out[2].flatten(0, 1)[known], geometry[known], beta=0.05)
    right = [
        (o.flatten(0, 1).argmax(-1) == want)[want != IGNORE].float().mean().item()
        for o, want in ((out[0], colour), (out[1], shape))
    ]
    off = (out[2].flatten(0, 1)[known] - geometry[known]).abs().mean(0) * TILE
    return total, f"colour {right[0]:.3f} shape {right[1]:.3f} off by {off.mean().item():.1f} px"


def train(tower: SiglipVisionModel, minutes: float, seed: int) -> None:
    """Train the tower in place for that long by the clock: the rates fall linearly to zero at its end."""
    rng, heads = np.random.default_rng(seed), Heads(tower.config.hidden_size)
    engines = optimizers([(tower, 1.0), (heads, 1.0)], muon=0.02, adamw=2e-3)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for engine in engines:
            set_rate(engine, min(1.0, (step + 1) / 50) * (1 - done))
        pixels, labels = batch(rng)
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-1]
        total, words = loss(heads(hidden), labels)
        total.backward()
        nn.utils.clip_grad_norm_([*tower.parameters(), *heads.parameters()], 1.0)
        for engine in engines:
            engine.step()
            engine.zero_grad()
        step += 1
        if step % 25 == 0:
            print(f"tower {step * BATCH} tiles, {done:.0%}: loss {total.item():.3f} {words}", flush=True)
