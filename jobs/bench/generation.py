"""What captions cost, beside transformers' `generate` and, where an interpreter has it, vLLM.

All sides caption the same pictures with the same prompts, in the same numbers of tokens: as many for each, and natural
lengths, which are log-normal. The transformers side is given crops and token ids, made beforehand, and so is ours
beside it; vLLM makes its own from decoded pixels, and beside it so do we.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from jobs.bench.figure import Ceiling, Figure, Found, Spread, Versus
from jobs.bench.measured import Ids, Measured, least_s, passes, theirs
from jobs.bench.rounds import Rounds, rounds
from jobs.bench.subject import CAPPED, NOTHING, Options
from jobs.bench.transformers_side import Beside, transformers_or_none
from jobs.bench.vllm_side import Vllm, told, vllm_or_none
from jobs.bench.work import MEDIAN, MOST, SIGMA, Work, described, natural, work

NAME = "generation"
HERE, PIXELS, VLLM = "here", "here, from pixels", "vLLM"


def measure(options: Options) -> Found:
    """Captions a second, beside every peer there is, and vision and prefill beside the machine's matrix products."""
    todo = work(options, options.pictures, 1)
    if not todo.count:
        return Found(NAME, "nothing", notes=[NOTHING])
    lengths = {
        f"{options.new_tokens} tokens each": [options.new_tokens] * todo.count,
        "natural lengths": natural(todo.count),
    }
    bench = _Bench(options, todo, max(options.new_tokens, MOST))
    with (
        transformers_or_none(options.subject) as beside,
        vllm_or_none(options, todo, bench.requests, prefix_caching=False) as peer,
    ):
        figures = [
            figure for name, own in lengths.items() for figure in bench.figures(name, own, beside, peer)
        ]
    said = f"{described(options, todo)}, medians of {options.pairs} rounds"
    notes = [
        f"natural lengths are log-normal: median {MEDIAN}, sigma {SIGMA}, {MOST} at most",
        told(options, peer),
    ]
    if not beside:
        notes.append(f"transformers is left out: {CAPPED}")
    return Found(NAME, said, [*figures, bench.first()], notes)


class _Bench:
    """The work, and our side of it, the model loaded."""

    def __init__(self, options: Options, todo: Work, most: int) -> None:
        self._options, self._work = options, todo
        self._replica = Measured(options.subject, most)
        self.requests = todo.requests(self._replica)
        self._seconds = list[float]()

    def figures(
        self, name: str, lengths: Sequence[int], beside: Beside | None, peer: Vllm | None
    ) -> Iterator[Figure]:
        """All sides on captions of these lengths."""
        sides: dict[str, Callable[[], Ids]] = {
            HERE: partial(self._here, lengths),
            **self._transformers(lengths, beside),
            **self._vllm(lengths, peer),
        }
        done = rounds(sides, self._options.pairs)
        del self._seconds[-self._options.pairs - 1]  # the first is not counted
        least = least_s(self._options.subject, self._options.machine, self.requests, lengths)
        for side in [side for side in sides if side not in (HERE, PIXELS)] or [HERE]:
            yield _figure(name, done, side, least)

    def first(self) -> Figure:
        """Vision and prefill of all pictures, in every round: operations a second."""
        subject = self._options.subject
        flops = passes(subject.footprint, self.requests)
        rate = Spread.of(flops / own for own in self._seconds)
        dtype = self._options.machine.products(subject.model)
        ceiling = Ceiling(
            f"matrix products in {dtype}", self._options.machine.gemm[dtype], rate.median, "FLOP"
        )
        return Figure("vision and prefill", rate.scaled(1e-9), "GFLOP/s", None, ceiling)

    def _here(self, lengths: Sequence[int]) -> Ids:
        self._replica.clock.seconds = 0.0
        said = self._replica.captions(self.requests, lengths)
        self._seconds.append(self._replica.clock.seconds)
        return said

    def _transformers(self, lengths: Sequence[int], beside: Beside | None) -> Mapping[str, Callable[[], Ids]]:
        if not beside:
            return {}
        return {
            f"generate, {'one by one' if size == 1 else f'batches of {size}'}": partial(
                beside.captions, self.requests, lengths, size
            )
            for size in self._options.batches
            if size <= len(lengths)
        }

    def _vllm(self, lengths: Sequence[int], peer: Vllm | None) -> Mapping[str, Callable[[], Ids]]:
        if not peer:
            return {}
        return {
            PIXELS: lambda: self._replica.captions(self._work.requests(self._replica), lengths),
            VLLM: lambda: peer.captions(lengths),
        }


def _figure(name: str, done: Rounds[Ids], side: str, least: float) -> Figure:
    """Captions a second here, beside one of the others, which begins where we then begin, too; or by themselves."""
    here = PIXELS if side == VLLM else HERE
    count = len(done.made[here])
    rate = done.rate(here, count)
    ceiling = Ceiling("roofline", count / least, rate.median, "captions")
    what = f"from {'pixels' if side == VLLM else 'crops'}, {name}"
    if side == HERE:
        return Figure(what, rate, "captions/s", None, ceiling)
    versus = Versus(side, done.ratio(side, here))
    return Figure(what, rate, "captions/s", versus, ceiling, theirs(done, here, side))
