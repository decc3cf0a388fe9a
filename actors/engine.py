"""The engine: all captions that a replica is asked for, whoever asks, go on together, pass by pass, in one thread.

It knows no tensors. What a pass computes is the decoder's, which token comes next the choice's: simulations pass
their own through the same seams.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from actors.meter import Meter, share
from pipeline.batching import Rooms, Slot
from pipeline.fit import PREFILL_TOKENS

Group = Sequence[int]  # numbers of the prompts of one sample
Started = TypeVar("Started")  # what a group begins with
Opening = TypeVar("Opening")  # what the choice must know of a prompt
Said = TypeVar("Said")
Started_contra = TypeVar("Started_contra", contravariant=True)
Opening_contra = TypeVar("Opening_contra", contravariant=True)
Said_co = TypeVar("Said_co", covariant=True)


class Decoder(Protocol[Started_contra]):
    """The language model. Both methods return the logits of each slot's next token."""

    def start(self, groups: Sequence[Started_contra], into: Sequence[Sequence[Slot[Any]]]) -> Any:
        """Begin every prompt of every group, in order, in the slots that `into` has for it."""

    def step(self, slots: Sequence[Slot[Any]], tokens: Any) -> Any:
        """One more token, `tokens`, in each of these slots, those of a block side by side."""


class Choice(Protocol[Opening_contra, Said_co]):
    """The next tokens, and where captions end."""

    def join(self, slot: Slot[Any], opening: Opening_contra) -> None:
        """A caption begins in this slot."""

    def next(self, slots: Sequence[Slot[Any]], logits: Any) -> None:
        """Choose a token in each slot."""

    def last(self, slots: Sequence[Slot[Any]]) -> Any:
        """The tokens that were chosen last."""

    def ended(self, slot: Slot[Any]) -> bool:
        """Whether the slot's caption is complete."""

    def spoken(self, slot: Slot[Any]) -> Said_co:
        """The slot's complete caption."""

    def leave(self, slot: Slot[Any]) -> None:
        """The slot is free."""

    def reset(self) -> None:
        """All slots are free."""


@dataclass(eq=False, slots=True)
class Call(Generic[Started, Opening, Said]):
    """Prompts that somebody waits for, by number: tokens of prompt and caption at most, and what the choice must know.

    `begin` is asked for what groups begin with, when their turn has come. To `meter` the call's share of each pass is
    added.
    """

    lengths: Sequence[int]
    openings: Sequence[Opening]
    begin: Callable[[Sequence[Group]], Sequence[Started]]
    meter: Meter = field(default_factory=Meter)
    said: deque[tuple[int, Said]] = field(default_factory=deque)
    failed: RuntimeError | MemoryError | None = None


