"""How a benchmark prints: what was measured, beside what, and their ratio."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement; `peer` and `ratio` where it was measured against something in the same run."""

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    goal: str = ""


def show(title: str, rows: list[Row]) -> None:
    """Prints a table."""
    lines = [("", "dlsql", "peer", "ratio", "goal"), *((row.what, row.ours, row.peer, row.ratio, row.goal) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)
