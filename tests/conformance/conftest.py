"""The tables that the conformance tests fill, printed when the session ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Row = tuple[object, ...]
Table = Callable[[str, tuple[str, ...], Row], None]

ROW = "row of a table"


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Table:
    """`table(title, columns, row)` adds a row to the table of that title."""

    def add(title: str, columns: tuple[str, ...], row: Row) -> None:
        record_property(ROW, (title, columns, tuple(map(str, row))))  # reports bring it from other processes

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them."""
    tables: dict[tuple[str, tuple[str, ...]], list[tuple[str, ...]]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == ROW:
                title, columns, row = value
                tables.setdefault((title, tuple(columns)), []).append(tuple(row))
    for (title, columns), rows in sorted(tables.items()):
        terminalreporter.section(title)
        cells = [columns, *sorted(rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            words = (word.ljust(width) for word, width in zip(line, widths, strict=True))
            terminalreporter.write_line("  ".join(words).rstrip())
