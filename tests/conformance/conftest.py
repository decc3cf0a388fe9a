"""The tables that the conformance tests fill, printed when the session ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Row = tuple[object, ...]
Table = Callable[[str, tuple[str, ...], Row], None]

TABLES = pytest.StashKey[dict[tuple[str, tuple[str, ...]], list[Row]]]()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """`table(title, columns, row)` adds a row to the table of that title."""
    tables = pytestconfig.stash.setdefault(TABLES, {})

    def add(title: str, columns: tuple[str, ...], row: Row) -> None:
        tables.setdefault((title, columns), []).append(row)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print them."""
    for (title, columns), rows in config.stash.get(TABLES, {}).items():
        terminalreporter.section(title)
        cells = [columns, *(tuple(map(str, row)) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            words = (word.ljust(width) for word, width in zip(line, widths, strict=True))
            terminalreporter.write_line("  ".join(words).rstrip())
