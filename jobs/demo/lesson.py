"""Stage 2's batches: scenes as tiles, and three answers behind one visual prefix."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from jobs.demo.hub import MEAN, STD
from jobs.demo.scenes import FRAMES, GRIDS, PROMPTS, TILE, TRAIN_SEEDS, Scene, scene

BLANK = 0.2  # of the single pictures lose their base crop, or the tiles would not be looked at
SHARE = {1: 0.5, 2: 0.5, 3: 1.0, 4: 1.0, 6: 1.0, 12: 1.5}  # how often a grid of so many tiles is drawn
IMAGES, MULTI, VIDEOS = 13, 2, 6  # scenes of a step and process; single pictures are the hard part
IGNORE = -100


def squash(picture: np.ndarray) -> np.ndarray:
    """The whole picture as one (72, 72, 3) uint8 tile, bicubic, its aspect ratio lost."""
    if picture.shape[:2] == (TILE, TILE):
        return picture
    return np.asarray(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC))


def crops(picture: np.ndarray) -> np.ndarray:
    """Base crop and tiles (1 + rows * columns, 72, 72, 3) uint8 of a picture that fills its grid unresized.

    transformers' own processor gives the same (a test compares them); this takes a quarter of its time.
    """
    height, width = picture.shape[:2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    top, left = (rows * TILE - height) // 2, (columns * TILE - width) // 2
    canvas = np.zeros((rows * TILE, columns * TILE, 3), np.uint8)
    canvas[top : top + height, left : left + width] = picture
    tiles = canvas.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    return np.concatenate([squash(picture)[None], tiles])


def portrait(picture: np.ndarray) -> np.ndarray:
    """One of several pictures: (1, 72, 72, 3) uint8, padded to a square with the mean colour, then scaled."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = [int(mean * 255) for mean in MEAN]
    canvas[top : top + height, left : left + width] = picture
    return squash(canvas)[None]


def normalise(tiles: np.ndarray) -> Tensor:
    """(n, 72, 72, 3) uint8 to (n, 3, 72, 72) float32 of mean 0 and deviation 1."""
    pixels = torch.tensor(tiles).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def hard(one: Scene) -> bool:
    """What came last of all in training: three shapes, the middle, changes of colour, and that nothing happens."""
    words = one.truth["describe"]
    return one.truth["count"] == "3 shapes" or any(word in words for word in ("middle", "turns", "still"))


def pick(rng: np.random.Generator, scenes: list[Scene], count: int) -> list[Scene]:
    """That many of the scenes; a hard one is twice as likely to be taken as an easy one."""
    odds = np.asarray([2.0 if hard(one) else 1.0 for one in scenes])
    return [scenes[i] for i in rng.choice(len(scenes), count, replace=False, p=odds / odds.sum())]


