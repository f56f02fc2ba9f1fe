"""Models of other tools: read from files, run by their own engine on any batch, and answered in the types of their tensors."""

import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data
from pyspark.errors import AnalysisException, IllegalArgumentException, PySparkException, PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import dlsql
from dlsql import encoding, inference
from examples.datasets import model
from tests.graphs import BOOL, DOUBLE, FLOAT, HALF, INT8, INT64, UINT8, UINT64, graph
from tests.seen import mapping, scored, sent, share, workers
from udfs.spec import LARGE


def imported(spark: SparkSession, file: Path, more: str = "", clauses: str = "", name: str = "m") -> None:
    spark.sql(f"CREATE OR REPLACE MODEL {name} {clauses} OPTIONS (model_path = '{file}'{more})").collect()


def direct(file: Path, feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> list[list[Any]]:
    """ONNX Runtime on a row at a time."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [session.run(None, dict(feed)) for feed in feeds]


W, B = np.arange(8, dtype=np.float32).reshape(4, 2) / 7, np.array([0.5, -1], np.float32)
DENSE = [("Gemm", ["x", "W", "B"], ["y"])]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return graph(tmp_path, DENSE, [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 2])], W=W, B=B)


@pytest.mark.parametrize(("batch", "partitions"), [(1, 1), (2, 3), (7, 2), (97, 1), (100_000, 1), (100, 50)])
@pytest.mark.parametrize("kind", ["array", "binary"])
def test_predictions_are_those_of_the_engine_at_any_batching(
    spark: SparkSession, database: str, dense: Path, batch: int, partitions: int, kind: str
) -> None:
    """Odd numbers among them, and NULLs; a slice of Arrow's arrays begins anywhere."""
    imported(spark, dense, clauses="INPUT (x BINARY)" if kind == "binary" else "")
    random = np.random.default_rng(batch)
    numbers = random.normal(size=(300, 4)).astype(np.float32)
    numbers[::17, 1], numbers[::19, 2] = np.nan, np.inf
    rows: list[Any] = [None if i % 13 == 0 else one.tobytes() if kind == "binary" else one.tolist() for i, one in enumerate(numbers)]
    table = spark.createDataFrame(list(enumerate(rows)), f"id int, x {'binary' if kind == 'binary' else 'array<float>'}")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch))
    try:
        scored = table.repartition(partitions, F.col("id") % 40).where("id % 7 != 3").select("id", dlsql.predict("m", "x").alias("y"))
        got = {row["id"]: row["y"] for row in scored.collect()}
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert scored.schema["y"].dataType.simpleString() == "array<float>"
    assert sorted(got) == [i for i in range(300) if i % 7 != 3]
    for i, y in got.items():
        assert (y is None) == (i % 13 == 0)
        if y is not None:
            np.testing.assert_allclose(y, direct(dense, [{"x": numbers[i : i + 1]}])[0][0][0], rtol=1e-5)


def test_several_tensors_of_every_kind_enter_and_leave(spark: SparkSession, database: str, tmp_path: Path) -> None:
    kinds = {"h": HALF, "d": DOUBLE, "b": INT8, "u": UINT8, "l": INT64, "t": BOOL}
    nodes = [("Cast", [name], [f"{name}_"], {"to": FLOAT}) for name in kinds]
    nodes += [
        ("Sum", [f"{name}_" for name in kinds], ["sum"]),
        ("Mul", ["l", "two"], ["twice"]),
        ("Unsqueeze", ["u", "axis"], ["deep"]),
        ("Not", ["t"], ["not"]),
    ]
    outputs = [("sum", FLOAT, ["n", 2]), ("twice", INT64, ["n", 1]), ("deep", UINT8, ["n", 2, 1]), ("not", BOOL, ["n", 1])]
    sizes = {"h": 2, "d": 1, "b": 2, "u": 2, "l": 1, "t": 1}
    file = graph(
        tmp_path, nodes, [(name, kind, ["n", sizes[name]]) for name, kind in kinds.items()], outputs,
        two=np.array([2]), axis=np.array([2]),
    )  # fmt: skip
    imported(spark, file)
    spark.sql(
        """SELECT * FROM VALUES (1, array(0.5F, 1F), 2D, array(-3Y, 100Y), array(0S, 255S), 9007199254740993L, true),
        (2, array(1F, 1F), NULL, array(0Y, 0Y), array(1S, 2S), 1L, false) AS v(id, h, d, b, u, l, t)"""
    ).createOrReplaceTempView("v")
    first, second = spark.sql(
        "SELECT id, predict('m', struct(*)) AS p, typeof(predict('m', struct(*))) AS kind FROM v ORDER BY id"
    ).collect()
    assert first["kind"] == "struct<sum:array<float>,twice:bigint,deep:array<array<smallint>>,not:boolean>"
    large = float(np.float32(9007199254740993))
    assert first["p"].asDict() == {"sum": [large, large], "twice": 2 * 9007199254740993, "deep": [[0], [255]], "not": False}
    assert second["p"] is None
    predicted = spark.sql("SELECT * FROM ML_PREDICT('m', TABLE(SELECT * FROM v WHERE id = 1))").collect()[0]
    assert (predicted["predicted_twice"], predicted["predicted_not"]) == (2 * 9007199254740993, False)


