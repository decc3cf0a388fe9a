"""actors.ledger: what was begun and not ended, alone and shared by actors that die."""

from __future__ import annotations

from actors.ledger import Ledger, SharedLedger


def test_what_was_begun_and_not_ended_is_counted() -> None:
    ledger = Ledger()

    assert [ledger.begin("a") for _ in range(3)] == [0, 1, 2]
    assert [ledger.begin("a", 7), ledger.begin("b"), ledger.begin("a", 7)] == [0, 0, 1]


def test_what_has_ended_begins_anew() -> None:
    ledger = Ledger()
    for position in (None, 3, 4):
        ledger.begin("a", position)

    ledger.end("a", 3)
    after_asset = ledger.begin("a", 3), ledger.begin("a", 4), ledger.begin("a")
    ledger.end("a")
    after_unit = ledger.begin("a", 3), ledger.begin("a", 4), ledger.begin("a")

    assert (after_asset, after_unit) == ((0, 1, 1), (0, 0, 0))


class Leaving(Ledger):
    """A ledger whose machine "spot" goes away when told."""

    taken: bool = False

    def gone(self) -> set[str]:
        """Itself, when it is taken."""
        return {"spot"} if self.taken else set()


def test_what_a_machine_had_in_hand_that_announced_its_end_does_not_count() -> None:
    ledger = Leaving()
    begun = [
        ledger.begin("a", None, "spot"),
        ledger.begin("a", None, "kept"),
        ledger.begin("a", None, "spot"),
    ]
    ledger.taken = True

    assert begun == [0, 1, 2]
    assert [ledger.begin("a", None, "kept"), ledger.begin("a", None, "kept")] == [1, 2]


def test_a_shared_ledger_is_one_ledger(ray_local: None) -> None:
    ledger = SharedLedger()

    assert [ledger.begin("a"), ledger.begin("a", 0), ledger.begin("a")] == [0, 0, 1]
    ledger.end("a")
    assert ledger.begin("a") == 0
