"""What captions cost, beside transformers' `generate` and, where an interpreter has it, vLLM.

All sides caption the same pictures with the same prompts, in the same numbers of tokens: as many for each, and natural
lengths, which are log-normal. The transformers side is given crops and token ids, made beforehand, and so is ours
beside it; vLLM makes its own from decoded pixels, and beside it so do we.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from jobs.bench.figure import Ceiling, Figure, Found, Spread, Versus
from jobs.bench.measured import Ids, Measured, least_s, passes
from jobs.bench.rounds import Rounds, rounds
from jobs.bench.subject import Options
from jobs.bench.transformers_peer import Transformers
from jobs.bench.vllm_side import WITHOUT, Vllm, vllm_or_none
from jobs.bench.work import MEDIAN, MOST, SIGMA, Work, described, natural, work

NAME = "generation"
HERE, PIXELS, VLLM = "here", "here, from pixels", "vLLM"
BATCHES = (8, 16)


def measure(options: Options) -> Found:
    """Captions a second, beside every peer there is, and vision and prefill beside the machine's matrix products."""
    todo = work(options, options.pictures, 1)
    if not todo.count:
        return Found(NAME, "nothing", notes=["the job's sample has no single image that can be read"])
    lengths = {
        f"{options.new_tokens} tokens each": [options.new_tokens] * todo.count,
        f"natural lengths (median {MEDIAN}, sigma {SIGMA}, at most {MOST})": natural(todo.count),
    }
    bench = _Bench(options, todo, max(options.new_tokens, MOST))
    with vllm_or_none(options, todo, bench.requests, prefix_caching=False) as peer:
        figures = [figure for name, own in lengths.items() for figure in bench.figures(name, own, peer)]
    said = f"{described(options, todo)}, medians of {options.pairs} rounds"
    return Found(NAME, said, figures, [] if peer else [WITHOUT])


class _Bench:
    """The sides that run in this process, with their models loaded."""

    def __init__(self, options: Options, todo: Work, most: int) -> None:
        self._options, self._work = options, todo
        self._replica = Measured(options.subject, most)
        self._peer = Transformers(options.subject)
        self.requests = todo.requests(self._replica)

    def figures(self, name: str, lengths: Sequence[int], peer: Vllm | None) -> Iterator[Figure]:
        """All sides on captions of these lengths."""
        first = list[float]()

        def here() -> Ids:
            self._replica.clock.seconds = 0.0
            said = self._replica.captions(self.requests, lengths)
            first.append(self._replica.clock.seconds)
            return said

        done = rounds({HERE: here, **self._others(lengths, peer)}, self._options.pairs)
        least = least_s(self._options.subject, self._options.machine, self.requests, lengths)
        for side in done.taken:
            if side not in (HERE, PIXELS):
                yield _beside(name, done, side, least)
        yield self._first(name, first[1:])

    def _others(self, lengths: Sequence[int], peer: Vllm | None) -> Mapping[str, Callable[[], Ids]]:
        sizes = [size for size in BATCHES if size <= len(lengths)]
        found: dict[str, Callable[[], Ids]] = {
            f"generate, {name}": partial(self._peer.captions, self.requests, lengths, size)
            for name, size in {"one by one": 1, **{f"batches of {size}": size for size in sizes}}.items()
        }
        if peer:
            found[PIXELS] = lambda: self._replica.captions(self._work.requests(self._replica), lengths)
            found[VLLM] = lambda: peer.captions(lengths)
        return found

    def _first(self, name: str, seconds: Sequence[float]) -> Figure:
        """Vision and prefill of all pictures: operations a second."""
        flops, subject = passes(self._options.subject.footprint, self.requests), self._options.subject
        rate = Spread.of(flops / own / 1e12 for own in seconds)
        gemm = self._options.machine.gemm[subject.model.dtype]
        ceiling = Ceiling(f"matrix products in {subject.model.dtype}", gemm, rate.median * 1e12, "FLOP")
        return Figure(f"vision and prefill, {name}", rate, "TFLOP/s", None, ceiling)


def _beside(name: str, done: Rounds[Ids], side: str, least: float) -> Figure:
    """Captions a second here, and beside one of the others, which begins where we then begin, too."""
    here = PIXELS if side == VLLM else HERE
    ours, theirs = done.made[here], done.made[side]
    rate = done.rate(here, len(ours))
    details = {
        "theirs": done.rate(side, len(ours)).median,
        "same tokens": f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}",
    }
    return Figure(
        f"from {'pixels' if side == VLLM else 'crops'}, {name}",
        rate,
        "captions/s",
        Versus(side, done.ratio(side, here)),
        Ceiling("roofline", len(ours) / least, rate.median, "captions"),
        details,
    )
