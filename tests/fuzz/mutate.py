"""Damage to files: flipped bits, runs of bytes, cuts, splices, numbers that lie, blocks that are gone or come twice."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from pipeline.containers import PNG_MAGIC

MOST = 1 << 20  # bytes of a mutated file; duplicated blocks would make some large for no gain
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
BLOCK = 512  # of a tar


def mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """`data` after one to three faults, sometimes with parts of `other`; the same for the same state of `chance`.

    Half of them have their checksums put right (PNG chunks, tar headers), or no fault would be seen behind those.
    """
    for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
        fault = chance.choice(FAULTS)
        data = fault(chance, data, other)[:MOST] if data else other
    return _sealed(data) if chance.random() < 0.5 else data


def _flip(chance: random.Random, data: bytes, other: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def _run(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _block(chance, data)
    run = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length), b"A" * length))
    return data[:at] + run + data[at + length :]


def _cut(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _behead(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[chance.randrange(min(len(data), 64)) :]


def _splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _implant(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _block(chance, other)
    to = chance.randrange(len(data))
    return data[:to] + other[at : at + length] + data[to + chance.choice((0, length)) :]


def _number(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """A number of 1 to 8 bytes, in either order, becomes an edge case or a neighbour of itself."""
    width = chance.choice((1, 2, 2, 4, 4, 4, 8))
    order = chance.choice(("little", "big"))
    at = chance.randrange(max(1, len(data) - width))
    old = int.from_bytes(data[at : at + width], "little" if order == "little" else "big")
    new = chance.choice((chance.choice(EDGES), old + 1, old - 1, old * 2, old << 8, (1 << 8 * width) - 1))
    value = (new % (1 << 8 * width)).to_bytes(width, "little" if order == "little" else "big")
    return data[:at] + value + data[at + width :]


def _remove(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _block(chance, data)
    return data[:at] + data[at + length :]


def _double(chance: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _block(chance, data)
    return data[: at + length] + data[at : at + length] * chance.choice((1, 1, 2, 50)) + data[at + length :]


def _swap(chance: random.Random, data: bytes, other: bytes) -> bytes:
    a, b, c = sorted(chance.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _block(chance: random.Random, data: bytes) -> tuple[int, int]:
    """Offset and length of a block of any order of magnitude; often, but not always, where tars have them."""
    length = min(1 << chance.randrange(12), len(data))
    at = chance.randrange(len(data) - length + 1)
    return (at // BLOCK * BLOCK if chance.random() < 0.4 else at), length


FAULTS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip, _flip, _flip, _number, _number, _number, _number, _run, _run, _cut, _behead, _splice, _implant, _remove,
    _double, _swap,
)  # fmt: skip


def _sealed(data: bytes) -> bytes:
    """PNG chunks and tar headers with the checksums that their bytes ask for; other files as they are."""
    if data.startswith(PNG_MAGIC):
        return _sealed_png(data)
    if data[257:262] == b"ustar":
        return b"".join(_sealed_block(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK))
    return data


def _sealed_png(data: bytes) -> bytes:
    found, at = bytearray(data), len(PNG_MAGIC)
    while at + 12 <= len(found):
        end = at + 8 + int.from_bytes(found[at : at + 4], "big")
        if end + 4 > len(found):
            break
        found[end : end + 4] = struct.pack(">I", zlib.crc32(found[at + 4 : end]))
        at = end + 4
    return bytes(found)


def _sealed_block(block: bytes) -> bytes:
    if block[257:262] != b"ustar" or len(block) < BLOCK:
        return block
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]