class Engine(Generic[Started, Opening, Said]):
    """One for a loaded model. `prefill_tokens` bounds the prompts of one pass, unless one group has more."""

    def __init__(
        self,
        decoder: Decoder[Started],
        choice: Choice[Opening, Said],
        rooms: Callable[[], Rooms[Any]],
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self._decoder, self._choice, self._make, self._prefill = decoder, choice, rooms, prefill_tokens
        self._rooms = rooms()
        self.meter = Meter()  # by all callers together
        self._waiting = deque[tuple[Call[Started, Opening, Said], Group]]()
        self._running = dict[Slot[Any], tuple[Call[Started, Opening, Said], int]]()
        self._order = list[Slot[Any]]()  # those that are running, side by side; empty: to be found
        self._thread = ThreadPoolExecutor(1, "engine")  # all passes, so that nothing here needs a lock

    def captions(
        self, call: Call[Started, Opening, Said], groups: Sequence[Group]
    ) -> Generator[tuple[int, Said], None, None]:
        """What each prompt of the groups, which begin in this order, is answered, with its number, as it is done.

        Whoever waits has the next pass made, for all callers; what it raises, all callers raise.
        """
        left = sum(map(len, groups))
        self._thread.submit(self._join, call, groups).result()
        try:
            while left:
                self._thread.submit(self._serve, call).result()
                while call.said:
                    left -= 1
                    yield call.said.popleft()
                if call.failed:
                    error, call.failed = call.failed, None
                    raise error
        finally:
            self._thread.submit(self._leave, call).result()

    def _join(self, call: Call[Started, Opening, Said], groups: Sequence[Group]) -> None:
        """The call waits. Who waits is looked up here, in the thread: whoever leaves makes another queue."""
        self._waiting.extend((call, group) for group in groups)

    def _serve(self, call: Call[Started, Opening, Said]) -> None:
        """One pass, unless another's has served the caller by now."""
        if call.said or call.failed:
            return
        try:
            self._pass()
        except (RuntimeError, MemoryError) as error:  # what torch raises where memory is short
            self._fail(error)
            raise

    def _fail(self, error: RuntimeError | MemoryError) -> None:
        """Forget everything that is under way, and let its callers know."""
        for call, _ in [*self._running.values(), *self._waiting]:
            call.failed = error
        self._waiting.clear()
        self._running.clear()
        self._order = []
        self._choice.reset()
        self._rooms = self._make()

    def _leave(self, call: Call[Started, Opening, Said]) -> None:
        """Nobody waits for the call any more."""
        self._waiting = deque(own for own in self._waiting if own[0] is not call)
        for slot in [slot for slot, own in self._running.items() if own[0] is call]:
            self._end(slot)

    def _pass(self) -> None:
        since = time.perf_counter()
        if begun := self._next():
            into = [own for _, _, own in begun]
            now = [slot for own in into for slot in own]
            logits = self._decoder.start(_started(begun), into)
        else:
            now = self._order = self._order or _side_by_side(self._running)
            logits = self._decoder.step(now, self._choice.last(now))
        self._choice.next(now, logits)
        callers, idle = self._callers(now, starts=bool(begun)), self._rooms.idle
        for slot in filter(self._choice.ended, now):
            call, number = self._running[slot]
            call.said.append((number, self._choice.spoken(slot)))
            self._end(slot)
        seconds = time.perf_counter() - since
        for weights in (callers, {self.meter: 1}):
            share(weights, seconds, *((0, 0) if begun else (len(now), idle)))

    def _callers(self, now: Sequence[Slot[Any]], *, starts: bool) -> dict[Meter, int]:
        """Whose pass this is: their tokens where prompts are started, their slots in a step of decoding."""
        found = dict[Meter, int]()
        for slot in now:
            call, number = self._running[slot]
            found[call.meter] = found.get(call.meter, 0) + (call.lengths[number] if starts else 1)
        return found

    def _next(self) -> list[tuple[Call[Started, Opening, Said], Group, list[Slot[Any]]]]:
        """Takes the groups that begin now: as many as there are slots for, of so many tokens together, or one."""
        begun, tokens = list[tuple[Call[Started, Opening, Said], Group, list[Slot[Any]]]](), 0
        while self._waiting and self._rooms.idle:
            call, group = self._waiting[0]
            tokens += sum(call.lengths[number] for number in group)
            if begun and tokens > self._prefill:
                break
            taken = self._take(call, group)
            if len(taken) < len(group) and self._running:
                for slot in taken:
                    self._rooms.give(slot)
                break
            self._waiting.popleft()
            if len(taken) < len(group):  # more than an empty cache holds: the others look at the asset again
                self._waiting.appendleft((call, group[len(taken) :]))
            for slot, number in zip(taken, group, strict=False):
                self._running[slot], self._order = (call, number), []
                self._choice.join(slot, call.openings[number])
            begun.append((call, group[: len(taken)], taken))
        return begun

    def _take(self, call: Call[Started, Opening, Said], group: Group) -> list[Slot[Any]]:
        """A slot for each prompt of the group, or for as many of the first as have one."""
        taken = list[Slot[Any]]()
        for number in group:
            if (slot := self._rooms.take(call.lengths[number], len(self._waiting))) is None:
                break
            taken.append(slot)
        return taken

    def _end(self, slot: Slot[Any]) -> None:
        del self._running[slot]
        self._order = []
        self._rooms.give(slot)
        self._choice.leave(slot)


def _side_by_side(slots: Iterable[Slot[Any]]) -> list[Slot[Any]]:
    """Those of a block together; blocks in the order of their first."""
    found = dict[Any, list[Slot[Any]]]()
    for slot in slots:
        found.setdefault(slot.block, []).append(slot)
    return [slot for own in found.values() for slot in own]


def _started(begun: Sequence[tuple[Call[Started, Any, Any], Group, Any]]) -> list[Started]:
    """What the groups begin with: each caller is asked once."""
    asked = dict[Call[Started, Any, Any], list[Group]]()
    for call, group, _ in begun:
        asked.setdefault(call, []).append(group)
    made = {call: iter(call.begin(groups)) for call, groups in asked.items()}
    return [next(made[call]) for call, _, _ in begun]
