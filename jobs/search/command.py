"""`captionmill search`: the captions that words are found in, the best first (BM25)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import tantivy
from rich.console import Console
from rich.text import Text

from jobs.search import words
from jobs.search.index import TEXT, Kept, row_of
from jobs.search.words import Span
from pipeline import delta
from pipeline.errors import ConfigError
from pipeline.quality import caption_text

EXCERPT = 240  # characters of a caption that a person is shown
WHOLE = 1 << 20  # more than a caption_text has
SYNTAX = re.compile(r"[^\w\s]|\b(?:AND|OR|NOT|IN|TO)\b")
FOUND = "bold yellow"


@dataclass(frozen=True, slots=True)
class Hit:
    """A caption that was found, and where in `caption_text` the words stand; a person is shown its `excerpt`."""

    score: float
    asset_id: str
    prompt_id: str
    shard: str
    key: str
    media: str
    caption_text: str
    highlights: Sequence[Span]
    excerpt: Span


@dataclass(frozen=True, slots=True)
class Found:
    """The best hits among all `found` ones, of a table of so many captions."""

    query: str
    run_id: str
    captions: int
    found: int
    hits: Sequence[Hit]

    def to_json(self) -> str:
        """For programs. Nothing but ASCII, so that no terminal obeys what a key says."""
        return json.dumps(asdict(self), indent=1)


def search(output: str, query: str, limit: int, prompt: str | None, console: Console) -> Found:
    """Search the published table. Raises ConfigError for a prompt that it does not have."""
    whole = delta.whole(output)
    began = time.monotonic()
    index, put = Kept(whole.output).open(whole)
    if put:
        console.print(f"Put {put:,} captions into the search index, once: {time.monotonic() - began:.1f} s")
    searcher, asked = index.searcher(), caption_text(query)
    parsed = _parsed(index, asked, console)
    result = searcher.search(_under(index, searcher, parsed, prompt), limit)
    found = _Reader(searcher, index.schema, parsed, asked)
    hits = [found.hit(score, searcher.doc(address)) for score, address in result.hits]
    rows = whole.snapshot["captions"]["rows"]
    return Found(asked, whole.run_id, rows, result.count, hits)  # type: ignore[attr-defined]  # not in its types


def _parsed(index: tantivy.Index, asked: str, console: Console) -> tantivy.Query:
    """The query; its words alone where it is none."""
    try:
        return index.parse_query(words.spaced(asked), [TEXT])
    except ValueError as error:
        said = caption_text(str(error))
        console.print(f"Searched for the words alone, because this is no query: {said}", markup=False)
        return index.parse_query(words.spaced(SYNTAX.sub(" ", asked)), [TEXT])


def _under(
    index: tantivy.Index, searcher: tantivy.Searcher, query: tantivy.Query, prompt: str | None
) -> tantivy.Query:
    """The query, among the captions of one prompt."""
    if prompt is None:
        return query
    if not searcher.doc_freq("prompt_id", prompt):
        there = ", ".join(name for name, _ in searcher.terms_with_prefix("prompt_id", ""))
        raise ConfigError([f"--prompt: no caption has the prompt {prompt!r}; there are {there or 'none'}"])
    only = tantivy.Query.const_score_query(tantivy.Query.term_query(index.schema, "prompt_id", prompt), 0.0)
    must = tantivy.Occur.Must
    return tantivy.Query.boolean_query([(must, query), (must, only)])


class _Reader:
    """Reads hits of one query."""

    def __init__(
        self, searcher: tantivy.Searcher, schema: tantivy.Schema, query: tantivy.Query, asked: str
    ) -> None:
        self._asked = asked
        self._whole, self._part = (
            tantivy.SnippetGenerator.create(searcher, query, schema, TEXT) for _ in range(2)
        )
        self._whole.set_max_num_chars(WHOLE)
        self._part.set_max_num_chars(EXCERPT)

    def hit(self, score: float, document: tantivy.Document) -> Hit:
        """The row that the document holds, with what was found in it."""
        row = row_of(document)
        spaced = row.pop(TEXT)
        text = words.plain(spaced)
        snippet = self._whole.snippet_from_doc(document)
        first = snippet.fragment_range().start
        found = [(first + r.start, first + r.end) for r in snippet.highlighted()]
        marks, excerpt = words.spans(text, found, self._asked), self._excerpt(spaced, document)
        return Hit(score, **row, caption_text=text, highlights=marks, excerpt=excerpt)

    def _excerpt(self, spaced: str, document: tantivy.Document) -> Span:
        text = words.plain(spaced)
        part = self._part.snippet_from_doc(document).fragment_range()
        if len(text) <= EXCERPT or part.start == part.end:
            return 0, min(len(text), EXCERPT)
        data = spaced.encode()
        return words.characters(data, part.start), words.characters(data, part.end)


def tell(found: Found, console: Console, data: Console) -> None:
    """Print the hits to `data` and what they are of to `console`."""
    for number, hit in enumerate(found.hits, 1):
        data.print(Text(f"{number:>3}  ") + _marked(hit))
        where = " › ".join(filter(None, map(caption_text, (hit.shard, hit.key))))
        data.print(Text(f"     {where}  {hit.prompt_id}  {hit.asset_id}  {hit.score:.2f}", style="dim"))
    of = f"{found.captions:,} captions of run {found.run_id}"
    if found.hits:
        console.print(f"{len(found.hits):,} of {found.found:,} found among {of}")
    else:
        console.print(f"Nothing found among {of}")


def _marked(hit: Hit) -> Text:
    """The excerpt, in which what was found is marked."""
    text = Text(hit.caption_text)
    for start, stop in hit.highlights:
        text.stylize(FOUND, start, stop)
    first, last = hit.excerpt
    before, after = "…" * (first > 0), "…" * (last < len(hit.caption_text))
    return Text(before) + text[first:last] + Text(after)
