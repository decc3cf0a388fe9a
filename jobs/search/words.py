"""How captions are cut into words, and where words were found.

Words are runs of letters and digits, in lower case, without accents, English ones stemmed: "Cafés" is found by
"cafe". Scripts that put no spaces between words are cut into characters, and a run of these is searched as a phrase.
For this a zero-width space, which no caption_text has, stands behind each such character in the index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import tantivy

ANALYZER = "captionmill"
_BREAK = "\u200b"
# Thai, Lao, Myanmar, Khmer; Hiragana, Katakana (also its half-width forms); Han
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(f"[{_SPACELESS}]")
_RUN = re.compile(f"[{_SPACELESS}]+")

Span = tuple[int, int]  # characters of a text, the second one behind the last


def analyzer() -> tantivy.TextAnalyzer:
    """Tantivy's part of the rules above."""
    steps = (tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold(), tantivy.Filter.stemmer("english"))
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in steps:
        builder = builder.filter(step)
    return builder.build()


def spaced(text: str) -> str:
    """The text as it is indexed."""
    return text if text.isascii() else _CHARACTER.sub(rf"\g<0>{_BREAK}", text)


def plain(text: str) -> str:
    """Inverse of `spaced`."""
    return text.replace(_BREAK, "")


def characters(data: bytes, stop: int) -> int:
    """How many characters of the plain text the first bytes of a spaced one stand for."""
    return len(plain(data[:stop].decode()))


def spans(text: str, found: Sequence[Span], query: str) -> list[Span]:
    """Where words of the query stand in the plain text. `found` are bytes of the spaced text, where its terms stand.

    Of scripts without spaces, only whole runs of the query count: a single character of it may stand in any word.
    """
    data = spaced(text).encode()
    at = [(characters(data, start), characters(data, stop)) for start, stop in found]
    words = [span for span in at if not _CHARACTER.match(text[span[0]])]
    return list(_joined(sorted({*words, *_runs(text, query)})))


def _runs(text: str, query: str) -> Iterator[Span]:
    for run in set(_RUN.findall(query)):
        yield from ((match.start(), match.end()) for match in re.finditer(re.escape(run), text))


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Sorted spans, those that touch as one."""
    last: Span | None = None
    for span in spans:
        if last is not None and span[0] <= last[1]:
            last = last[0], max(last[1], span[1])
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last
