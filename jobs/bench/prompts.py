"""What several prompts about one picture cost beside one prompt, beside as many separate runs, and beside vLLM.

Every caption has exactly as many new tokens as asked for. Asset by asset, each picture's captions are asked for by
themselves, as they are where a job has a replica to itself; in one call, all of them together. vLLM keeps prefixes from
one request to the next, and begins with decoded pixels, as we do beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from jobs.bench.figure import Ceiling, Figure, Found, Versus
from jobs.bench.measured import Ids, Measured, least_s, theirs
from jobs.bench.rounds import Rounds, rounds
from jobs.bench.subject import Options
from jobs.bench.vllm_side import told, vllm_or_none
from jobs.bench.work import SIZES, Work, described, work
from pipeline.types import Request

NAME = "prompts"
ONE, TOGETHER, APART = "one prompt", "together", "as many separate runs"
ONE_CALL, TOGETHER_CALL = "one prompt, in one call", "together, in one call"
PIXELS, VLLM = "together, from pixels", "vLLM, prefixes kept"


def measure(options: Options) -> Found:
    """Ratios of seconds, and captions a second beside vLLM."""
    subject = options.subject
    prompts = len(subject.prompts) if subject.shards else options.prompts
    todo = work(options, min(options.pictures, len(SIZES)), prompts)
    if prompts < 2 or not todo.pictures:
        return Found(
            NAME,
            "nothing",
            notes=["it takes two prompts about single images, and some of these"],
        )
    replica = Measured(subject, options.new_tokens)
    requests = todo.requests(replica)
    with vllm_or_none(options, todo, requests, prefix_caching=True) as peer:
        sides = _sides(options, replica, todo, requests)
        if peer:
            sides[VLLM] = lambda: peer.captions([options.new_tokens] * todo.count)
        else:
            del sides[PIXELS]
        done = rounds(sides, options.pairs)
    said = (
        f"{prompts} prompts, {described(options, todo)}, {options.new_tokens} tokens each, "
        f"medians of {options.pairs} rounds"
    )
    least = least_s(subject, options.machine, requests, [options.new_tokens] * todo.count)
    return Found(NAME, said, list(_figures(done, todo, least, prompts)), [told(options, peer)])


def _sides(
    options: Options, replica: Measured, todo: Work, requests: Sequence[Request]
) -> dict[str, Callable[[], Ids]]:
    """The ways of asking."""

    def said(calls: Sequence[Sequence[Request]]) -> Ids:
        return [ids for call in calls for ids in replica.captions(call, [options.new_tokens] * len(call))]

    each = len(todo.prompts)
    assets = [requests[i : i + each] for i in range(0, len(requests), each)]
    return {
        ONE: lambda: said([own[:1] for own in assets]),
        TOGETHER: lambda: said(assets),
        APART: lambda: said([[own[i]] for i in range(each) for own in assets]),
        ONE_CALL: lambda: said([requests[::each]]),
        TOGETHER_CALL: lambda: said([requests]),
        PIXELS: lambda: said([todo.requests(replica)]),
    }


def _figures(done: Rounds[Ids], todo: Work, least: float, prompts: int) -> Iterator[Figure]:
    """Times of one prompt, then captions a second."""
    for side, base in ((TOGETHER, ONE), (TOGETHER_CALL, ONE_CALL)):
        versus = Versus(APART, done.ratio(APART, side)) if side == TOGETHER else None
        ceiling = Ceiling("roofline", todo.count / least, todo.count / done.seconds(side).median, "captions")
        details = {"seconds": done.seconds(side).median}
        times = done.ratio(side, base)
        yield Figure(f"{prompts} prompts {side}", times, f"x the time of {base}", versus, ceiling, details)
    if VLLM in done.taken:
        rate = done.rate(PIXELS, todo.count)
        ceiling = Ceiling("roofline", todo.count / least, rate.median, "captions")
        versus = Versus(VLLM, done.ratio(VLLM, PIXELS))
        beside = theirs(done, PIXELS, VLLM)
        yield Figure(f"{prompts} prompts {PIXELS}", rate, "captions/s", versus, ceiling, beside)
