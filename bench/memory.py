"""Memory: what the workers of a host take together for a large network, what a table of many rows takes while it is scored, and what the
driver holds while a network is trained on many.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

import dlsql
from bench import processes
from bench.networks import WEIGHTS, imported
from bench.tables import Row, timed

WORKERS, MEGABYTES = 8, 500
FEW, MANY = 2_000_000, 20_000_000
TRAINED_FEW, TRAINED_MANY = 500_000, 10_000_000
_COLLECTED = 1_000_000
CLUSTER = "local-cluster[2,1,1024]"  # executors of their own: the driver's heap holds nothing of theirs
_CONF = {"spark.ui.enabled": "false", "spark.driver.memory": "1g"}
# No time is measured: code that runs a minute is compiled once, and garbage collected by one thread.
_QUICK = {
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    **{f"spark.{who}.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" for who in ("driver", "executor")},
}
_NAMES = [f"c{i}" for i in range(8)]
_FEATURES = [f"FLOAT(id * {i + 3} % 1009) / 1009 AS c{i}" for i in range(8)]


def run(spark: SparkSession) -> list[Row]:
    """Each in an application of its own, with a small heap."""
    rows = [*_workers(apart("workers", f"local[{WORKERS}]")), *_table(apart("table", "local[2]"))]
    return [*rows, *_driver(apart("driver", CLUSTER, TRAINED_FEW, TRAINED_MANY))]


def apart(what: str, master: str, *rows: int) -> dict[str, float]:
    """What another process measured."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", what, master, folder, *map(str, rows)],
            stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip
    read: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return read


def _workers(told: dict[str, float]) -> list[Row]:
    taken, size = told["taken"], told["size"]
    what = f"memory of {told['workers']:.0f} workers on a host for a network of {MEGABYTES} MB"
    return [Row(what, _megabytes(taken), f"{_megabytes(size)} its file", f"{taken / size:.2f}", "at most 1.5")]


def _table(told: dict[str, float]) -> list[Row]:
    scored, bare = MANY / told["scored"], MANY / told["bare"]
    rows = [Row("20 M rows into a partitioned table, rows/s", f"{scored:,.0f}", f"{bare:,.0f} without PREDICT", f"{scored / bare:.2f}")]
    for name in ("JVM", "workers"):
        many, few = told[f"{name} many"], told[f"{name} few"]
        rows.append(Row(f"  peak memory, {name}", _megabytes(many), f"{_megabytes(few)} for 2 M rows", f"{many / few:.2f}", "about 1"))
    return rows


def _driver(told: dict[str, float]) -> list[Row]:
    rows = []
    for name, what in (("heap", "heap of the driver's JVM without garbage"), ("process", "driver's Python process")):
        many, few, collected = (_megabytes(told[f"{name} {case}"]) for case in ("many", "few", "collected"))
        ratio = f"{told[f'{name} many'] / told[f'{name} few']:.2f}"
        rows.append(Row(f"training on 10 M rows, peak memory, {what}", many, f"{few} for 500,000 rows", ratio, "about 1"))
        rows.append(Row("  while a column of 1 M rows is collected", collected))
    return rows


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def measure_workers(spark: SparkSession, folder: str) -> dict[str, float]:
    """What all workers of a host take for a large network, above what they take for a small one."""
    small, large = imported(spark, folder, 4), imported(spark, folder, MEGABYTES * 1_000_000 // (4 * WEIGHTS))
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "8")  # rows whose tensors are next to nothing beside the network's
    before, after = (_after_scoring(spark, name, rows) for name, rows in ((small, 4000), (large, 40)))
    workers = len(processes.mapping(processes.found().workers, "model.onnx.data"))
    return {"workers": workers, "taken": after - before, "size": Path(folder, f"{large}.onnx").stat().st_size}


def _after_scoring(spark: SparkSession, model: str, rows: int) -> int:
    """Bytes of the workers once each has scored a partition: tasks that start at once are given one each."""
    query = f"SELECT sum(PREDICT('{model}', array(FLOAT(id), 1F, 2F, 3F))) FROM range(0, {WORKERS * rows}, 1, {WORKERS})"
    spark.sql(query).collect()
    return processes.shared(processes.found().workers)


