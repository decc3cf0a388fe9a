"""The demo domain: synthetic pictures and clips whose captions are a pure function of what is drawn.

Every word of a caption hangs on a place (left, above, first, grows), so tiles in the wrong order, an ignored
EXIF rotation, reversed frames or swapped pictures show as wrong words. Kind and seed alone decide a scene.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["image", "images", "video"]

KINDS: tuple[Kind, ...] = ("image", "images", "video")
PROMPTS: dict[str, str] = {
    "describe": "Describe the picture.",
    "list": "List the shapes.",
    "count": "How many shapes are there?",
}
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "green": (35, 165, 50),
    "blue": (40, 60, 225),
    "yellow": (235, 205, 20),
    "pink": (235, 70, 215),
    "cyan": (20, 205, 220),
}
TILE = 72
# (rows, columns) of tiles; the last two pass nine tiles, where anyres_max_9 interpolates the features.
GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (3, 4), (4, 3))
CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
EVENTS = ("left", "right", "up", "down", "turns", "grows", "shrinks", "still")
FRAME_SIZES = ((72, 72), (96, 96), (96, 128), (128, 96))
FRAMES = range(4, 17)
# Training never draws a held-out seed; the accuracy and the sample shards never draw a training seed.
TRAIN_SEEDS = range(1_000_000_000)
HELD_OUT_SEEDS = range(1_000_000_000, 2_000_000_000)


@dataclass(frozen=True, slots=True)
class Scene:
    """Pictures (H, W, 3) uint8, upright RGB (the frames of a video), and the caption of each prompt id."""

    kind: Kind
    pictures: tuple[np.ndarray, ...]
    truth: dict[str, str]


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: its colour's name, centre and full size in pixels of its picture."""

    shape: str
    colour: str
    y: float = 0.0
    x: float = 0.0
    size: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


def scene(kind: Kind, seed: int, grid: tuple[int, int] | None = None) -> Scene:
    """The scene of this seed. Consecutive seeds walk over GRIDS (without `grid`), picture and frame counts."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    if kind == "image":
        return _image(rng, grid or GRIDS[seed % len(GRIDS)])
    if kind == "images":
        return _images(rng, 2 + seed % 2)
    return _video(rng, FRAMES[seed % len(FRAMES)])


def coverage(
    shape: str, box: tuple[int, int, int, int], centre: tuple[float, float], half: tuple[float, float]
) -> np.ndarray:
    """How much of each pixel in `box` (top, left, bottom, right) is covered: (rows, columns) float32."""
    top, left, bottom, right = box
    v = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - centre[0]) / half[0])[:, None]
    u = np.abs((np.arange(left, right, dtype=np.float32) + 0.5 - centre[1]) / half[1])[None, :]
    if shape == "circle":
        outside = np.hypot(u, v) - 1
    elif shape == "square":
        outside = np.maximum(u, np.abs(v)) - 1
    elif shape == "triangle":
        outside = np.maximum(v - 1, (u - (v + 1) / 2) * 0.894)  # 0.894 = the side's unit normal in u
    else:
        v = np.abs(v)
        outside = np.minimum(np.maximum(u - 0.3, v - 1), np.maximum(u - 1, v - 0.3))
    return np.asarray(np.clip(0.5 - outside * min(half), 0, 1), np.float32)


def background(rng: np.random.Generator) -> np.ndarray:
    """A plain light or dark gray, RGB float32."""
    level = rng.uniform(225, 250) if rng.random() < 0.5 else rng.uniform(10, 40)
    return np.full(3, level, np.float32)


def shade(rng: np.random.Generator, colour: str) -> np.ndarray:
    """The colour, up to 12 levels off per channel, RGB float32."""
    return (COLOURS[colour] + rng.uniform(-12, 12, 3)).astype(np.float32)


def paint(canvas: np.ndarray, thing: Thing, rgb: np.ndarray) -> None:
    """Draw one thing on a float32 (H, W, 3) canvas, in place."""
    half = thing.size / 2
    top, left = max(int(thing.y - half) - 1, 0), max(int(thing.x - half) - 1, 0)
    bottom, right = (
        min(int(thing.y + half) + 2, canvas.shape[0]),
        min(int(thing.x + half) + 2, canvas.shape[1]),
    )
    alpha = coverage(thing.shape, (top, left, bottom, right), (thing.y, thing.x), (half, half))[..., None]
    spot = canvas[top:bottom, left:right]
    spot += alpha * (rgb - spot)


def finish(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The canvas with noise of up to 6 levels, as uint8."""
    canvas += rng.integers(-6, 7, canvas.shape, np.int8)
    return np.asarray(canvas.clip(0, 255), np.uint8)


