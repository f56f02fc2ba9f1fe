"""Runs benchmarks by name, all of them by default, and prints a table for each."""

import sys
import tempfile
from collections.abc import Callable

from pyspark.sql import SparkSession

import dlsql
from bench import accuracy, convergence, groups, latency, memory, prediction, training
from bench.tables import Row, show

# Spark's reader of Parquet makes arrays of megabytes for nested columns. In a JVM that has lived for a while each of them sets G1 off to mark
# the heap anew, which took a third of the processors: what was measured was how long the JVM had lived.
SETTINGS = {"spark.ui.enabled": "false", "spark.driver.memory": "4g", "spark.driver.extraJavaOptions": "-XX:+UseParallelGC"}

BENCHMARKS: dict[str, tuple[str, Callable[[SparkSession], list[Row]]]] = {
    "accuracy": ("Accuracy with default options, on rows held out", accuracy.run),
    "training": ("Training 784-512-256-10 on 60,000 rows, SGD, 2 workers, batches of 256 each", training.run),
    "convergence": ("Epochs to an accuracy by the number of workers", convergence.run),
    "prediction": ("Prediction on 2 cores, warm, medians of 7", prediction.run),
    "groups": ("A network for each of 1,000 groups of 1,000 rows: 64-32, 5 epochs, batches of 128", groups.run),
    "memory": ("Memory, each in an application of its own with 1 GB of heap", memory.run),
    "latency": ("Latency, warm, medians", latency.run),
}


def main() -> None:
    """Runs what the command line names."""
    names = sys.argv[1:] or list(BENCHMARKS)
    with tempfile.TemporaryDirectory() as folder:
        began = latency.clock()
        spark = dlsql.session(folder, master="local[2]", conf=SETTINGS)
        print(f"session ready after {latency.clock() - began:.1f} s")
        for name in names:
            title, run = BENCHMARKS[name]
            show(title, run(spark))
        spark.stop()


if __name__ == "__main__":
    main()
