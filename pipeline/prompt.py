"""What is asked: a prompt's turns and an asset's text fields become chat messages in the hub's form.

In a turn, `{name}` stands for the asset's text field of that name, `{name|default}` for the field or else the
default, and `{{` and `}}` for braces. The pictures come first in the first user turn, as the checkpoints were
trained.

Only the chat template writes special tokens. Whatever a turn says, after its fields are filled in, is text:
inside each special token's spelling a zero-width space is put after the first character, so that a caption
found in a sidecar cannot close the turn or bring its own `<image>`. Text without such spellings is not
touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.config import PromptConfig
from pipeline.errors import MediaError
from pipeline.types import Code, Media, Turn

Message = dict[str, object]

FIELD = re.compile(r"\{\{|\}\}|\{(?P<name>[A-Za-z_]\w*)(?:\|(?P<default>[^{}]*))?\}|[{}]")
ZERO_WIDTH_SPACE = "\u200b"


def problems(prompts: Sequence[PromptConfig], special: Sequence[str] = ()) -> tuple[str, ...]:
    """What is wrong with the prompts of a job, in words: stray braces, and spellings of the `special` tokens."""
    found = []
    for prompt in prompts:
        text = "\n".join(turn.text for turn in prompt.turns)
        where = f"[[prompt]] {prompt.id}"
        if any(match[0] in ("{", "}") for match in FIELD.finditer(text)):
            found.append(f"{where}: a field is {{name}} or {{name|default}}; write {{{{ and }}}} for braces")
        found += [
            f"{where}: leave {token} out; the chat template writes it" for token in special if token in text
        ]
    return tuple(found)


def messages(
    turns: Sequence[Turn], media: Media, n_pictures: int, text: Mapping[str, str], special: Sequence[str] = ()
) -> list[Message]:
    """Chat-template messages: `n_pictures` image entries (or one video) and then text in the first user turn.

    `text` has the asset's fields, `special` the spellings that must not become special tokens. MediaError
    (missing_field) where a turn names a field that the asset lacks and gives no default.
    """
    pictures: list[Message] = (
        [{"type": "video"}] if media is Media.VIDEO else [{"type": "image"}] * n_pictures
    )
    chat: list[Message] = []
    for turn in turns:
        said: list[Message] = [{"type": "text", "text": plain(filled(turn.text, text), special)}]
        if turn.role == "user":
            said, pictures = pictures + said, []
        chat.append({"role": turn.role, "content": said})
    return chat


def filled(template: str, text: Mapping[str, str]) -> str:
    """`template` with its fields from `text`; a stray brace stands for itself. MediaError (missing_field)."""

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return match[0][0]
        default: str | None = match["default"]
        found = text.get(name, default)
        if found is None:
            message = f"the asset has no text field {name!r}, and the prompt no default for it"
            raise MediaError(Code.MISSING_FIELD, message)
        return found

    return FIELD.sub(value, template)


def plain(text: str, special: Sequence[str]) -> str:
    """`text` in which no spelling of `special` (each of two characters or more) is left."""
    if not special:
        return text
    # Looking ahead from every character finds overlapping spellings too; with a zero-width space inside, none
    # can form anew.
    start = re.compile(f"(?={'|'.join(map(re.escape, special))}).", re.DOTALL)
    return start.sub(lambda match: match[0] + ZERO_WIDTH_SPACE, text)
