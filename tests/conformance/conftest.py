"""The tables that the conformance tests fill."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import ROW

Row = tuple[object, ...]
Table = Callable[[str, tuple[str, ...], Row], None]


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Table:
    """`table(title, columns, row)` adds a row to the table of that title, which is printed when the session ends."""

    def add(title: str, columns: tuple[str, ...], row: Row) -> None:
        record_property(ROW, (title, columns, tuple(map(str, row))))  # reports bring it from other processes

    return add
