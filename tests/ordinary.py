"""How right the flags are: on captions that have nothing wrong with them, and on such that were spoilt on purpose.

    python -m tests.ordinary [--count 10000] [--seed 0]

The ordinary captions are people's English: 1 to 6 of the example sentences of WordNet's entries (Debian's package
wordnet-base has 35,000 of them), drawn at random. No model said them; they speak of more things, in more forms, than
captions do. They are spoilt as models spoil them: loops of 1 to 40 words of their own, cut anywhere; cut by the length
limit; nothing visible; the question in other letters and spaces; one caption on many assets.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pyarrow as pa

from pipeline.identical import Identical
from pipeline.quality import flags
from pipeline.types import Caption, Finish
from tests.tables import QUESTION

WORDNET = Path("/usr/share/wordnet")
SENTENCE = re.compile(r'"([A-Za-z][^"]{15,})"')
INVISIBLE = ("", " ", "\n\t", "\u200b", "\ufeff \u2060", "\x1b[0m", "\u202e\u202c", "\x00")
ASKED = (
    "{}",
    "User: {}",
    "{} A cat.",
    "Question: {}\nAnswer:",
    "“{}”",
    "ASSISTANT: {} The image shows a cat.",
)


def sentences(folder: Path = WORDNET) -> list[str]:
    """The example sentences of WordNet, each once."""
    lines = (line for part in sorted(folder.glob("data.*")) for line in part.read_text("utf-8").splitlines())
    found = dict.fromkeys(said for line in lines for said in SENTENCE.findall(line.partition("|")[2]))
    return [said[0].upper() + said[1:].rstrip(" .;,") + "." for said in found]


def ordinary(said: Sequence[str], draw: Random) -> str:
    """A caption of 1 to 6 sentences."""
    return " ".join(draw.sample(said, draw.randint(1, 6)))


def looped(caption: str, draw: Random) -> str:
    """A caption that goes on in a loop and is cut somewhere in the last turn."""
    words = caption.split()
    longest = min(40, len(words))
    phrase = words[-draw.randint(1, longest) :]
    turns = max(draw.randint(5, 12), -(-9 // len(phrase)) + 1)
    loop = " ".join(phrase)
    whole = " ".join([caption, *[loop] * turns])
    return whole[: len(whole) - draw.randrange(len(loop))]


def echoed(caption: str, draw: Random) -> str:
    """A caption that says the question, in other letters and spaces, with or without its own words."""
    spaced = "".join(c + " " * draw.randrange(2) if c == " " else c for c in QUESTION)
    question = draw.choice((spaced, spaced.upper(), spaced.lower(), spaced.rstrip(".")))
    return draw.choice(("", caption + " ")) + draw.choice(ASKED).format(question)


SPOILT: dict[str, Callable[[str, Random], tuple[str, Finish]]] = {
    "repetition": lambda caption, draw: (looped(caption, draw), draw.choice([*Finish])),
    "truncated": lambda caption, draw: (caption[: draw.randrange(1, len(caption))], Finish.LENGTH),
    "empty": lambda caption, draw: (draw.choice(INVISIBLE) * draw.randint(1, 3), Finish.STOP),
    "prompt_echo": lambda caption, draw: (echoed(caption, draw), Finish.STOP),
}


def found(text: str, finish: Finish = Finish.STOP) -> list[str]:
    """Its flags."""
    return flags(Caption(text, (1,), finish, -0.1, 9, 4), QUESTION)


def missed(count: int, seed: int = 0) -> dict[str, list[str]]:
    """Of `count` captions spoilt in each way, those whose flag is not found."""
    draw, said = Random(seed), sentences()
    spoilt = {
        flag: [spoil(ordinary(said, draw), draw) for _ in range(count)] for flag, spoil in SPOILT.items()
    }
    return {
        flag: [text for text, finish in some if flag not in found(text, finish)]
        for flag, some in spoilt.items()
    }


def false(count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Of `count` ordinary captions, those that are flagged."""
    draw, said = Random(seed), sentences()
    captions = (ordinary(said, draw) for _ in range(count))
    return [(caption, flagged) for caption in captions if (flagged := found(caption))]


def uncounted(count: int, seed: int = 0) -> int:
    """How many of the copies planted among `count` ordinary captions are not counted as identical, or too many."""
    draw, said = Random(seed), sentences()
    captions = list(dict.fromkeys(ordinary(said, draw) for _ in range(count)))
    planted = Counter({captions[i]: draw.randint(1, 50) for i in range(0, len(captions), 100)})
    rows = captions + [caption for caption, n in planted.items() for _ in range(n)]
    draw.shuffle(rows)
    nothing = pa.nulls(len(rows), pa.string())
    ids = pa.array([f"{i:032x}" for i in range(len(rows))])
    identical = Identical()
    identical.add(
        pa.table(
            {"asset_id": ids, "prompt_id": ["p"] * len(rows), "caption_text": rows, "duplicate_of": nothing}
        )
    )
    return abs(identical.shared().shared - sum(n + 1 for n in planted.values()))


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{len(sentences()):,} sentences")
    for flag, texts in missed(given.count, given.seed).items():
        print(f"{flag:<12} {given.count - len(texts):,} of {given.count:,} planted are found")
        for text in texts[:5]:
            print(f"    {text[-300:]!r}")
    print(f"identical    {uncounted(given.count, given.seed)} of the planted copies are miscounted")
    flagged = false(given.count, given.seed)
    print(f"ordinary     {len(flagged):,} of {given.count:,} are flagged, {len(flagged) / given.count:.2%}")
    for text, names in flagged[:20]:
        print(f"    {names} {text[:300]!r}")


if __name__ == "__main__":
    _main()
