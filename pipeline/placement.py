"""Which node does what: what a node has, what an actor claims of it, and labels that keep one from the other.

Labels are Ray's (`ray start --labels`, or what a cloud sets), and so are their selectors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

KEY = r"[A-Za-z0-9][\w./-]*"
VALUE = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
SELECTOR = re.compile(rf"{KEY}=!?(?:{VALUE}|in\({VALUE}(?:, ?{VALUE})*\))", re.ASCII)
MIB = 1 << 20
# Of a replica, which works on all of them: while the longest captions of two end, the third has some that begin. Of 32
# slots and units of 42 captions, 5 to 8 % were idle with two, none with three.
UNITS_HELD = 3
# Of a preprocessor and its decoder: imports, and the picture that is being decoded. Measured with photographs of 24
# megapixels: 545 MiB, and twice the 253 MiB of the unit's crops, which lie there one by one and then together.
READER_BYTES = 768 * MIB
COPIES = 2


@dataclass(frozen=True, slots=True)
class Node:
    """A node: all that it has, whoever holds it now. `memory` and `store` (for objects) are bytes."""

    cpus: float
    gpus: float
    memory: float
    store: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one actor asks of its node; `labels` is a selector (`selector`), `memory` bytes."""

    cpus: float
    gpus: float = 0.0
    memory: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def fits(self, node: Node) -> int:
        """How many of these the node holds when nobody else is there. A share of a GPU is of one GPU."""
        if not allows(self.labels, node.labels):
            return 0
        gpus = math.floor(node.gpus) * math.floor(1 / self.gpus) if 0 < self.gpus < 1 else math.inf
        pairs = ((node.cpus, self.cpus), (node.gpus, self.gpus), (node.memory, self.memory))
        return int(min(gpus, 1 << 20, *(there // asked for there, asked in pairs if asked)))

    def __str__(self) -> str:
        parts = [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.cpus:g} CPU"] if self.cpus else []
        parts += [f"{self.memory / MIB:,.0f} MiB of memory"] if self.memory else []
        parts += [f"{key}={value}" for key, value in self.labels.items()]
        return ", ".join(parts)


def selector(labels: Sequence[str]) -> dict[str, str]:
    """`key=value` texts as Ray takes them, by key."""
    return {key: value for key, _, value in (label.partition("=") for label in labels)}


def mistakes(where: str, labels: Sequence[str]) -> Iterator[str]:
    """The problems of such texts."""
    for label in labels:
        if not SELECTOR.fullmatch(label):
            yield f'{where} must be like "key=value", "key=!value" or "key=in(a,b)", not {label!r}'
    if len(selector(labels)) < len(labels):
        yield f"{where} names a key twice; key=in(a,b) allows several values"


def allows(labels: Mapping[str, str], of: Mapping[str, str]) -> bool:
    """Whether a node with the labels `of` is one that the selector means, as Ray has it: !value is also no label."""
    return all((of.get(key) in _values(value)) != value.startswith("!") for key, value in labels.items())


def _values(value: str) -> list[str]:
    """The values that `!in(a,b)`, or `!a`, names."""
    bare = value.removeprefix("!")
    listed = bare[3:-1] if bare.startswith("in(") else bare
    return [one.strip() for one in listed.split(",")]


def reader_memory(unit_bytes: int) -> int:
    """Bytes that a preprocessor takes for units of at most so many bytes of pixels."""
    return READER_BYTES + COPIES * unit_bytes


def too_large(nodes: Sequence[Node], replica: Claim, reader: Claim, unit_bytes: int) -> Iterator[str]:
    """The problems with units of at most so many bytes of pixels, of nodes that could hold a replica, or a reader."""
    stores = [node.store for node in nodes if replica.fits(node)]
    if stores and max(stores) < UNITS_HELD * unit_bytes:
        yield (
            f"{_largest(unit_bytes)}, a replica holds {UNITS_HELD} units, and the largest object store beside one has "
            f"{_mib(max(stores))}; set it to at most {int(max(stores) // UNITS_HELD)}, or start Ray with "
            f"--object-store-memory={UNITS_HELD * unit_bytes}"
        )
    memories = [node.memory for node in nodes if replace(reader, memory=0.0).fits(node)]
    if memories and max(memories) < reader.memory:
        room = int(max(memories) - READER_BYTES) // COPIES
        lower = f"set it to at most {room}, or " if room > 0 else ""
        yield (
            f"{_largest(unit_bytes)}, a preprocessor takes {_mib(reader.memory)} for it, and no node has more than "
            f"{_mib(max(memories))} beside its object store; {lower}start Ray with --memory={reader.memory:.0f}"
        )


def _largest(unit_bytes: int) -> str:
    return f"[unit] max_pixel_bytes: the largest unit has {_mib(unit_bytes)} of pixels"


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f} MiB"
