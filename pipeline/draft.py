"""An asset while its shard is being read: members come in, one row goes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import MediaError
from pipeline.naming import asset_id, joined
from pipeline.types import Asset, Clip, Code, Facts, Media, Member, Problem, Shard, Size, Stage

Probe = Callable[[Media, bytes], Size | Clip]
"""Looks at the header of one image (`Media.IMAGE`) or video (`Media.VIDEO`); raises `MediaError`."""


@dataclass(slots=True)
class Draft:
    """What is known of one key so far. The first problem is the one that is reported."""

    key: str
    members: list[Member] = field(default_factory=list)
    kinds: list[Media] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    facts: list[Size | Clip] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)
    problem: Problem | None = None

    def fail(self, code: Code, message: str) -> None:
        if self.problem is None:
            self.problem = Problem(Stage.INDEX, code, message)

    def name(self, member: Member, kind: Media, limit: int) -> bool:
        """Note a media member; whether its bytes are worth reading (at most `limit` of them)."""
        self.members.append(member)
        self.kinds.append(kind)
        if member.size > limit:
            self.fail(Code.TOO_LARGE, f"{member.size} bytes; [input] max_member_bytes is {limit}")
        return member.size <= limit

    def look(self, data: bytes, probe: Probe) -> None:
        """Take in the bytes of the member that was named last."""
        self.digests.append(hashlib.sha256(data).digest())
        if not data:
            self.fail(Code.EMPTY, "no bytes")
            return
        try:
            self.facts.append(probe(self.kinds[-1], data))
        except MediaError as error:
            self.fail(error.code, error.message)

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
        if self.problem is not None:
            return self.problem
        if len(self.facts) == 1 and isinstance(self.facts[0], Clip):
            return self.facts[0]
        return tuple(fact for fact in self.facts if isinstance(fact, Size))


def shard_row(dataset: str, shard: Shard, code: Code, message: str) -> Asset:
    """The row that reports a whole shard."""
    problem = Problem(Stage.INDEX, code, message)
    return Asset(asset_id(dataset, shard.path, ""), "", None, (), "", 0, {}, problem)
