"""A training's rounds as a bar in the terminal of whoever waits for the statement."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dlsql.interrupts import is_awaited
from dlsql.model import RoundInfo


class Report(Protocol):
    """Told of the rounds so far, after each."""

    def __call__(self, rounds: list[RoundInfo]) -> None:
        """Shows the last of the rounds."""


def losses(last: RoundInfo) -> str:
    """A round in a few words: `loss 0.12, held out 0.14, 52,000 rows/s`."""
    said = [f"{what} {loss:.4g}" for what, loss in (("loss", last.train_loss), ("held out", last.eval_loss)) if loss is not None]
    return ", ".join([*said, f"{last.rows_per_second:,.0f} rows/s"])


@contextmanager
def bar(title: str, epochs: int) -> Iterator[Report]:
    """A bar over epochs with the losses beside it; nothing where nobody looks: no terminal, or a statement of a server's client."""
    console = Console(stderr=True)
    if not sys.stderr.isatty() or not is_awaited():
        yield lambda rounds: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed}/{task.total}  {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=False) as shown:
        task = shown.add_task(title, total=epochs, loss="")

        def report(rounds: list[RoundInfo]) -> None:
            shown.update(task, completed=rounds[-1].epoch, loss=losses(rounds[-1]))

        yield report
