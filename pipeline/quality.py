"""What a caption is worth to an index: a text that is safe to index, and flags with stated rules."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from pipeline.types import Caption, Finish

RULES: Mapping[str, str] = {  # of each flag, in the order in which they stand in a row
    "truncated": "generation stopped at max_new_tokens",
    "repetition": "it ends in a loop: the same 1 to 60 words at least four times, 8 words in all; or the same 1 to 40 "
    "characters four times, 24 in all; the last word may be cut",
    "empty": "nothing is left to index",
    "refusal": "“I’m sorry”, “I cannot” help, see, describe, …, “I am unable to” or “as an AI” at the beginning of "
    "a clause, in the first 200 characters",
    "prompt_echo": "it contains the whole question, if that has 12 characters or more",
    "url": "`http://`, `https://` or `www.` and what follows",
    "instruction_like": "“ignore … instructions” (or disregard, forget, override; prompts), “system prompt”, or a chat "
    "template's marks",
}
MAX_TEXT = 8191  # characters: 4 bytes each stay below the 32,766 bytes that Lucene allows a keyword term

# A terminal's escape sequence goes whole: without its first character "[31m" would stand in the text. Operating
# system commands (title, clipboard, link) end in BEL or ESC \, control sequences in a letter, the rest is short.
_ESCAPE = re.compile(
    "(?:\x1b\\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]"
)
# Unicode's Default_Ignorable_Code_Point (bidi, zero width, fillers, variation selectors, tags) and what the standard
# keeps out of text: controls that are no white space, surrogates, private use, noncharacters, annotations.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff"
    + "".join(chr(plane << 16 | last) for plane in range(15) for last in (0xFFFE, 0xFFFF))
    + "]"
)
# At the beginning of a clause: a mug may well say "I can't even". Of "I cannot …", only what models say of their tasks:
# people cannot stay, afford, agree, which was 0.3 % of 10,000 texts of their own (`python -m tests.ordinary`).
_TASK = (
    r"help(?! (?:myself|but)\b)|see(?! (?:him|her|them|why|how)\b)|assist|view|look|identify"
    "|describe|provide|determine|tell|answer|fulfil|comply|process|access|analy[sz]e"
    "|generate|create|caption|discuss|recogni[sz]e|name|confirm|interpret|offer|give|continue|engage|comment|read|open"
    "|display|make out|do (?:that|this)|be of"
)
_REFUSAL = re.compile(
    r"(?:^|[.!?,;:] |\bbut )(?:i(?:['’]?m| am) (?:very |so |really |terribly )?sorry\b"
    rf"|i (?:can ?not|can['’]?t) ?(?:\w+ly |also |even )?(?:(?:{_TASK})\b|$|[.,;!])"
    r"|i(?:['’]?m| am) (?:un|not )able to\b|as an ai\b)",
    re.I,
)
_URL = re.compile(r"\b(?:https?://|www\.)\S", re.I)
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override) (?:\w+ ){0,4}(?:instructions?|prompts?)\b"
    r"|<\|im_(?:start|end)\|>|\bsystem prompt\b",
    re.I,
)
_WORD = re.compile(r"\w+")


def caption_text(caption: str) -> str:
    """NFC, white space folded to one space, at most `MAX_TEXT` characters; idempotent.

    Without escape sequences, control, bidi, zero-width, tag, private and other invisible characters.
    """
    visible = _INVISIBLE.sub("", _ESCAPE.sub("", caption))
    text = " ".join(
        unicodedata.normalize("NFC", visible).split()
    )  # last: what went may have kept marks apart
    return text[:MAX_TEXT].rstrip()


def flags(caption: Caption, question: str) -> list[str]:
    """Names of the rules that hold, in the order of the schema's description. `question` is the last user turn."""
    return list(_flags(caption, caption_text(caption.text), caption_text(question)))


def _flags(caption: Caption, text: str, question: str) -> Iterator[str]:
    if caption.finish is Finish.LENGTH:
        yield "truncated"
    if _repeats(text):
        yield "repetition"
    if not text:
        yield "empty"
    if _REFUSAL.search(text[:200]):
        yield "refusal"
    if len(question) >= 12 and question.lower().rstrip(".!? ") in text.lower():
        yield "prompt_echo"
    if _URL.search(text):
        yield "url"
    if _INSTRUCTION.search(text):
        yield "instruction_like"


def _repeats(text: str) -> bool:
    """Whether the text ends in a loop: at least four times the same 1 to 60 words, at least 8 words in all.

    Or, for writing without spaces, four times the same 1 to 40 characters, at least 24 of them. The last word may
    have been cut by the length limit, so it need not fit.
    """
    words = _WORD.findall(text.lower())
    return _loops(words, 60, 8) or _loops(words[:-1], 60, 8) or _loops(text, 40, 24)


def _loops(items: Sequence[str], longest: int, least: int) -> bool:
    """Whether `items` end in a sequence with a period of at most `longest`, of four periods and `least` items."""
    n = len(items)
    for period in range(1, min(longest, n // 4) + 1):
        same = period
        while same < n and items[n - 1 - same] == items[n - 1 - same + period]:
            same += 1
        if same >= max(4 * period, least):
            return True
    return False
