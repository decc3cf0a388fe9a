"""What is asked: a prompt's turns and an asset's text fields become chat messages in the hub's form.

In a turn, `{name}` stands for the asset's text field of that name, `{name|default}` for the field or else the
default, and `{{` and `}}` for braces. Pictures come before the text of the turn that shows them, as the checkpoints
were trained: all of them in the first user turn, unless the turns say how many they show.

Only the chat template writes special tokens. Whatever a turn says, after its fields are filled in, is text:
inside each special token's spelling a zero-width space is put after the first character, so that a caption
found in a sidecar cannot close the turn or bring its own `<image>`. Text without such spellings is not
touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.config import MAX_FIELD_CHARS, PromptConfig
from pipeline.errors import MediaError
from pipeline.types import Code, Media, Turn, Unit

Message = dict[str, object]

FIELD = re.compile(r"\{\{|\}\}|\{(?P<name>[A-Za-z_]\w*)(?:\|(?P<default>[^{}]*))?\}|[{}]")
ZERO_WIDTH_SPACE = "\u200b"


def problems(prompts: Sequence[PromptConfig], special: Sequence[str] = ()) -> tuple[str, ...]:
    """What is wrong with the prompts of a job, in words: stray braces, and spellings of the `special` tokens."""
    found = []
    for prompt in prompts:
        text = "\n".join(turn.text for media in Media for turn in prompt.asked(media))
        where = f"[[prompt]] {prompt.id}"
        if any(match[0] in ("{", "}") for match in FIELD.finditer(text)):
            found.append(f"{where}: a field is {{name}} or {{name|default}}; write {{{{ and }}}} for braces")
        found += [
            f"{where}: leave {token} out; the chat template writes it" for token in special if token in text
        ]
    return tuple(found)


def of_unit(prompts: Sequence[PromptConfig], unit: Unit) -> tuple[PromptConfig, ...]:
    """Those of a job's prompts that the unit's assets are asked."""
    return tuple(p for p in prompts if not unit.prompts or p.id in unit.prompts)


def fields(prompts: Sequence[PromptConfig]) -> frozenset[str]:
    """Names of the text fields that the prompts use."""
    turns = [turn for prompt in prompts for media in Media for turn in prompt.asked(media)]
    return frozenset(m["name"] for turn in turns for m in FIELD.finditer(turn.text) if m["name"])


def messages(
    turns: Sequence[Turn],
    media: Media,
    n_pictures: int,
    text: Mapping[str, str],
    special: Sequence[str] = (),
    max_field_chars: int = MAX_FIELD_CHARS,
) -> list[Message]:
    """Chat-template messages: in each user turn an entry for each image it shows (or one for the video), then text.

    `n_pictures` is how many images the asset has; a video is one whatever it is. `text` has the asset's fields, of
    which `max_field_chars` characters are used, and `special` the spellings that must not become special tokens.
    MediaError: missing_field where a turn names a field that the asset lacks and gives no default, image_count where
    the turns say how many images they show and the asset has more or fewer.
    """
    video = media is Media.VIDEO
    picture: Message = {"type": "video" if video else "image"}
    chat: list[Message] = []
    for turn, n in zip(turns, _shown(turns, 1 if video else n_pictures), strict=True):
        said = plain(filled(turn.text, text, max_field_chars), special)
        chat.append({"role": turn.role, "content": [picture] * n + [{"type": "text", "text": said}]})
    return chat


def _shown(turns: Sequence[Turn], n_pictures: int) -> list[int]:
    """How many pictures each turn shows: as the turns say, or else all of them in the first user turn."""
    said = [turn.images for turn in turns]
    if not any(said):
        first = [turn.role for turn in turns].index("user")
        return [n_pictures if i == first else 0 for i in range(len(turns))]
    if sum(said) != n_pictures:
        message = f"the prompt's turns show {sum(said)} images, and the asset has {n_pictures}"
        raise MediaError(Code.IMAGE_COUNT, message)
    return said


def filled(template: str, text: Mapping[str, str], max_field_chars: int = MAX_FIELD_CHARS) -> str:
    """`template` with its fields from `text`, each cut to `max_field_chars`; a stray brace stands for itself.

    MediaError (missing_field) where a field is not in `text` and has no default.
    """

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0][0]
        default: str | None = match["default"]
        found = text.get(name, default)
        if found is None:
            message = f"the asset has no text field {name!r}, and the prompt no default for it"
            raise MediaError(Code.MISSING_FIELD, message)
        return found[:max_field_chars]

    return FIELD.sub(value, template)


def plain(text: str, special: Sequence[str]) -> str:
    """`text` in which no spelling of `special` (each of two characters or more) is left."""
    if not special:
        return text
    # Looking ahead from every character finds overlapping spellings too; with a zero-width space inside, none
    # can form anew.
    start = re.compile(f"(?={'|'.join(map(re.escape, special))}).", re.DOTALL)
    return start.sub(lambda match: match[0] + ZERO_WIDTH_SPACE, text)
