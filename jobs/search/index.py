"""The full-text index of a published table, in the user's cache folder, brought in step with the table when opened.

It lies below captionmill/search, one folder for each output: `state.json` says which published run it is at, and is
written last. What is there changes by the delta since that run; what is damaged, or not on the way to the published
run, is made anew. One process at a time does so; an index that is open elsewhere stays readable.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import tantivy

from actors import cache
from jobs import interrupt
from jobs.search import words
from pipeline import delta, storage
from pipeline.delta import KEY, Delta, Snapshot
from pipeline.errors import RunError

VERSION = "1"  # of fields and analyzer; another one is another index
PLACE = ("shard", "key", "media")
TEXT = "caption_text"
COLUMNS = (*KEY, *PLACE, TEXT)
HEAP = 256 << 20  # bytes that an indexer holds before it writes a segment
THREADS = min(4, os.cpu_count() or 1)
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
)  # tantivy says ValueError for all that is wrong with its files


class Kept:
    """The index of `output` (as `storage.absolute` spells it)."""

    def __init__(self, output: str) -> None:
        name = hashlib.sha256(f"{VERSION}\0{output}".encode()).hexdigest()[:32]
        self._output, self._folder = output, cache.folder("search") / name

    def open(self, whole: Delta) -> tuple[tantivy.Index, int]:
        """The index of the table `whole`, and how many captions had to be put into it for that."""
        with self._alone():
            put = self._bring_in_step(whole)
            return _opened(self._files), put

    @property
    def _files(self) -> Path:
        return self._folder / "index"

    def _bring_in_step(self, whole: Delta) -> int:
        state, now = self._state(), _state_of(whole.snapshot)
        if state == now:
            return 0
        step = delta.since(self._output, state["run_id"]) if state else None
        if step is None or step.earlier is None or _state_of(step.earlier) != state:
            self._begin_anew()
            step = whole
        put = self._apply(step)
        storage.put(str(self._folder / "state.json"), json.dumps(now).encode())
        return put

    def _state(self) -> dict[str, Any] | None:
        """What `state.json` says; None where there is no whole index."""
        try:
            told: dict[str, Any] = json.loads((self._folder / "state.json").read_bytes())
            _opened(self._files)
        except DAMAGED:
            return None
        return told

    def _begin_anew(self) -> None:
        with self._named():
            (self._folder / "state.json").unlink(missing_ok=True)
            shutil.rmtree(self._files, ignore_errors=True)
            self._files.mkdir()
            tantivy.Index(_schema(), str(self._files))

    def _apply(self, step: Delta) -> int:
        """Delete and put in one commit: it is all there, or nothing of it. Returns how many captions were put."""
        put = 0
        with self._named():
            index = _opened(self._files)
            writer = index.writer(HEAP * THREADS, THREADS)
            for asset_id, prompt_id, _ in _rows(step.removed()):
                writer.delete_documents_by_term("id", _id(asset_id, prompt_id))
            for row in _rows(step.captions(COLUMNS)):
                if step.steps is not None:
                    writer.delete_documents_by_term("id", _id(*row[:2]))
                writer.add_document(_document(*row))
                put += 1
            writer.commit()
            writer.wait_merging_threads()
        return put

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._named():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self._folder / "lock").open("wb")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            said = (
                f"cannot keep the search index in {self._folder}: {error}; free space there, or name another"
            )
            raise RunError(f"{said} place for caches in XDG_CACHE_HOME") from error


def _opened(files: Path) -> tantivy.Index:
    index = tantivy.Index.open(str(files))
    index.register_tokenizer(words.ANALYZER, words.analyzer())
    return index


def _schema() -> tantivy.Schema:
    """`id` has the key of a caption, and the bytes of `place` the rest of its row, which is not searched."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("prompt_id", tokenizer_name="raw", index_option="basic")
    builder.add_bytes_field("place", stored=True)
    builder.add_text_field(TEXT, stored=True, tokenizer_name=words.ANALYZER, index_option="position")
    return builder.build()


def _state_of(snapshot: Snapshot) -> dict[str, Any]:
    """What tells one publication from all others: an output may be emptied, and the same run published again."""
    return {name: snapshot[name] for name in ("run_id", "published_at")}


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        interrupt.check()
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _id(asset_id: str, prompt_id: str) -> str:
    return f"{asset_id} {prompt_id}"


def _document(asset_id: str, prompt_id: str, shard: str, key: str, media: str, text: str) -> tantivy.Document:
    place = json.dumps((shard, key, media)).encode()
    named = {"id": _id(asset_id, prompt_id), TEXT: words.spaced(text)}
    return tantivy.Document(prompt_id=prompt_id, place=place, **named)


def row_of(document: tantivy.Document) -> dict[str, str]:
    """The caption's row that was put: `COLUMNS`, the text as `words.spaced` has it."""
    values = *document["id"][0].split(" "), *json.loads(bytes(document["place"][0])), document[TEXT][0]
    return dict(zip(COLUMNS, values, strict=True))