@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_a_graph_of_a_fixed_batch_is_given_whole_batches(spark: SparkSession, database: str, tmp_path: Path, rows: int) -> None:
    file = graph(tmp_path, [("Softmax", ["x"], ["y"], {"axis": 1})], [("x", FLOAT, [4, 3])], [("y", FLOAT, [4, 3])])
    imported(spark, file)
    table = spark.range(rows).selectExpr("id", "array(FLOAT(id), 1F, 2F) AS x").coalesce(1)
    got = [row["y"] for row in table.select("id", dlsql.predict("m", "x").alias("y")).orderBy("id").collect()]
    padded = np.array([[i, 1, 2] for i in range(-(-rows // 4) * 4)], np.float32).reshape(-1, 4, 3)
    wanted = np.array([one[0] for one in direct(file, [{"x": part} for part in padded])]).reshape(-1, 3)[:rows]
    np.testing.assert_allclose(np.array(got).reshape(-1, 3), wanted, rtol=1e-5)


def test_a_graph_without_rows_is_run_row_by_row(spark: SparkSession, database: str, tmp_path: Path) -> None:
    file = graph(tmp_path, [("Mul", ["x", "by"], ["y"])], [("x", FLOAT, [3]), ("by", FLOAT, [])], [("y", FLOAT, [3])])
    imported(spark, file)
    answers = spark.sql("SELECT predict('m', array(1F, 2F, float(id)), float(id)) AS y FROM range(3) ORDER BY id").collect()
    assert [row["y"] for row in answers] == [[0, 0, 0], [1, 2, 1], [2, 4, 4]]


def test_a_graph_that_says_any_batch_and_takes_one_is_run_row_by_row(spark: SparkSession, database: str, tmp_path: Path) -> None:
    nodes = [("Reshape", ["x", "one"], ["r"]), ("ReduceSum", ["r", "axis"], ["y"], {"keepdims": 0})]
    file = graph(tmp_path, nodes, [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n"])], one=np.array([1, 3]), axis=np.array([1]))
    imported(spark, file)
    rows = {row["name"]: row["detail"] for row in spark.sql(f"EXPLAIN CREATE MODEL e OPTIONS (model_path = '{file}')").collect()}
    assert rows["engine"] == "onnxruntime, a run takes 1 rows"
    assert [row[0] for row in spark.sql("SELECT predict('m', array(1F, 2F, float(id))) FROM range(3) ORDER BY id").collect()] == [3, 4, 5]


LISTS = "SELECT * FROM VALUES (1, array(1F, 2F)), (2, array(3F)), (3, NULL), (4, array(4F, NULL)), (5, array(5F, 7F)), (6, array(6F)) AS v(id, x)"


def test_arrays_of_any_length_meet_only_their_like(spark: SparkSession, database: str, tmp_path: Path) -> None:
    """A mean over what is padded would be another one."""
    nodes = [("ReduceMean", ["x"], ["y"], {"axes": [1], "keepdims": 0})]
    file = graph(tmp_path, nodes, [("x", FLOAT, ["n", "length"])], [("y", FLOAT, ["n"])])
    imported(spark, file)
    assert [tuple(row) for row in spark.sql(f"SELECT id, predict('m', x) FROM ({LISTS}) ORDER BY id").collect()] == [
        (1, 1.5), (2, 3), (3, None), (4, None), (5, 6), (6, 6),
    ]  # fmt: skip
    with pytest.raises(PythonException, match=r"\[DLSQL_SCORING\] `x` holds 0 elements a row; the model takes float32 \[any\]\."):
        spark.sql("SELECT predict('m', CAST(array() AS ARRAY<FLOAT>))").collect()
    assert spark.sql("SELECT try_predict('m', CAST(array() AS ARRAY<FLOAT>))").collect()[0][0] is None


def test_arrays_may_be_padded_and_their_lengths_told(spark: SparkSession, database: str, tmp_path: Path) -> None:
    nodes = [
        ("ReduceSum", ["x", "axis"], ["sum"], {"keepdims": 0}),
        ("Cast", ["lens"], ["count"], {"to": FLOAT}),
        ("Div", ["sum", "count"], ["mean"]),
    ]
    file = graph(tmp_path, nodes, [("x", FLOAT, ["n", "length"]), ("lens", INT64, ["n"])], [("mean", FLOAT, ["n"])], axis=np.array([1]))
    imported(spark, file, ", pad = MAP('x', 0), lengths = MAP('lens', 'x')")
    assert spark.sql("DESCRIBE MODEL m").collect()[0][:2] == ("x", "array<float>")
    assert [row[0] for row in spark.sql(f"SELECT predict('m', x) FROM ({LISTS}) ORDER BY id").collect()] == [1.5, 3, None, None, 6, 6]


def test_rows_that_do_not_fit_fail_or_are_null(spark: SparkSession, database: str, dense: Path) -> None:
    imported(spark, dense)
    with pytest.raises(IllegalArgumentException, match=r"`x` holds 3 elements a row; the model takes float32 \[4\]\."):
        spark.sql("SELECT predict('m', array(1F, 2F, 3F))").collect()
    rows = spark.sql("SELECT try_predict('m', x) AS y FROM VALUES (array(1F, 2F, 3F)), (array(1F, 1F, 1F, 1F)) AS v(x)").collect()
    assert [row["y"] is None for row in rows] == [True, False]
    imported(spark, dense, clauses="INPUT (x BINARY)")
    assert spark.sql("SELECT try_predict('m', x'0011')").collect()[0][0] is None


def test_numbers_that_do_not_fit_their_tensor_fail_or_are_null(spark: SparkSession, database: str, tmp_path: Path) -> None:
    nodes = [("Identity", ["a"], ["bytes"]), ("Identity", ["b"], ["long"])]
    file = graph(tmp_path, nodes, [("a", UINT8, ["n", 2]), ("b", UINT64, ["n"])], [("bytes", UINT8, ["n", 2]), ("long", UINT64, ["n"])])
    imported(spark, file)
    spark.sql(
        "CREATE TABLE given AS SELECT * FROM VALUES (1, array(0, 255), 18446744073709551615), (2, array(-1, 300), 1), (3, array(1, 2), -1) AS v(id, a, b)"
    )
    with pytest.raises(
        IllegalArgumentException, match=r"\[DLSQL_SCORING\] `a` holds -1; the model takes uint8, from 0 to 255\. SQLSTATE: 42804"
    ):
        spark.sql("SELECT predict('m', a, b) FROM given WHERE id < 3").collect()
    first, second, third = spark.sql("SELECT try_predict('m', a, b) AS p FROM given ORDER BY id").collect()
    assert first["p"].asDict() == {"bytes": [0, 255], "long": 2**64 - 1}
    assert (second["p"], third["p"]) == (None, None)
    assert [tuple(row)[:2] for row in spark.sql("DESCRIBE MODEL m").collect()][:4] == [
        ("a", "array<smallint>"), ("b", "decimal(20,0)"), ("bytes", "array<smallint>"), ("long", "decimal(20,0)"),
    ]  # fmt: skip


@pytest.fixture(params=["packed", "as columns"])
def summing(spark: SparkSession, database: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A model that sums arrays of four, and as a view 20 rows, of which every second holds three. What may have any length is not packed."""
    nodes = [("Add", ["x", "none"], ["z"]), ("ReduceSum", ["z", "axis"], ["y"], {"keepdims": 0})]
    size = 4 if request.param == "packed" else "length"
    none = np.zeros(4, np.float32)
    imported(spark, graph(tmp_path, nodes, [("x", FLOAT, ["n", size])], [("y", FLOAT, ["n"])], axis=np.array([1]), none=none))
    few = "if(id % 2 = 0, array(1F, 2F, 3F, FLOAT(id)), array(1F, 2F, FLOAT(id)))"
    spark.sql(f"CREATE TABLE given AS SELECT id, {few} AS x FROM range(20)")
    return str(request.param)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT {p} AS a, {p} + 1 AS b FROM given WHERE size(x) = 4 AND {p} > 0", 10),
        ("SELECT * FROM (SELECT *, {p} AS y FROM given WHERE size(x) = 4) WHERE y > 0 AND id < 10", 5),
        ("SELECT y, z FROM (SELECT *, {p} AS y, {p} * 2 AS z FROM given WHERE size(x) = 4) WHERE y < 1e9 AND z > 0", 10),
        ("SELECT id FROM (SELECT *, {p} AS y FROM given)", 0),
        ("SELECT if({p} > 0, PREDICT('m', array(1F, 1F, 1F, FLOAT(id))), 0) AS y, {p} FROM given WHERE size(x) = 4", 20),
        ("SELECT {p} AS y, PREDICT('m', array(1F, 1F, 1F, 1F)) FROM given WHERE size(x) = 4", 20),  # in one operator
    ],
)
def test_it_runs_once_a_row(spark: SparkSession, summing: str, query: str, rows: int) -> None:
    asked = spark.sql(query.format(p="PREDICT('m', x)"))
    asked.collect()
    in_one = query.startswith("SELECT {p} AS y, PREDICT") and summing == "as columns"  # whose rows Spark counts once
    assert scored(asked) == (rows // 2 if in_one else rows)


@pytest.mark.parametrize(
    ("query", "answers"),
    [
        ("SELECT CASE WHEN id < 3 THEN -1 WHEN size(x) = 4 THEN {p} END AS y FROM given", 11),
        ("SELECT if(size(x) = 4, if(id > 0, {p}, 0), 1) AS y FROM given", 20),
        ("SELECT CASE WHEN size(x) <> 4 THEN NULL ELSE {p} END AS y FROM given", 10),
        ("SELECT CASE WHEN size(x) = 4 THEN CASE WHEN {p} > 1e9 THEN 1 ELSE {p} END END AS y FROM given", 10),
        ("SELECT CASE WHEN size(x) = 4 THEN {p} ELSE PREDICT('m', concat(x, array(1F))) END AS y FROM given", 20),
        ("SELECT CASE WHEN id > 0 THEN PREDICT('m', array(1F, 1F, 1F, FLOAT(1 / id))) END AS y FROM given", 19),
        ("SELECT CASE WHEN id > 0 THEN PREDICT('m', array(1F, 1F, FLOAT(1 / id), FLOAT(1 / id))) END AS y FROM given", 19),
    ],
)
def test_a_branch_of_case_runs_the_rows_that_come_to_it(spark: SparkSession, summing: str, query: str, answers: int) -> None:
    """The others fail the query."""
    found = spark.sql(query.format(p="PREDICT('m', x)")).collect()
    assert sum(row["y"] is not None for row in found) == answers


def test_a_query_that_wants_few_rows_leaves_its_worker_to_the_next(spark: SparkSession, summing: str) -> None:
    query = "SELECT id, PREDICT('m', x) AS y FROM (SELECT * FROM given WHERE size(x) = 4) LIMIT 3"
    assert len(spark.sql(query).collect()) == 3
    before = workers(spark)
    for _ in range(3):
        asked = spark.sql(query)
        asked.collect()
        assert scored(asked) == 3
    assert workers(spark) == before


def test_beside_a_prediction_of_a_trained_model_each_runs_its_own_way(spark: SparkSession, summing: str) -> None:
    spark.sql("CREATE MODEL t OPTIONS (model_type = 'linear_regressor', max_iterations = 1) AS SELECT id, id * 2D AS label FROM range(60)")
    asked = spark.sql("SELECT PREDICT('t', id) AS a, PREDICT('m', x) AS b, PREDICT('t', id) * 2 AS c FROM given WHERE size(x) = 4")
    assert len(asked.collect()) == 10
    plan = asked._jdf.queryExecution().executedPlan().toString()
    assert re.search(r"[-+] (\*\(\d+\) )?Predict ", plan)
    assert plan.count("ArrowEvalPython") == (summing == "as columns")
    assert scored(asked) == 20


def test_rows_that_the_engine_fails_on_are_looked_for(spark: SparkSession, database: str, tmp_path: Path) -> None:
    file = graph(
        tmp_path, [("Gather", ["table", "place"], ["y"])], [("place", INT64, ["n"])], [("y", FLOAT, ["n"])], table=np.ones(4, np.float32)
    )
    imported(spark, file)
    rows = spark.range(100).selectExpr("id", "if(id % 30 = 7, 99, id % 4) AS place").coalesce(1)
    rows.createOrReplaceTempView("v")
    with pytest.raises(
        PythonException, match=r"\[DLSQL_SCORING\] The model fails on place int64 \[100\]: .*indices element out of data bounds"
    ):
        spark.sql("SELECT predict('m', place) FROM v").collect()
    found = spark.sql("SELECT id, try_predict('m', place) AS y FROM v").collect()
    assert [row["id"] for row in found if row["y"] is None] == [7, 37, 67, 97]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A network of 20 MB that takes four numbers and gives one."""
    nodes = [("MatMul", ["x", "a"], ["h"]), ("MatMul", ["h", "b"], ["w"]), ("ReduceMax", ["w"], ["y"], {"axes": [1], "keepdims": 0})]
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=size).astype(np.float32) for name, size in (("a", (4, 1000)), ("b", (1000, 5000)))}
    return graph(tmp_path, nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n"])], **weights)


_ASK_LARGE = "SELECT predict('m', array(1F, 2F, 3F, FLOAT(id))) AS y FROM range(4, 5)"


def test_a_large_network_is_mapped_from_where_all_hosts_see_it(spark: SparkSession, database: str, large: Path) -> None:
    answers, folders = [], []
    for _ in range(2):  # the same content in another folder, the first one gone
        imported(spark, large)
        folders.append(Path(spark.sql("SHOW VERSIONS IN MODEL m").collect()[0]["uri"].removeprefix("file:")))
        (row,) = spark.sql(_ASK_LARGE).collect()
        answers.append(row["y"])
        mapped = mapping(folders[-1] / "model.onnx.data")
        assert mapped
        spark.sql("DROP MODEL m")
        for pid in mapped:
            os.kill(pid, signal.SIGKILL)
    assert folders[0] != folders[1]
    np.testing.assert_allclose(answers, [direct(large, [{"x": np.array([[1, 2, 3, 4]], np.float32)}])[0][0][0]] * 2, rtol=1e-4)
    imported(spark, large)
    analysed = spark.sql(_ASK_LARGE)
    spark.sql("DROP MODEL m")
    with pytest.raises(PythonException, match=r"\[DLSQL_SCORING\] The model's files are not in .* any more"):
        analysed.collect()


def test_the_workers_of_a_host_have_a_large_network_once_between_them(spark: SparkSession, database: str, large: Path) -> None:
    imported(spark, large)
    file = Path(spark.sql("SHOW VERSIONS IN MODEL m").collect()[0]["uri"].removeprefix("file:"), "model.onnx.data")
    spark.sql("SELECT sum(predict('m', array(1F, 2F, 3F, FLOAT(id)))) FROM range(0, 2000, 1, 2)").collect()  # two tasks at once
    workers = mapping(file)
    assert len(workers) == 2
    together, size = sum(share(pid, file) for pid in workers), file.stat().st_size
    assert 0.5 * size < together < 1.2 * size


def test_a_large_network_in_another_file_system_is_read_from_there(spark: SparkSession, database: str, large: Path) -> None:
    spark.sql("CREATE DATABASE elsewhere LOCATION 'viewfs:///elsewhere/elsewhere.db'")
    spark.conf.set("spark.dlsql.catalog.database", "elsewhere")
    try:
        imported(spark, large)
        expected = direct(large, [{"x": np.array([[1, 2, 3, 4]], np.float32)}])[0][0][0]
        np.testing.assert_allclose(spark.sql(_ASK_LARGE).collect()[0]["y"], expected, rtol=1e-4)
        imported(spark, large)
        analysed = spark.sql(_ASK_LARGE)
        spark.sql("DROP MODEL m")
        with pytest.raises(PySparkException, match=r"\[DLSQL_STORAGE\] Could not read viewfs:/.*/model.onnx.data: .*58030"):
            analysed.collect()
    finally:
        spark.conf.unset("spark.dlsql.catalog.database")
        spark.sql("DROP DATABASE elsewhere CASCADE")


def test_rows_of_which_a_graph_makes_much_come_back_a_few_at_a_time(
    spark: SparkSession, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one value they would fill the heap."""
    nodes = [("MatMul", ["x", "ones"], ["y"])]
    file = graph(tmp_path, nodes, [("x", FLOAT, ["n", 1])], [("y", FLOAT, ["n", 5000])], ones=np.ones((1, 5000), np.float32))
    told = []
    for rows in (100, 2):
        monkeypatch.setattr(encoding, "AT_ONCE", rows * 4 * 5000)
        imported(spark, file)
        asked = spark.range(0, 7, 1, 1).select(dlsql.predict("m", F.col("id").cast("float")).alias("y"))
        assert [sum(row["y"]) for row in asked.collect()] == [5000 * i for i in range(7)]
        told.append(sent(asked))
    assert told[1] > 2 * told[0]  # four blocks, each with a head, in the place of one


def test_explain_says_what_runs(spark: SparkSession, summing: str) -> None:
    plan = spark.sql("EXPLAIN SELECT CASE WHEN id > 5 THEN predict('m', x) END FROM given").collect()[0][0]
    assert ".m@v1, onnxruntime, 10000 rows a batch: x#" in plan
    assert " where ((id#" in plan
    assert spark.sql("SELECT predict('m', x) FROM given").columns == ["predict(x)" if summing == "packed" else "predict(x).label"]


def test_what_a_graph_takes_and_gives_is_described_and_made_again(spark: SparkSession, database: str, dense: Path) -> None:
    (row,) = spark.sql(
        f"CREATE MODEL m INPUT (`my col` ARRAY<FLOAT>) OUTPUT (answer ARRAY<FLOAT>) OPTIONS (model_path = '{dense}')"
    ).collect()
    assert (row["version"], row["model_type"], row["rows_trained"], row["loss"]) == (1, "onnx", 0, None)
    described = [tuple(one)[:2] for one in spark.sql("DESCRIBE MODEL m").collect()]
    assert described[:2] == [("my col", "array<float>"), ("answer", "array<float>")]
    again = spark.sql("SHOW CREATE MODEL m").collect()[0][0].replace("CREATE MODEL", "CREATE OR REPLACE MODEL")
    assert spark.sql(again).collect()[0]["version"] == 2
    with pytest.raises(AnalysisException, match="DLSQL_MODEL_EXISTS"):
        spark.sql(f"CREATE MODEL m OPTIONS (model_path = '{dense}')")
    assert spark.sql(f"CREATE MODEL IF NOT EXISTS m OPTIONS (model_path = '{dense}')").collect()[0]["version"] == 2
    assert spark.sql(f"CALL ml.import_model('other', '{dense}')").collect()[0]["model"] == f"{database}.other"


def test_one_call_serves_all_functions_over_the_same_tensors(spark: SparkSession, database: str, dense: Path) -> None:
    imported(spark, dense)
    rows = spark.range(100).selectExpr("id", "array(float(id), 1F, 1F, 1F) AS x")
    both = rows.select(F.expr("predict('m', x)[1] AS a"), F.expr("ml_predict('m', x).y[0] AS b"))
    assert both._jdf.queryExecution().executedPlan().toString().count("pythonUDF0#") >= 2
    assert both._jdf.queryExecution().executedPlan().toString().count("pythonUDF1#") == 0
    assert both.where("a > 5").count() == 72


def test_a_file_beside_the_model_holds_its_large_tensors(spark: SparkSession, database: str, tmp_path: Path) -> None:
    """More than 16 MB: the workers of a host share the pages."""
    wide = np.random.default_rng(0).normal(size=(2100, 2100)).astype(np.float32)
    whole = tmp_path / "whole"
    whole.mkdir()
    file = graph(whole, [("MatMul", ["x", "W"], ["y"])], [("x", FLOAT, ["n", 2100])], [("y", FLOAT, ["n", 2100])], W=wide)
    loaded = onnx.load(str(file))
    convert_model_to_external_data(loaded, location="weights.bin", size_threshold=0)
    onnx.save(loaded, str(tmp_path / "model.onnx"))
    imported(spark, tmp_path / "model.onnx")
    table = spark.range(3).selectExpr("transform(sequence(1, 2100), i -> float(sin(i * id))) AS x")
    rows = table.select("x", dlsql.predict("m", "x").alias("y")).collect()
    for row in rows:
        np.testing.assert_allclose(row["y"], np.array(row["x"], np.float32) @ wide, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("large", [LARGE, 1], ids=["sent", "on disk"])
def test_torchscript_runs_in_torch(spark: SparkSession, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(inference, "LARGE", large)

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 2, 2)

        def forward(self, image: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = self.layer(image).flatten(1) * scale[:, None]
            return out, out.sum(1)

    torch.manual_seed(0)
    module = Two().eval()
    file = tmp_path / "model.pt"
    torch.jit.script(module).save(str(file))
    imported(
        spark, file, ", reshape = MAP('image', [1, 3, 3])", "INPUT (image ARRAY<FLOAT>, scale FLOAT) OUTPUT (out ARRAY<FLOAT>, total FLOAT)"
    )
    rows = spark.sql(
        "SELECT x, float(id) AS s, predict('m', x, float(id)) AS p FROM (SELECT id, transform(sequence(1, 9), i -> float(i * id)) AS x FROM range(5))"
    ).collect()
    for row in rows:
        with torch.no_grad():
            out, total = module(torch.tensor(row["x"]).view(1, 1, 3, 3), torch.tensor([row["s"]]))
        np.testing.assert_allclose(row["p"]["out"], out[0].numpy(), rtol=1e-5)
        np.testing.assert_allclose(row["p"]["total"], float(total), rtol=1e-4)


def test_a_published_detector_gives_what_the_engine_gives(spark: SparkSession, database: str) -> None:
    """MTCNN's second stage: images [24, 24, 3] to boxes and probabilities, any number of them."""
    file = model("mtcnn_rnet")
    imported(spark, file)
    images = np.random.default_rng(0).normal(size=(20, 24, 24, 3)).astype(np.float32)
    (taken,) = onnxruntime.InferenceSession(str(file)).get_inputs()
    wanted = direct(file, [{taken.name: one[None]} for one in images])
    names = [one.name for one in onnxruntime.InferenceSession(str(file)).get_outputs()]
    table = spark.createDataFrame([(i, one.ravel().tolist()) for i, one in enumerate(images)], "id int, x array<float>")
    for row in table.select("id", dlsql.predict("m", "x").alias("p")).collect():
        for name, array in zip(names, wanted[row["id"]], strict=True):
            np.testing.assert_allclose(row["p"][name], array[0], rtol=1e-3, atol=1e-5)


def test_a_published_speech_detector_takes_its_state_and_a_rate(spark: SparkSession, database: str) -> None:
    """Silero VAD: tensors that are not divided into rows."""
    file = model("silero_vad")
    imported(spark, file, ", reshape = MAP('input', [1, 576], 'state', [2, 1, 128])")
    sound = np.sin(np.arange(576) / 5).astype(np.float32)[None]
    answer, state = direct(file, [{"input": sound, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000)}])[0]
    table = spark.createDataFrame([(sound[0].tolist(), [0.0] * 256, 16000)], "input array<float>, state array<float>, sr bigint")
    (row,) = table.select(dlsql.predict("m", F.struct("*")).alias("p")).collect()
    np.testing.assert_allclose(row["p"]["output"], answer, rtol=1e-4)
    np.testing.assert_allclose(row["p"]["stateN"], state, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "clauses", "said"),
    [
        (", dropout = 0.1", "", "[DLSQL_UNKNOWN_OPTION] `dropout` is not an option of an import (model_path). It takes reshape, model_path, format, pad, lengths. SQLSTATE: 22023"),
        (", format = 'caffe3'", "", "[DLSQL_OPTION_VALUE] Option `format` is 'caffe3'; it takes one of onnx, torchscript."),
        (", format = 'torchscript'", "INPUT (x ARRAY<FLOAT>)", "it is no TorchScript file"),
        (", reshape = MAP('x', [3])", "", "[DLSQL_OPTION_VALUE] Option `reshape` is [3]; a row's `x` is float32 [4]. SQLSTATE: 22023"),
        (", reshape = MAP('xx', [4])", "", "[DLSQL_OPTION_VALUE] Option `reshape` is 'xx'; the model takes x. Did you mean"),
        (", pad = MAP('x', 0)", "", "[DLSQL_OPTION_VALUE] Option `pad` is 'x'; a row's `x` is float32 [4]; what has any number of rows in front can be padded."),
        ("", "INPUT (a FLOAT, b FLOAT)", "[DLSQL_SHAPE] INPUT names 2 columns; the model has 1: x. SQLSTATE: 42804"),
        ("", "INPUT (x FLOAT)", "[DLSQL_COLUMN_TYPE] Column `x` is FLOAT; the model takes float32 [4]: ARRAY<FLOAT> or BINARY. SQLSTATE: 42804"),
        ("", "OUTPUT (y FLOAT)", "[DLSQL_COLUMN_TYPE] Column `y` is FLOAT; the model gives ARRAY<FLOAT>. SQLSTATE: 42804"),
        ("", "TRANSFORM (a)", "[DLSQL_UNSUPPORTED] The clause TRANSFORM of a CREATE MODEL that imports is not supported yet."),
    ],
)  # fmt: skip
def test_an_import_that_does_not_fit_is_refused(
    spark: SparkSession, database: str, dense: Path, more: str, clauses: str, said: str
) -> None:
    with pytest.raises(AnalysisException) as refused:
        imported(spark, dense, more, clauses, "refused")
    assert said in str(refused.value)
    assert spark.sql(f"SHOW MODELS IN {database}").collect() == []


def test_what_is_no_model_is_refused(spark: SparkSession, database: str, dense: Path, tmp_path: Path) -> None:
    for name, content, said in (
        ("a.onnx", b"", "it is no ONNX file."),
        ("b.onnx", b"not a model", "it is no ONNX file."),
        ("c.bin", b"", "its name does not say what it is; add format = 'onnx' or 'torchscript'."),
        ("d.onnx", None, "[DLSQL_STORAGE] Could not read"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(AnalysisException) as refused:
            imported(spark, tmp_path / name, name="refused")
        assert said in str(refused.value)
    with pytest.raises(AnalysisException, match="the statement has a query, too"):
        spark.sql(f"CREATE MODEL m OPTIONS (model_path = '{dense}') AS SELECT 1 AS x")
    imported(spark, dense)
    with pytest.raises(AnalysisException, match="was imported, and answers with what its graph gives"):
        spark.sql("SELECT predict_proba('m', array(1F, 1F, 1F, 1F))")
    with pytest.raises(AnalysisException, match="ML_EVALUATE of an imported model"):
        spark.sql("SELECT * FROM ML_EVALUATE('m', TABLE(SELECT 1 AS y))")
    with pytest.raises(AnalysisException, match="takes ARRAY<FLOAT>; the argument is STRING"):
        spark.sql("SELECT predict('m', 'text')")
    with pytest.raises(AnalysisException, match="was imported; a network of ours starts from one of ours"):
        spark.sql("CREATE MODEL n OPTIONS (model_type = 'dnn_regressor', base_model = 'm') AS SELECT id AS x, id AS label FROM range(9)")