def picture(rng: np.random.Generator, height: int, width: int, things: list[Thing]) -> np.ndarray:
    """A (height, width, 3) uint8 picture of the things on a plain ground."""
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = background(rng)
    for thing in things:
        paint(canvas, thing, shade(rng, thing.colour))
    return finish(rng, canvas)


def cast(rng: np.random.Generator, count: int) -> list[Thing]:
    """That many different things, unplaced. A quarter have one colour, so that shapes must be bound to places."""
    if rng.random() < 0.25:
        colour = str(rng.choice(list(COLOURS)))
        return [Thing(str(shape), colour) for shape in rng.permutation(SHAPES)[:count]]
    picks = rng.permutation(len(SHAPES) * len(COLOURS))[:count]
    return [Thing(SHAPES[i % len(SHAPES)], list(COLOURS)[i // len(SHAPES)]) for i in picks.tolist()]


def colourful(rng: np.random.Generator, count: int) -> list[Thing]:
    """That many things of as many colours, unplaced."""
    return [Thing(str(rng.choice(SHAPES)), str(colour)) for colour in rng.permutation(list(COLOURS))[:count]]


def _image(rng: np.random.Generator, grid: tuple[int, int]) -> Scene:
    height, width = _sides(rng, grid)
    # A side of one tile has room for two shapes, a longer one for three.
    odds = (0.4, 0.4, 0.2) if max(grid) > 1 else (0.5, 0.5, 0.0)
    count = int(rng.choice((1, 2, 3), p=odds))
    things = cast(rng, count) if count < 3 else colourful(rng, count)
    if len(things) == 1:
        placed, words = _one(rng, things[0], height, width)
        return Scene("image", (picture(rng, height, width, [placed]),), _truth(words, things))
    roomy = [axis for axis in (0, 1) if len(things) == 2 or grid[axis] > 1]
    axis = int(rng.choice(roomy))
    row = _in_a_row(rng, things, axis, (height, width))
    return Scene("image", (picture(rng, height, width, row),), _truth(_relation(things, axis), things))


def _sides(rng: np.random.Generator, grid: tuple[int, int]) -> tuple[int, int]:
    """Sides in pixels that choose this grid; one is up to 10 (a third of the time 34) short of its tiles."""
    sides = [grid[0] * TILE, grid[1] * TILE]
    axis = int(rng.integers(2))
    most = 34 if sides[axis] > TILE and rng.random() < 1 / 3 else 10
    sides[axis] -= int(rng.integers(most + 1))
    return sides[0], sides[1]


def _one(rng: np.random.Generator, thing: Thing, height: int, width: int) -> tuple[Thing, str]:
    """The thing placed in a corner or in the middle, and the words for it."""
    most = min(56, 0.56 * min(height, width))
    size = rng.uniform(min(36, 0.8 * most), most)
    spot = str(rng.choice([*CORNERS, "middle"]))
    ends = CORNERS.get(spot, (None, None))
    y, x = (_along(rng, end, side, size) for end, side in zip(ends, (height, width), strict=True))
    words = "in the middle" if spot == "middle" else f"in the {spot} corner"
    return Thing(thing.shape, thing.colour, y, x, size), f"a {thing.name} {words}"


def _along(rng: np.random.Generator, end: int | None, side: int, size: float) -> float:
    """A centre on one axis: within the first 30 %, the last 30 %, or (None) the middle 8 % of the side."""
    if end is None:
        return side * rng.uniform(0.46, 0.54)
    distance = rng.uniform(size / 2 + 1, max(0.3 * side, size / 2 + 2))
    return side - distance if end else distance


def _in_a_row(
    rng: np.random.Generator, things: list[Thing], axis: int, sides: tuple[int, int]
) -> list[Thing]:
    """The things one after the other along the axis, each in its own equal slot, near one line across it."""
    slot, across = sides[axis] / len(things), sides[1 - axis]
    line, row = rng.uniform(0, 1), []
    for i, thing in enumerate(things):
        most = min(56, 0.86 * slot, 0.8 * across)
        size = rng.uniform(min(38, most), most)
        along = slot * i + rng.uniform(size / 2 + 1, slot - size / 2 - 1)
        # 12 pixels across at most, so that what lies above never also lies clearly to the left.
        beside = np.clip(line * across + rng.uniform(-6, 6), size / 2 + 1, across - size / 2 - 1)
        y, x = (along, beside) if axis == 0 else (beside, along)
        row.append(Thing(thing.shape, thing.colour, float(y), float(x), size))
    return row


def _relation(things: list[Thing], axis: int) -> str:
    names = [f"a {thing.name}" for thing in things]
    if len(names) == 2:
        return f"{names[0]} {('above', 'to the left of')[axis]} {names[1]}"
    return f"{names[0]}, {names[1]} and {names[2]} from {('top to bottom', 'left to right')[axis]}"


def _truth(words: str, things: list[Thing]) -> dict[str, str]:
    """The three captions; the things are in reading order."""
    count = f"{len(things)} shape{'s' if len(things) > 1 else ''}"
    return {"describe": words, "list": ", ".join(thing.name for thing in things), "count": count}


def _images(rng: np.random.Generator, count: int) -> Scene:
    things = cast(rng, count)
    words = "first " + ", then ".join(f"a {thing.name}" for thing in things)
    return Scene("images", tuple(_portrait(rng, thing) for thing in things), _truth(words, things))


def _portrait(rng: np.random.Generator, thing: Thing) -> np.ndarray:
    """One thing anywhere in a picture of 72 to 132 pixels; 26 pixels or more of it are left in a tile."""
    long = int(rng.integers(TILE, 133))
    short = int(long * rng.uniform(0.6, 1))
    height, width = (long, short) if rng.random() < 0.5 else (short, long)
    size = rng.uniform(0.37, 0.55) * long
    y, x = (rng.uniform(size / 2 + 1, side - size / 2 - 1) for side in (height, width))
    return picture(rng, height, width, [Thing(thing.shape, thing.colour, float(y), float(x), size)])


def _video(rng: np.random.Generator, frames: int) -> Scene:
    thing, event = cast(rng, 1)[0], str(rng.choice(EVENTS))
    sides = FRAME_SIZES[rng.integers(len(FRAME_SIZES))]
    if event in MOVES:
        words, path = (
            f"moves {'to the ' if MOVES[event][1] else ''}{event}",
            _moving(rng, thing, sides, event, frames),
        )
    elif event == "turns":
        words, path = _turning(rng, thing, sides, frames)
    elif event == "still":
        words, path = "stays still", _scaling(rng, thing, sides, np.ones(frames) * rng.uniform(1.1, 1.5))
    else:
        factors = np.linspace(1, rng.uniform(1.7, 2), frames)
        words, path = event, _scaling(rng, thing, sides, factors if event == "grows" else factors[::-1])
    return Scene("video", _film(rng, sides, path), _truth(f"a {thing.name} {words}", [thing]))


def _moving(
    rng: np.random.Generator, thing: Thing, sides: tuple[int, int], event: str, frames: int
) -> list[Thing]:
    """A straight move over 36 % of the frame or more; it starts anywhere, so that no frame gives it away."""
    size = rng.uniform(0.34, 0.4) * max(sides)
    tracks = []
    for side, sign in zip(sides, MOVES[event], strict=True):
        room = side - size - 2
        distance = rng.uniform(0.36 * side, room) if sign else 0.0
        start = size / 2 + 1 + rng.uniform(0, room - distance)
        track = np.linspace(start, start + distance, frames)
        tracks.append(track[::-1] if sign < 0 else track)
    return [Thing(thing.shape, thing.colour, float(y), float(x), size) for y, x in zip(*tracks, strict=True)]


def _turning(
    rng: np.random.Generator, thing: Thing, sides: tuple[int, int], frames: int
) -> tuple[str, list[Thing]]:
    """The thing at rest, in another colour from some frame of the middle half on, and the words for it."""
    path = _scaling(rng, thing, sides, np.ones(frames) * rng.uniform(1.1, 1.5))
    colour = str(rng.choice([name for name in COLOURS if name != thing.colour]))
    change = int(rng.integers(-(-frames // 4), frames - -(-frames // 4) + 1))
    turned = [Thing(at.shape, colour, at.y, at.x, at.size) for at in path[change:]]
    return f"turns {colour}", path[:change] + turned


def _scaling(
    rng: np.random.Generator, thing: Thing, sides: tuple[int, int], factors: np.ndarray
) -> list[Thing]:
    """The thing at one place, its size 31 to 35 % of the longer side times each frame's factor."""
    size = rng.uniform(0.31, 0.35) * max(sides)
    most = size * factors.max()
    y, x = (rng.uniform(most / 2 + 1, max(side - most / 2 - 1, most / 2 + 1)) for side in sides)
    return [Thing(thing.shape, thing.colour, float(y), float(x), size * float(factor)) for factor in factors]


def _film(rng: np.random.Generator, sides: tuple[int, int], path: list[Thing]) -> tuple[np.ndarray, ...]:
    """One frame per step of the path, all on one ground; a colour keeps its shade for the whole clip."""
    ground, shades = background(rng), {thing.colour: shade(rng, thing.colour) for thing in path}
    canvas = np.empty((len(path), *sides, 3), np.float32)
    canvas[:] = ground
    for frame, thing in zip(canvas, path, strict=True):
        paint(frame, thing, shades[thing.colour])
    return tuple(finish(rng, canvas))
