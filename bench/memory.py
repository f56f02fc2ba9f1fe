"""Memory: what the workers of a host take together for a large network, and what a table of many rows takes while it is scored."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

import dlsql
from bench import processes
from bench.networks import WEIGHTS, imported
from bench.tables import Row, timed

WORKERS, MEGABYTES = 8, 500
FEW, MANY = 2_000_000, 20_000_000
_COLUMNS = 8


def run(spark: SparkSession) -> list[Row]:
    """Each in an application of its own, with a small heap."""
    return [*_workers(_told("workers", f"local[{WORKERS}]")), *_table(_told("table", "local[2]"))]


def _told(what: str, master: str) -> dict[str, float]:
    """What another process measured."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "bench.memory", what, master, folder],
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
    names = [f"c{i}" for i in range(_COLUMNS)]
    features = ", ".join(f"FLOAT(id * {i + 3} % 1009) / 1009 AS c{i}" for i in range(_COLUMNS))
    spark.range(2000).selectExpr("id", *features.split(", ")).createOrReplaceTempView("rows")
    options = "model_type = 'dnn_regressor', hidden_units = [64, 32], max_iterations = 1"
    spark.sql(f"CREATE MODEL m OPTIONS ({options}) AS SELECT {', '.join(names)}, c0 * c1 AS label FROM rows").collect()
    for pid in processes.found().workers:  # they have trained, and would be counted among those that score until Spark ends them
        os.kill(pid, signal.SIGKILL)

    def write(rows: int, answer: str) -> float:
        """As many rows a task in either case."""
        spark.sql("DROP TABLE IF EXISTS scored")
        spark.sql("CREATE TABLE scored (id BIGINT, y DOUBLE, day BIGINT) USING parquet PARTITIONED BY (day)")
        source = f"(SELECT id, {features} FROM range(0, {rows}, 1, {rows // 1_000_000}))"
        return timed(lambda: spark.sql(f"INSERT INTO scored SELECT id, {answer} AS y, id % 4 AS day FROM {source}").collect())

    predicted = f"PREDICT('m', {', '.join(names)})"
    told = {}
    write(FEW, predicted)  # starts the workers, and lets the heap grow to its size
    for name, rows in (("few", FEW), ("many", MANY)):
        there = processes.found()
        processes.forget_peaks(there.every)
        told["scored"] = write(rows, predicted)
        told |= {f"JVM {name}": processes.peak(there.jvm), f"workers {name}": processes.peak(processes.found().workers)}
    return {**told, "bare": write(MANY, "c0 + " + " + ".join(names[1:]))}


def main() -> None:
    """Measures one of the two, and tells it in a line of JSON."""
    what, master, folder = sys.argv[1:]
    spark = dlsql.session(f"{folder}/warehouse", master=master, conf={"spark.ui.enabled": "false", "spark.driver.memory": "1g"})
    print(json.dumps({"workers": measure_workers, "table": measure_table}[what](spark, folder)), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
