"""Tables and progress: rich on a terminal, plain when piped; nothing in a cell is believed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from ..observe.log import printable

_GAP = 2  # columns of a terminal between two columns of a table
_FOLDED = 30  # what a folded column is given at least
_EVERY = 100  # steps between two drawings of a progress bar


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their columns, on stdout. Control characters are escaped, markup is text.

    On a narrow terminal the last column is folded; the others stay whole, to be copied.
    """
    cells = [[printable(one) for one in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cells)
    else:
        _write([list(columns), *cells])


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    last = len(columns) - 1
    for index, name in enumerate(columns):
        drawn.add_column(Text(name), no_wrap=index != last, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    needed = sum(widths[:-1]) + _GAP * last + min(widths[-1], _FOLDED)
    console = Console()
    console.width = max(console.width, needed)
    console.print(drawn)


def _write(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while it is a terminal; told how much is done, and of how much."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return

    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)

        def tell(done: int, total: int) -> None:
            if done % _EVERY == 0 or done == total:
                bar.update(task, completed=done, total=total)

        yield tell
