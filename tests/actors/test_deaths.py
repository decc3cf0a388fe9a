"""actors.captioner and actors.ledger together: replicas that do not start, and replicas that die of what they work on.

`Mortal` ends by an exception that nobody catches, as a process does; the next captioner has the dead one's ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pytest

from actors.captioner import Captioner, Generator
from actors.ledger import Ledger
from actors.meter import Meter
from pipeline.config import GenerationConfig
from pipeline.errors import ConfigError, RunError
from pipeline.types import Answer, Caption, Captioned, Code, Prepared, Problem, Request, Stage
from tests.actors.test_captioner import PROMPTS, SETTINGS, Echo, unit

LENGTHS = [30, 40, 50, 0, 60, 70]  # 0: an asset that did not decode


class Death(BaseException):
    """The end of a process."""


class Mortal(Echo):
    """Dies of the assets at some positions; and of its next `chances` batches whatever is in them."""

    def __init__(self, culprits: Collection[int] = (), chances: int = 0) -> None:
        super().__init__()
        self.culprits, self.chances = culprits, chances

    def generate(
        self, requests: Sequence[Request], settings: GenerationConfig, meter: Meter
    ) -> Iterator[tuple[int, Caption]]:
        captions = list(super().generate(requests, settings, meter))
        if self.chances or any(r.sample.view.position in self.culprits for r in requests):
            self.chances = max(0, self.chances - 1)
            raise Death
        yield from captions


def outlived(prepared: Prepared, generator: Generator) -> tuple[Captioned, int]:
    """The unit as the last of the captioners returned it, and how many died before."""
    ledger, deaths = Ledger(), 0
    while True:
        try:
            return Captioner(lambda: generator, PROMPTS, SETTINGS, ledger).caption(prepared), deaths
        except Death:
            deaths += 1


@pytest.mark.parametrize(("culprits", "expected"), [((), 0), ((2,), 5), ((0, 5), 7), ((0, 1, 2, 4, 5), 13)])
def test_each_asset_that_replicas_die_of_is_one_failure_and_all_others_are_captioned(
    culprits: Sequence[int], expected: int
) -> None:
    prepared = unit(LENGTHS)
    undisturbed = Captioner(Echo, PROMPTS, SETTINGS).caption(prepared)

    captioned, deaths = outlived(prepared, Mortal(culprits))

    died = Problem(Stage.GENERATE, Code.REPLICA_DIED, "2 replicas died when they had this asset alone")
    lost = [Answer(i, undisturbed.views[0].sha256, None, died) for i in culprits]
    assert deaths == expected
    assert [(a.position, a.prompt_id, a.outcome) for a in captioned.answers] == sorted(
        [(a.position, a.prompt_id, a.outcome) for a in undisturbed.answers if a.position not in culprits]
        + [(a.position, a.prompt_id, a.outcome) for a in lost],
        key=lambda row: row[0],
    )


@pytest.mark.parametrize(("chances", "largest"), [(1, 10), (2, 10), (3, 2), (4, 2)])
def test_deaths_by_chance_cost_no_caption(chances: int, largest: int) -> None:
    prepared, mortal = unit(LENGTHS), Mortal(chances=chances)

    captioned, _ = outlived(prepared, mortal)

    assert captioned.answers == Captioner(Echo, PROMPTS, SETTINGS).caption(prepared).answers
    assert max(mortal.calls[chances:]) == largest


def test_a_unit_that_ended_well_is_not_held_against_its_next_run() -> None:
    ledger, prepared, echo = Ledger(), unit(LENGTHS), Echo()
    captioner = Captioner(lambda: echo, PROMPTS, SETTINGS, ledger)

    for _ in range(5):
        captioner.caption(prepared)

    assert echo.calls == [10] * 5


def test_replicas_that_die_of_everything_end_the_run() -> None:
    with pytest.raises(RunError, match="20 replicas died of unit u, and not of one of its assets"):
        outlived(unit([30] * 40), Mortal(range(40)))


def test_a_replica_that_cannot_start_says_so_at_the_first_unit() -> None:
    def broken() -> Generator:
        raise ConfigError(["no weights", "no GPU"])

    captioner = Captioner(broken, PROMPTS, SETTINGS)

    with pytest.raises(ConfigError) as raised:
        captioner.caption(unit([30]))
    assert raised.value.problems == ("no weights", "no GPU")
