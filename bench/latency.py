"""What the language adds to a session's start and to the analysis of a query, and how long a small query takes over JDBC's protocol."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pyhive import hive
from pyspark.sql import SparkSession

from bench.networks import WEIGHTS, imported
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
        *_first_predictions(spark),
        *_over_jdbc(),
    ]


def _first_predictions(spark: SparkSession) -> list[Row]:
    """The first query that a network answers, by its size, beside the reading of its file.

    The session is no new one: its Python workers have scored another network, and the file was just written, so that it lies in memory.
    What is measured is analysis, the network's way to the workers, and its load there.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        _first(spark, imported(spark, folder, 4))
        for megabytes in (25, 500):
            name = imported(spark, folder, megabytes * 1_000_000 // (4 * WEIGHTS))
            file = Path(folder, f"{name}.onnx")
            began = clock()
            file.read_bytes()
            read, first = clock() - began, _first(spark, name)
            peer, beyond = f"{read:.2f} s to read it", f"+{first - read:.2f} s"
            what = f"first prediction of a network of {megabytes} MB, by workers that have scored another"
            found.append(Row(what, f"{first:.2f} s", peer, beyond, "+1 s"))
    return found


def _first(spark: SparkSession, model: str) -> float:
    began = clock()
    spark.sql(f"SELECT PREDICT('{model}', array(FLOAT(id), 1F, 2F, 3F)) AS y FROM range(10)").collect()
    return clock() - began


def _over_jdbc() -> list[Row]:
    """Ten rows from a Thrift server, after a hundred queries, without PREDICT and with it."""
    with tempfile.TemporaryDirectory() as folder:
        serve = [
            sys.executable,
            "-m",
            "dlsql",
            "serve",
            "--warehouse",
            folder,
            "--port",
            "0",
            "--master",
            "local[2]",
            "--conf",
            "spark.ui.enabled=false",
        ]
        server = subprocess.Popen(
            serve, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )
        try:
            assert server.stdout is not None
            host, port = server.stdout.readline().strip().partition("jdbc:hive2://")[2].split(":")
            cursor = hive.connect(host=host, port=int(port), username="bench").cursor()
            cursor.execute("CREATE TABLE numbers AS SELECT id, id * 2D AS x, id * 3D AS label FROM range(1000)")
            cursor.execute(
                "CREATE MODEL quick OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT x, label FROM numbers"
            )
            bare, predicted = (
                _answers(cursor, f"SELECT id, {what} AS y FROM numbers LIMIT 10") for what in ("ln(x)", "PREDICT('quick', x)")
            )
        finally:
            server.terminate()
            server.wait(60)
    return [
        Row(
            f"ten rows over JDBC, {name}",
            f"{np.percentile(predicted, part):.0f} ms",
            f"{np.percentile(bare, part):.0f} ms without PREDICT",
            goal=goal,
        )
        for name, part, goal in (("median", 50, "100 ms"), ("95th percentile", 95, "200 ms"))
    ]


def _answers(cursor: hive.Cursor, query: str) -> list[float]:
    taken = []
    for _ in range(300):
        began = clock()
        cursor.execute(query)
        cursor.fetchall()
        taken.append((clock() - began) * 1000)
    return taken[100:]


def _milliseconds(action: Callable[[], object], times: int = 40) -> float:
    taken = []
    for _ in range(times):
        began = clock()
        action()
        taken.append((clock() - began) * 1000)
    return statistics.median(taken[times // 4 :])
