"""Feeds mutated files to the pipeline and says what became of them.

    python -m tests.fuzz --seed 1 --count 50000                  all four kinds in turn
    python -m tests.fuzz --seed 1 --count 1 --first 812 --kind clip    one input again

Input i of a kind is the same for the same seed. Inputs that crash or hang a decoder, or break a promise, are kept in
--keep under their kind, seed and number. An exception that nobody expects ends the program and leaves the input there.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import seeds
from tests.fuzz.bench import LOST, Bench, Broken, Outcomes
from tests.fuzz.mutate import mutated

POOLS: dict[str, Callable[[], Sequence[bytes]]] = {
    "image": seeds.images,
    "clip": seeds.clips,
    "tar": seeds.tars,
    "parquet": seeds.tables,
}


@dataclass(slots=True)
class Tally:
    """What became of the inputs of one kind."""

    inputs: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def fuzz(bench: Bench, kind: str, seed: int, numbers: range, keep: Path) -> Tally:
    """Run the inputs with these numbers; a line of progress for each tenth."""
    act = {"image": bench.image, "clip": bench.clip, "tar": bench.tar, "parquet": bench.table}[kind]
    tally, start = Tally(), time.monotonic()
    for number in numbers:
        data = made(kind, seed, number)
        kept = keep / f"{kind}-{seed}-{number}"
        kept.write_bytes(data)
        if not _harmless(act, data, f"{kind} {number}", tally):
            kept.rename(f"{kept}.kept")
        else:
            kept.unlink()
        tally.inputs, tally.seconds = tally.inputs + 1, time.monotonic() - start
        if tally.inputs % max(1, len(numbers) // 10) == 0:
            print(line(kind, tally), file=sys.stderr, flush=True)
    return tally


def made(kind: str, seed: int, number: int) -> bytes:
    """One input."""
    chance, pool = random.Random(f"{seed} {kind} {number}"), POOLS[kind]()
    return mutated(chance, chance.choice(pool), chance.choice(pool))


def _harmless(act: Callable[[bytes], Outcomes], data: bytes, name: str, tally: Tally) -> bool:
    """Whether the decoder lived and every promise held."""
    try:
        outcomes = act(data)
    except Broken as error:
        tally.broken.append(f"{name}: {error}")
        return False
    tally.outcomes.update(outcomes)
    return not any(code in outcomes for code in LOST)


def line(kind: str, tally: Tally) -> str:
    """The tally in words."""
    codes = " ".join(f"{code} {count}" for code, count in tally.outcomes.most_common())
    rows = tally.outcomes.total()
    return f"{kind}: {tally.inputs} inputs, {rows} rows, {tally.seconds:.0f} s, {len(tally.broken)} broken; {codes}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=POOLS, action="append")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-kept"))
    asked = parser.parse_args(arguments)
    asked.keep.mkdir(parents=True, exist_ok=True)
    print(f"seed {asked.seed}, inputs {asked.first} to {asked.first + asked.count - 1} of each kind")
    broken = []
    with Bench(asked.keep) as bench:
        for kind in asked.kind or POOLS:
            numbers = range(asked.first, asked.first + asked.count)
            tally = fuzz(bench, kind, asked.seed, numbers, asked.keep)
            print(line(kind, tally))
            broken += tally.broken
    peaks = [
        resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(f"peak memory: {peaks[0]} MiB here, {peaks[1]} MiB in a decoder")
    print("\n".join(broken))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