def measure_table(spark: SparkSession, folder: str) -> dict[str, float]:
    """Seconds of writing many rows with their predictions and without, and the peaks of memory for many rows and for few."""
    features, names = ", ".join(_FEATURES), ", ".join(_NAMES)
    spark.range(2000).selectExpr("id", *_FEATURES).createOrReplaceTempView("rows")
    options = "model_type = 'dnn_regressor', hidden_units = [64, 32], max_iterations = 1"
    spark.sql(f"CREATE MODEL m OPTIONS ({options}) AS SELECT {names}, c0 * c1 AS label FROM rows").collect()
    for pid in processes.found().workers:  # they have trained, and would be counted among those that score until Spark ends them
        os.kill(pid, signal.SIGKILL)

    def write(rows: int, answer: str) -> float:
        """As many rows a task in either case."""
        spark.sql("DROP TABLE IF EXISTS scored")
        spark.sql("CREATE TABLE scored (id BIGINT, y DOUBLE, day BIGINT) USING parquet PARTITIONED BY (day)")
        source = f"(SELECT id, {features} FROM range(0, {rows}, 1, {rows // 1_000_000}))"
        return timed(lambda: spark.sql(f"INSERT INTO scored SELECT id, {answer} AS y, id % 4 AS day FROM {source}").collect())

    predicted = f"PREDICT('m', {names})"
    told = {}
    write(FEW, predicted)  # starts the workers, and lets the heap grow to its size
    for name, rows in (("few", FEW), ("many", MANY)):
        there = processes.found()
        processes.forget_peaks(there.every)
        told["scored"] = write(rows, predicted)
        told |= {f"JVM {name}": processes.peak(there.jvm), f"workers {name}": processes.peak(processes.found().workers)}
    return {**told, "bare": write(MANY, " + ".join(_NAMES))}


def measure_driver(spark: SparkSession, folder: str, few: str, many: str) -> dict[str, float]:
    """The most that the driver holds while executors train on few rows and on many, and while it collects a column: what it would hold if
    rows came to it.
    """
    options = "model_type = 'dnn_regressor', hidden_units = [16], num_workers = 2, batch_size = 16384, max_iterations = 1"

    def query(rows: int) -> str:
        """As many rows a task in either case."""
        return f"SELECT *, c0 * c1 AS label FROM (SELECT {', '.join(_FEATURES)} FROM range(0, {rows}, 1, {-(-rows // 500_000)}))"

    def train(rows: int) -> None:
        spark.sql(f"CREATE OR REPLACE MODEL m OPTIONS ({options}) AS {query(rows)}").collect()

    told: dict[str, float] = {}
    train(int(few))  # imports what there is to import, and starts the workers
    with _watched(spark, told, "few"):
        train(int(few))
    with _watched(spark, told, "many"):
        train(int(many))
    with _watched(spark, told, "collected"):
        spark.sql(query(_COLLECTED)).select("c0").collect()
    return told


@contextmanager
def _watched(spark: SparkSession, told: dict[str, float], name: str) -> Iterator[None]:
    """Tells the most bytes that the driver holds meanwhile: in its JVM's heap once garbage is collected, and in the memory of this process."""
    java = spark._jvm.java.lang
    heap, over, held = java.management.ManagementFactory.getMemoryMXBean(), threading.Event(), []

    def watch() -> None:
        while not over.wait(0.1):
            java.System.gc()
            held.append(heap.getHeapMemoryUsage().getUsed())

    watching = threading.Thread(target=watch)
    processes.forget_peaks([os.getpid()])
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        told |= {f"heap {name}": max(held), f"process {name}": processes.peak([os.getpid()])}


def main() -> None:
    """Measures one of them, and tells it in a line of JSON."""
    what, master, folder, *rows = sys.argv[1:]
    conf = _CONF | (_QUICK if what == "driver" else {})
    spark = dlsql.session(f"{folder}/warehouse", master=master, conf=conf)
    measure = {"workers": measure_workers, "table": measure_table, "driver": measure_driver}[what]
    print(json.dumps(measure(spark, folder, *rows)), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
