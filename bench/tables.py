"""How a benchmark measures and prints: what was measured, beside what, and their ratio."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyspark.sql import DataFrame

TIMES = 7
WARM = 12.0  # seconds that each way runs before it is measured: HotSpot compiles until then, and longer


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


def timed(work: Callable[[], object]) -> float:
    """The seconds that something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def scanned(frame: DataFrame) -> float:
    """Seconds until every row was made, and dropped."""
    return timed(lambda: frame.write.format("noop").mode("overwrite").save())


def measured(ways: Iterable[tuple[str, Callable[[], float]]]) -> dict[str, float]:
    """The median seconds of each way, all of them in turn, each after as long a time of warming up."""
    ways = list(ways)
    took: dict[str, list[float]] = {name: [] for name, _ in ways}
    for _, way in ways:
        until = time.perf_counter() + WARM
        while time.perf_counter() < until:
            way()
    for _ in range(TIMES):
        for name, way in ways:
            took[name].append(way())
    return {name: statistics.median(times) for name, times in took.items()}


def compared(what: str, rows: int, took: dict[str, float], peer: str, goal: str) -> Row:
    """A row of the table."""
    ratio = took[peer] / took["dlsql"]
    return Row(what, f"{rows / took['dlsql']:,.0f}", f"{rows / took[peer]:,.0f} {peer}", f"{ratio:.2f}", goal)