def draw(rng: np.random.Generator, most_tiles: int) -> list[Scene]:
    """A step's training scenes, on grids of at most that many tiles; the clips of a step share one length."""
    grids = [grid for grid in GRIDS if grid[0] * grid[1] <= most_tiles]
    odds = np.asarray([SHARE[rows * columns] for rows, columns in grids])
    chosen = rng.choice(len(grids), 2 * IMAGES, p=odds / odds.sum())
    seeds = iter(rng.integers(TRAIN_SEEDS.stop // 100, size=2 * IMAGES + MULTI + 2 * VIDEOS).tolist())
    length = int(rng.integers(len(FRAMES)))
    stills = [scene("image", next(seeds), grids[grid]) for grid in chosen]
    clips = [scene("video", next(seeds) * len(FRAMES) + length) for _ in range(2 * VIDEOS)]
    sets = [scene("images", next(seeds)) for _ in range(MULTI)]
    return [*pick(rng, stills, IMAGES), *sets, *pick(rng, clips, VIDEOS)]


def look(
    model: LlavaOnevisionForConditionalGeneration, scenes: list[Scene], rng: np.random.Generator
) -> list[Tensor]:
    """Each scene's visual tokens (n, width), through the model's own feature packing, stills before clips."""
    stills = [one for one in scenes if one.kind != "video"]
    tiles, sizes = [], []
    for one in stills:
        for picture in one.pictures:
            part = normalise(crops(picture) if one.kind == "image" else portrait(picture))
            if one.kind == "image" and rng.random() < BLANK:
                part[0] = 0
            tiles.append(part)
            sizes.append(picture.shape[:2])
    counts = [len(one.pictures) for one in stills]
    packed = model.get_image_features(
        torch.cat(tiles), torch.tensor(sizes), batch_num_images=torch.tensor(counts)
    )
    pieces = iter(packed.pooler_output)
    seen = [torch.cat([next(pieces) for _ in range(count)]) for count in counts]
    clips = [
        normalise(np.stack([squash(frame) for frame in one.pictures]))
        for one in scenes
        if one.kind == "video"
    ]
    if clips:
        seen += list(model.get_video_features(torch.stack(clips)).pooler_output)
    return seen


@dataclass(frozen=True, slots=True)
class Script:
    """A scene's tokens. Visual ones have id -1; branch 0 is the shared prefix, 1..3 are the prompts.

    Labels stand on answers only, IGNORE elsewhere.
    """

    ids: list[int]
    branch: list[int]
    position: list[int]
    labels: list[int]


class Writer:
    """Lays scenes out as token sequences, by the checkpoint's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._image = tokenizer.convert_tokens_to_ids("<image>")
        self._end = tokenizer.eos_token_id
        self._prompts = {name: self._split(text) for name, text in PROMPTS.items()}
        self._answers: dict[str, list[int]] = {}

    def _split(self, text: str) -> tuple[list[int], list[int]]:
        """The ids before and after the picture."""
        turn: dict[str, Any] = {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": text}],
        }
        words = self._tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        ids = self._tokenizer(words, add_special_tokens=False).input_ids
        at = ids.index(self._image)
        return ids[:at], ids[at + 1 :]

    def _answer(self, caption: str) -> list[int]:
        if caption not in self._answers:
            ids: list[int] = self._tokenizer(caption, add_special_tokens=False).input_ids
            self._answers[caption] = [*ids, self._end]
        return self._answers[caption]

    def script(self, truth: dict[str, str], visual: int) -> Script:
        """The prefix with that many visual tokens; each prompt with its answer then continues the prefix."""
        head = next(iter(self._prompts.values()))[0] + [-1] * visual
        out = Script(list(head), [0] * len(head), list(range(len(head))), [IGNORE] * len(head))
        for number, (name, (_, tail)) in enumerate(self._prompts.items(), start=1):
            answer = self._answer(truth[name])
            out.ids.extend(tail + answer[:-1])
            out.labels.extend([IGNORE] * (len(tail) - 1) + answer)
            length = len(tail) + len(answer) - 1
            out.branch.extend([number] * length)
            out.position.extend(range(len(head), len(head) + length))
        return out


def answer(
    model: LlavaOnevisionForConditionalGeneration, scripts: list[Script], seen: list[Tensor]
) -> tuple[Tensor, np.ndarray]:
    """The summed loss of all answer tokens, and which whole answers are the likeliest: bool (scenes, 3)."""
    longest = max(len(one.ids) for one in scripts)

    def grid(part: str, fill: int) -> Tensor:
        return torch.tensor([getattr(one, part) + [fill] * (longest - len(one.ids)) for one in scripts])

    ids, branch, position, labels = (
        grid("ids", 0),
        grid("branch", -1),
        grid("position", 0),
        grid("labels", IGNORE),
    )
    words = model.get_input_embeddings()(ids.clamp(min=0))
    embeds = words.masked_scatter((ids == -1)[..., None], torch.cat(seen).to(words))
    # A token sees the prefix and its own branch, backwards only; padding (branch -1) sees itself.
    same = (branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)
    mask = (same & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None]
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=position, use_cache=False
    ).last_hidden_state
    spoken = labels != IGNORE
    logits = model.lm_head(hidden[spoken])
    wrong = torch.zeros(labels.shape, dtype=torch.bool)
    wrong[spoken] = logits.argmax(-1) != labels[spoken]
    exact = torch.stack([~(wrong & (branch == k)).any(1) for k in (1, 2, 3)], 1)
    return functional.cross_entropy(logits, labels[spoken], reduction="sum"), exact.numpy()
