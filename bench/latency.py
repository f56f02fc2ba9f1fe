"""What the language adds to a session's start and to the analysis of a query."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from pyspark.sql import SparkSession

from bench.tables import Row

clock = time.perf_counter
_ATTACH = """
import time
from pyspark.sql import SparkSession
spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.log.level", "OFF").getOrCreate()
spark.range(1).collect()
began = time.perf_counter()
import dlsql
imported = time.perf_counter()
dlsql.attach(spark)
print(imported - began, time.perf_counter() - imported)
"""


def run(spark: SparkSession) -> list[Row]:
    """Start-up of `attach` in a fresh process, and analysis with and without PREDICT."""
    imported, attached = map(
        float, subprocess.run([sys.executable, "-c", _ATTACH], capture_output=True, text=True, check=True).stdout.split()[-2:]
    )
    spark.range(1000).selectExpr("id", "id * 2D AS x", "id * 3D AS label").createOrReplaceTempView("numbers")
    options = "model_type = 'linear_regressor', max_iterations = 1"
    spark.sql(f"CREATE OR REPLACE MODEL quick OPTIONS ({options}) AS SELECT x, label FROM numbers").collect()
    with_predict = _milliseconds(lambda: spark.sql("SELECT id, PREDICT('quick', x) AS y FROM numbers"))
    without = _milliseconds(lambda: spark.sql("SELECT id, ln(x) AS y FROM numbers"))
    return [
        Row("import dlsql", f"{imported:.1f} s"),
        Row("attach to a running session", f"{attached:.1f} s"),
        Row(
            "analysis of SELECT PREDICT(...)",
            f"{with_predict:.1f} ms",
            f"{without:.1f} ms without",
            f"+{with_predict - without:.1f} ms",
            "+20 ms",
        ),
    ]


def _milliseconds(action: Callable[[], object], times: int = 40) -> float:
    taken = []
    for _ in range(times):
        began = clock()
        action()
        taken.append((clock() - began) * 1000)
    return statistics.median(taken[times // 4 :])
