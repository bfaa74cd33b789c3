"""How figures are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "figure", "print_columns", "print_table"]


def console() -> Console:
    """Return where results are printed."""
    from rich.console import Console

    return Console(highlight=False, markup=False)


def figure(value: object) -> str:
    """Return a value as it is printed.

    >>> figure(0.91237), figure([1, 2])
    ('0.9124', '1, 2')
    """
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return str(value)


def print_table(title: str, rows: dict[str, str]) -> None:
    """Print names and values."""
    from rich.table import Table
    from rich.text import Text

    # As Text, since a path may hold what looks like markup.
    table = Table(title=Text(title), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    console().print(table)


def print_columns(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below the names of their columns; the first one is text, the others figures."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for i, name in enumerate(names):
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(value) for value in row))
    console().print(table)
