"""What of the input is to be captioned, and under which prompts, given the table that is published already.

An asset stands where its bytes, its kind and its readability are those of the table's run: of a shard with the same
etag all assets do, of others the two indexes tell. Assets that stand are asked only what has changed
(`pipeline.standing`, and the text that prompts use); all others, everything.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import papers, prompt
from pipeline.before import Before
from pipeline.columns import unequal
from pipeline.config import PromptConfig
from pipeline.standing import KINDS, Standing
from pipeline.types import Code, Shard

EVERYTHING = 0  # the list of prompts that all are asked
NOTHING = -1
COMPARED = ("asset_id", "sha256", "media", "text", "problem_code")
Asks = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Todo:
    """`asks` has an entry per index row of each shard: the number of a list in `prompts`, or `NOTHING`.

    The first list is empty, for all prompts of the job. `stands` says of each row whether it is as it was and some of
    its published rows stay, or a failure is tried again; `copied`, whether its rows are another's (see `copies`).
    `dropped` are assets of the table before whose rows do not stay, with the reason: left, changed, or again.
    """

    asks: list[Asks]
    stands: list[Mask]
    copied: list[Mask] = field(default_factory=list)
    prompts: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    dropped: list[pa.Table] = field(default_factory=list)

    def number(self, prompts: tuple[str, ...]) -> int:
        """The number of this list of prompts."""
        if prompts not in self.prompts:
            self.prompts.append(prompts)
        return self.prompts.index(prompts)

    def drop(self, ids: pa.Array | pa.ChunkedArray, reason: str) -> None:
        """Note assets of the table before."""
        if len(ids):
            chunks = pa.chunked_array([ids]) if isinstance(ids, pa.Array) else ids
            reasons = pa.chunked_array([[reason] * len(ids)], pa.string())
            self.dropped.append(pa.Table.from_arrays([chunks, reasons], schema=papers.DROPPED))


@dataclass(frozen=True, slots=True)
class Indexed:
    """What is known of a shard: its index, and by row the kind (a number in `KINDS`) and whether it has a problem."""

    shard: Shard
    uri: str
    kinds: npt.NDArray[np.int8]
    problem: Mask


def everything(shards: Sequence[Indexed]) -> Todo:
    """All assets under all prompts: nothing is published yet."""
    asks = [np.full(len(shard.kinds), EVERYTHING, np.int32) for shard in shards]
    return Todo(asks, [np.zeros(len(shard.kinds), bool) for shard in shards])


class Comparison:
    """Finds out what is to do after a table that is published.

    `again` are codes of failures that are tried once more, none for all of them; None tries nothing again.
    """

    def __init__(
        self,
        before: Before,
        rule: Standing,
        prompts: Sequence[PromptConfig],
        again: Collection[str] | None = None,
    ) -> None:
        self._before, self._rule, self._prompts = before, rule, prompts
        self._todo = Todo([], [])
        self._by_kind = np.array([self._asked(kind) for kind in KINDS], np.int32)
        self._failed = self._failures().get(None, {}) if (self._by_kind > EVERYTHING).any() else {}
        self._unread = self._failures([Code.CONTENT_CHANGED]).get(None, {})
        self._again = {} if again is None else self._failures(again)

    def todo(self, shards: Sequence[Indexed]) -> Todo:
        """What is to do of these shards, which are all of the input."""
        for shard in shards:
            asks, stands = self._shard(shard)
            self._todo.asks.append(asks)
            self._todo.stands.append(stands)
        gone = self._before.indexes.keys() - {shard.shard.path for shard in shards}
        for path in sorted(gone):
            self._todo.drop(_ids(self._before.index_uri(path)), "left")
        return self._todo

    def _asked(self, kind: str) -> int:
        """What standing assets of this kind are asked."""
        if self._rule.stays[kind]:
            return self._todo.number(self._rule.asked[kind]) if self._rule.asked[kind] else NOTHING
        return NOTHING if self._rule.failures[kind] else EVERYTHING

    def _failures(self, codes: Collection[str] = ()) -> dict[str | None, dict[str, pa.Array]]:
        """By prompt (None: of all prompts) and path of the shard, the assets that failed."""
        rows = self._before.failures(("prompt_id", "shard", "asset_id"), codes)
        grouped = rows.group_by(["prompt_id", "shard"]).aggregate([("asset_id", "list")])
        found: dict[str | None, dict[str, pa.Array]] = {}
        for under, path, ids in zip(*(column.to_pylist() for column in grouped.columns), strict=True):
            found.setdefault(under, {})[path] = pa.array(ids, pa.string())
        return found

    def _shard(self, shard: Indexed) -> tuple[Asks, Mask]:
        same, reworded = self._unchanged(shard)
        stands = same & (self._by_kind != EVERYTHING)[shard.kinds]
        asks = np.where(stands, self._by_kind[shard.kinds], EVERYTHING).astype(np.int32)
        for under, rows in reworded.items():
            self._add(asks, stands & rows, under)
        # under more prompts it would be two failures of one asset
        asks[(asks > EVERYTHING) & (shard.problem | self._among(shard, self._failed))] = NOTHING
        self._try_again(shard, asks, stands & ~shard.problem)
        return asks, stands

    def _add(self, asks: Asks, rows: Mask, under: str) -> None:
        """Ask these rows this prompt too, if it is one of the job's."""
        if not any(under in stays for stays in self._rule.stays.values()):
            return
        for ask in np.unique(asks[rows & (asks != EVERYTHING)]).tolist():
            known = self._todo.prompts[ask] if ask > EVERYTHING else ()
            more = () if under in known else (under,)
            asks[rows & (asks == ask)] = self._todo.number((*known, *more))

    def _try_again(self, shard: Indexed, asks: Asks, may: Mask) -> None:
        """Ask rows that failed once more, wholly or under the prompt that failed. `may` says which can be read."""
        for under, failed in self._again.items():
            chosen = may & (asks != EVERYTHING) & self._among(shard, failed)
            if under is not None:
                self._add(asks, chosen, under)
            elif chosen.any():
                self._todo.drop(_ids(shard.uri).filter(pa.array(chosen)), "again")
                asks[chosen] = EVERYTHING

    def _among(self, shard: Indexed, ids: Mapping[str, pa.Array]) -> Mask:
        if (some := ids.get(shard.shard.path)) is None:
            return np.zeros(len(shard.kinds), bool)
        found: Mask = pc.is_in(_ids(shard.uri), some).to_numpy()
        return found

    def _unchanged(self, shard: Indexed) -> tuple[Mask, dict[str, Mask]]:
        """Which rows of the shard are as they were, and by prompt those of them whose text it uses is another."""
        path = shard.shard.path
        if path not in self._before.indexes:
            return np.zeros(len(shard.kinds), bool), {}
        if shard.uri == self._before.index_uri(path):
            return np.ones(len(shard.kinds), bool), {}
        old, new = papers.read(self._before.index_uri(path), COMPARED), papers.read(shard.uri, COMPARED)
        was = old.take(pc.index_in(new["asset_id"], old["asset_id"].combine_chunks()))
        known = pc.is_valid(was["asset_id"]).to_numpy()
        unchanged: Mask = known & _same(was, new) & ~self._among(shard, self._unread)
        self._todo.drop(new["asset_id"].filter(pa.array(known & ~unchanged)), "changed")
        left = pc.invert(pc.is_in(old["asset_id"], new["asset_id"].combine_chunks()))
        self._todo.drop(old["asset_id"].filter(left), "left")
        return unchanged, self._reworded(was["text"], new["text"], unchanged)

    def _reworded(self, was: pa.ChunkedArray, now: pa.ChunkedArray, rows: Mask) -> dict[str, Mask]:
        found = {p.id: np.zeros(len(rows), bool) for p in self._prompts if prompt.fields([p])}
        different = np.flatnonzero(rows & unequal(was, now).to_numpy()) if found else ()
        for i in different:
            for p in self._prompts:
                names = sorted(prompt.fields([p]))
                if names and used(was[i].as_py(), names) != used(now[i].as_py(), names):
                    found[p.id][i] = True
        return found


def _same(was: pa.Table, new: pa.Table) -> Mask:
    """Equal bytes, kind and problem; pictures' sizes follow from these."""
    different = [unequal(was[name], new[name]) for name in ("sha256", "media", "problem_code")]
    same: Mask = ~np.logical_or.reduce([column.to_numpy() for column in different])
    return same


def used(text: str, names: Sequence[str]) -> tuple[str | None, ...]:
    """What an index row's text fields of these names say."""
    said = json.loads(text)
    return tuple(said.get(name) for name in names)


def _ids(uri: str) -> pa.ChunkedArray:
    return papers.read(uri, ["asset_id"])["asset_id"]
