"""What a query that has run left behind: the metrics of its plan, and files in the memory of its workers."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

# An operator that runs networks -> its metric of the rows that it ran them on.
_ROWS = {"Predict": "rowsScored", "ArrowEvalPython": "pythonNumRowsReceived"}


def scored(frame: DataFrame) -> int:
    """Rows that networks scored, of all predictions of a query that has run; of columns that travel as they are those that came back."""
    return _total(frame, _ROWS)


def sent(frame: DataFrame) -> int:
    """Bytes that went to Python's workers in blocks."""
    return _total(frame, {"Predict": "pythonDataSent"})


def _total(frame: DataFrame, metrics: Mapping[str, str]) -> int:
    """Of operators by their names one of their metrics each."""
    found = 0
    nodes: list[Any] = [frame._jdf.queryExecution().executedPlan()]
    while nodes:
        node = nodes.pop()
        if node.nodeName() == "AdaptiveSparkPlan":
            nodes.append(node.executedPlan())
        elif node.nodeName().endswith("QueryStage"):
            nodes.append(node.plan())
        nodes += [node.children().apply(i) for i in range(node.children().size())]
        if node.nodeName() in metrics:
            found += node.metrics().apply(metrics[node.nodeName()]).value()
    return found


def mapping(file: Path) -> list[int]:
    """The processes that have a file in their memory."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if process.name.isdigit() and str(file) in (process / "maps").read_text():
                found.append(int(process.name))
    return found


def workers(spark: SparkSession) -> set[int]:
    """The session's Python workers: what its daemons have forked."""
    parents = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if folder.name.isdigit() and b"pyspark.daemon" in (folder / "cmdline").read_bytes():
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    gateway: Any = spark.sparkContext._gateway
    return {pid for pid, parent in parents.items() if parents.get(parent) == gateway.proc.pid}


def share(process: int, file: Path) -> int:
    """The bytes of a file in a process's memory, where of a page that several have each counts its part (PSS)."""
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{process}/smaps").read_text(), flags=re.MULTILINE)
    return sum(_bytes(entry, "Pss") for entry in entries if entry.partition("\n")[0].endswith(f" {file}"))


def private(process: int) -> int:
    """The bytes in a process's memory that are no file's."""
    return _bytes(Path(f"/proc/{process}/smaps_rollup").read_text(), "Anonymous")


def _bytes(told: str, key: str) -> int:
    return int(re.findall(rf"^{key}: +(\d+) kB", told, flags=re.MULTILINE)[0]) << 10
