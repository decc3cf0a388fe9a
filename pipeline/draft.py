"""An asset while its shard is being read: members come in, one row goes out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import MediaError
from pipeline.naming import asset_id, joined
from pipeline.types import Asset, Clip, Code, Facts, Media, Member, Problem, Shard, Size, Stage

Probe = Callable[[Sequence[tuple[Media, bytes]]], Sequence[Size | Clip | MediaError]]
"""Looks at the headers of images (`Media.IMAGE`) and videos (`Media.VIDEO`); for each its facts, or why it has none."""

TOGETHER = 1 << 20  # bytes of media that are probed in one call, which costs 0.2 ms: more than a header
MANY = 64  # media in one call


@dataclass(slots=True)
class Draft:
    """What is known of one key so far.

    `found` has facts and problems in the order of what they are about, and None for a member that `Looks` has yet to
    look at. The first problem is the one that is reported.
    """

    key: str
    members: list[Member] = field(default_factory=list)
    kinds: list[Media] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    found: list[Size | Clip | Problem | None] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)

    @property
    def problem(self) -> Problem | None:
        """The first one."""
        return next((one for one in self.found if isinstance(one, Problem)), None)

    def fail(self, code: Code, message: str) -> None:
        self.found.append(Problem(Stage.INDEX, code, message))

    def name(self, member: Member, kind: Media, limit: int) -> bool:
        """Note a media member; whether its bytes are worth reading (at most `limit` of them)."""
        self.members.append(member)
        self.kinds.append(kind)
        if member.size > limit:
            self.fail(Code.TOO_LARGE, f"{member.size} bytes; [input] max_member_bytes is {limit}")
        return member.size <= limit

    def asset(self, dataset: str, shard: Shard) -> Asset:
        """The finished row."""
        media = self._media()
        read = len(self.digests) == len(self.kinds)
        return Asset(
            asset_id=asset_id(dataset, shard.path, self.key),
            key=self.key,
            media=media,
            members=tuple(self.members),
            sha256=joined(self.digests) if read else "",
            bytes=sum(member.size for member in self.members),
            text=self.text,
            facts=self._facts(),
        )

    def _media(self) -> Media | None:
        """The kind of asset; notes the problem where it is none or several."""
        if not self.kinds:
            self.fail(Code.NO_MEDIA, "no image or video under this key")
            return None
        if Media.VIDEO in self.kinds:
            if len(self.kinds) > 1:
                self.fail(Code.MIXED_MEDIA, "a video beside other media under one key")
            return Media.VIDEO
        return Media.IMAGES if len(self.kinds) > 1 else Media.IMAGE

    def _facts(self) -> Facts:
        problem, first = self.problem, self.found[0]
        if problem is not None:
            return problem
        return first if isinstance(first, Clip) else tuple(one for one in self.found if isinstance(one, Size))


class Looks:
    """Looks at members that drafts take in, many in one call."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._waiting: list[tuple[Draft, int, Media, bytes]] = []
        self._bytes = 0

    def take(self, draft: Draft, data: bytes) -> None:
        """Take in the bytes of the member that the draft named last; they are looked at by `now` at the latest."""
        draft.digests.append(hashlib.sha256(data).digest())
        if not data:
            draft.fail(Code.EMPTY, "no bytes")
            return
        self._waiting.append((draft, len(draft.found), draft.kinds[-1], data))
        draft.found.append(None)
        self._bytes += len(data)
        if self._bytes >= TOGETHER or len(self._waiting) >= MANY:
            self.now()

    def now(self) -> None:
        """Look at all that wait."""
        seen = self._probe([(kind, data) for _, _, kind, data in self._waiting]) if self._waiting else ()
        for (draft, place, _, _), one in zip(self._waiting, seen, strict=True):
            draft.found[place] = _problem(one) if isinstance(one, MediaError) else one
        self._waiting.clear()
        self._bytes = 0

    def done(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """The drafts in order, each when all its members have been looked at; a few of them are held."""
        held = deque[Draft]()
        for draft in drafts:
            held.append(draft)
            if len(held) > MANY:  # drafts without media may be millions
                self.now()
            while held and None not in held[0].found:
                yield held.popleft()
        self.now()
        yield from held


def _problem(error: MediaError) -> Problem:
    return Problem(Stage.INDEX, error.code, error.message)


def shard_row(dataset: str, shard: Shard, code: Code, message: str) -> Asset:
    """The row that reports a whole shard."""
    problem = Problem(Stage.INDEX, code, message)
    return Asset(asset_id(dataset, shard.path, ""), "", None, (), "", 0, {}, problem)
