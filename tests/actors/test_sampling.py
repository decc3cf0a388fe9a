"""actors.sampling: scores as transformers' processors make them, draws that repeat, and the ends of captions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from actors.sampling import Choice, Ending, Opening, seed_of
from pipeline.config import GenerationConfig
from pipeline.types import Finish

CPU = torch.device("cpu")
STOP = 0
WORDS = ("", *"abcdefghi")


def ending(*texts: str) -> Ending:
    """Token 0 ends a caption, token n is the n-th letter."""
    return Ending((STOP,), texts, lambda ids: "".join(WORDS[i] for i in ids))


def choice(
    settings: GenerationConfig, prompts: Sequence[Sequence[int]] = ((1,),), seeds: Sequence[int] = (0,)
) -> Choice:
    """With the repetition penalty settled, as the replica hands it on, and every sequence in the slot of its number."""
    made = Choice(settings, ending(*settings.stop), CPU)
    for slot, opening in enumerate(map(Opening, prompts, seeds)):
        made.join(slot, opening)
    return made


def settings(**keys: Any) -> GenerationConfig:
    return GenerationConfig(**{"max_new_tokens": 8, "repetition_penalty": 1.0, **keys})


def forced(tokens: Sequence[int], size: int = 10) -> torch.Tensor:
    """Logits under which these tokens, one a sequence, are by far the most probable."""
    return torch.nn.functional.one_hot(torch.tensor(tokens), size).float() * 20


def chosen(made: Choice, slots: Sequence[int], logits: torch.Tensor) -> list[int]:
    """The next token in each of these slots."""
    made.next(slots, logits)
    return made.last(slots)


def say(made: Choice, *steps: Sequence[int]) -> None:
    for tokens in steps:
        made.next(range(len(tokens)), forced(tokens))


def spoken(made: Choice, slot: int) -> tuple[tuple[int, ...], Finish]:
    said = made.spoken(slot)
    return said.token_ids, said.finish


def test_the_most_probable_token_is_chosen_at_temperature_zero() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.4], [2.0, -1.0, 1.9]])

    assert chosen(choice(settings(), [[1], [2]], [0, 0]), (0, 1), logits) == [1, 0]


def test_draws_follow_transformers_processors_in_generates_order() -> None:
    """6,000 draws from one distribution: shares within 4 standard deviations, and no token that is cut off."""
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(1)) * 2
    n, prompt = 6000, [3, 5, 5]
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(6),
            TopPLogitsWarper(0.9),
        ]
    )
    expected = processors(torch.LongTensor([prompt]), logits).softmax(-1)[0]

    made = choice(
        settings(temperature=0.8, top_k=6, top_p=0.9, repetition_penalty=1.3), [prompt] * n, range(n)
    )
    drawn = Counter(chosen(made, range(n), logits.expand(n, -1)))

    for token, share in enumerate(expected.tolist()):
        assert abs(drawn[token] / n - share) <= 4 * math.sqrt(share * (1 - share) / n)
    assert 1 < sum(share > 0 for share in expected.tolist()) < 10


def test_draws_depend_on_the_sequences_own_seed_only() -> None:
    logits = torch.zeros(3, 10)
    kind = settings(temperature=1.0)
    together = choice(kind, [[1]] * 3, [7, 8, 9])
    alone = choice(kind, [[1]], [8])

    assert [chosen(together, (0, 1, 2), logits)[1] for _ in range(20)] == [
        chosen(alone, (0,), logits[:1])[0] for _ in range(20)
    ]


def test_seeds_differ_by_setting_content_and_prompt_and_repeat() -> None:
    seeds = {seed_of(0, "aa", "p"), seed_of(1, "aa", "p"), seed_of(0, "ab", "p"), seed_of(0, "aa", "q")}

    assert len(seeds) == 4
    assert seed_of(0, "aa", "p") in seeds


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((1, 10), -torch.inf)
    logits[0, [4, 7]] = 0.0
    made = choice(settings(temperature=1.0))

    assert {chosen(made, (0,), logits)[0] for _ in range(200)} == {4, 7}


def test_the_repetition_penalty_counts_prompt_and_caption_and_no_padding() -> None:
    """Each of the tokens in sight loses half of its lead; the short row's padding is none of them."""
    logits = torch.tensor([[0.0, 4.0, 3.0, 2.5, 0.0]] * 2)
    made = choice(settings(repetition_penalty=2.0), [[1, 1, 1, 1], [4]], [0, 0])

    assert chosen(made, (0, 1), logits) == [2, 1]
    assert chosen(made, (0, 1), logits) == [3, 2]


def test_mean_logprob_is_of_the_models_own_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    made = choice(settings(temperature=0.5, top_k=1, max_new_tokens=1))
    made.next((0,), logits)

    assert made.spoken(0).mean_logprob == pytest.approx(logits.log_softmax(-1)[0, 1].item())


def test_no_caption_ends_before_the_least_length() -> None:
    made = choice(settings(min_new_tokens=2))
    tokens = [chosen(made, (0,), torch.tensor([[5.0, 1.0, 0.0]]))[0] for _ in range(3)]

    assert tokens == [1, 1, STOP]
    assert made.ended(0)


def test_a_stop_token_and_the_limit_end_a_sequence() -> None:
    made = choice(settings(max_new_tokens=3), [[1], [1]], [0, 0])
    say(made, (1, 2), (STOP, 3))
    assert [made.ended(slot) for slot in (0, 1)] == [True, False]
    made.next((1,), forced((4,)))

    assert [spoken(made, slot) for slot in (0, 1)] == [
        ((1, STOP), Finish.STOP),
        ((2, 3, 4), Finish.LENGTH),
    ]


def test_a_slot_is_taken_again_by_another_sequence() -> None:
    """The penalty counts what the new one has seen, and nothing of the old one."""
    logits = torch.tensor([[0.0, 4.0, 3.0, 2.5, 0.0]])
    made = choice(settings(repetition_penalty=2.0, max_new_tokens=2), [[1]], [0])
    first = [chosen(made, (0,), logits)[0] for _ in range(2)]
    made.leave(0)
    made.join(0, Opening([3], 0))

    assert first == [2, 3]
    assert [chosen(made, (0,), logits)[0] for _ in range(2)] == [1, 2]
    assert spoken(made, 0) == ((1, 2), Finish.LENGTH)


def test_a_stop_text_ends_a_sequence_also_across_tokens() -> None:
    made = choice(settings(stop=("bc", "zz")), [[1], [1]], [0, 0])
    say(made, (1, 2), (2, 1), (3, 3))
    made.next((1,), forced((STOP,)))

    assert [spoken(made, slot) for slot in (0, 1)] == [
        ((1, 2, 3), Finish.STOP),
        ((2, 1, 3, STOP), Finish.STOP),
    ]


def test_text_is_cut_before_the_first_stop_text() -> None:
    assert ending("bc", "b", "x").cut("abcbc") == "a"
    assert ending("x").cut("abc") == "abc"
