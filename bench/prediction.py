"""What PREDICT costs beside the bare scan, ONNX Runtime alone, and Spark's own ways to run a network, on the same rows."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, LongType

import dlsql
from bench.tables import Row, compared, measured, scanned
from dlsql.session import language
from dlsql.terms import parse_name
from examples.datasets import path

CORES = 2
NUMBERS, COLUMNS = 1_000_000, 20
TIMES_OVER = 10  # that the census is predicted
IMAGES, PIXELS = 100_000, 784


def run(spark: SparkSession) -> list[Row]:
    """Numeric columns, from files and from memory; arrays; tensors; people with words and numbers."""
    spark = dlsql.attach(spark)
    with tempfile.TemporaryDirectory() as folder:
        spark.range(NUMBERS).selectExpr("id", *(f"randn({i}) AS c{i}" for i in range(COLUMNS))).write.parquet(f"{folder}/numbers")
        draws = F.transform(F.sequence(F.lit(1), F.lit(PIXELS)), lambda i: (F.randn(1) + i % 3).cast("float"))
        spark.range(IMAGES).select("id", draws.alias("x")).write.parquet(f"{folder}/images")
        return [*_numbers(spark, f"{folder}/numbers"), *_images(spark, f"{folder}/images"), _people(spark, f"{folder}/people")]


def _numbers(spark: SparkSession, folder: str) -> list[Row]:
    names = [f"c{i}" for i in range(COLUMNS)]
    rows = spark.read.parquet(folder)
    train(spark, rows, "numbers", f"{', '.join(names)}, c0 + c1 * c2 AS label", "dnn_regressor", "[64, 32]")
    graph = artefact(spark, "numbers")
    ours: Any = dlsql.predict("numbers", *names)
    ways: list[tuple[str, Callable[[DataFrame], DataFrame]]] = [
        ("dlsql", lambda frame: frame.select("id", ours)),
        ("bare scan", lambda frame: frame.select("id", *names)),
        ("predict_batch_udf", lambda frame: frame.select("id", batch_udf(graph)(*names))),
        ("predict_batch_udf of an array", lambda frame: frame.select("id", batch_udf(graph, COLUMNS)(F.array(*names)))),
        ("an Arrow UDF", lambda frame: frame.select("id", arrow_udf(graph)(*names))),
    ]
    found = []
    for what in ("parquet", "memory"):
        frame = rows if what == "parquet" else rows.cache()  # not before its turn: Spark would read the other from memory, too
        took = measured([(name, lambda way=way, frame=frame: scanned(way(frame))) for name, way in ways])
        for peer, goal in zip([name for name, _ in ways[1:]], ("0.6", "8", "", ""), strict=True):
            found.append(compared(f"1,000,000 x 20 columns, {what}, rows/s", NUMBERS, took, peer, goal))
    rows.unpersist()
    return found


def _images(spark: SparkSession, folder: str) -> list[Row]:
    rows = spark.read.parquet(folder)
    tensors = rows.select("id", F.udf(lambda x: np.array(x, "<f4").tobytes(), "binary")("x").alias("x"))
    tensors.write.parquet(f"{folder}-tensors")
    tensors = spark.read.parquet(f"{folder}-tensors")
    found = []
    for what, frame, more, goals in (
        ("array", rows, "", ("0.5", "2")),
        (
            "BINARY",
            tensors,
            f", module = 'mlp', module_args = MAP('hidden_units', [512, 256]), reshape = MAP('x', [{PIXELS}])",
            ("0.6", ""),
        ),
    ):
        kind = "dnn_classifier"
        train(spark, frame, "images", "x, id % 10 AS label", kind, "[512, 256]", more)
        graph = artefact(spark, "images")
        ways = [
            ("dlsql", lambda frame=frame: scanned(frame.select("id", dlsql.predict("images", "x")))),
            ("ONNX Runtime alone", lambda graph=graph: alone(graph)),
        ]
        if what == "array":
            ways.append(("bare scan", lambda frame=frame: scanned(frame)))
            ways.append(("predict_batch_udf", lambda graph=graph: scanned(rows.select("id", batch_udf(graph, PIXELS, 10)("x")))))
            imported(spark, "imported_images", graph, f"{folder}.onnx")
            ways.append(("imported", lambda frame=frame: scanned(frame.select("id", dlsql.predict("imported_images", "x")))))
        else:
            train(spark, frame, "small_images", "x, id % 10 AS label", kind, "[512, 256]", f"{more}, quantization = 'int8'")
            ways.append(("int8", lambda frame=frame: scanned(frame.select("id", dlsql.predict("small_images", "x")))))
        took = measured(ways)
        found.append(compared(f"100,000 x {what} of 784, rows/s", IMAGES, took, "ONNX Runtime alone", goals[0]))
        if what == "BINARY":
            took |= {"dlsql": took.pop("int8"), "dlsql in float32": took["dlsql"]}
            found.append(compared("  in int8, rows/s", IMAGES, took, "dlsql in float32", "1.7"))
            continue
        for peer, goal in (("bare scan", ""), ("predict_batch_udf", goals[1])):
            found.append(compared(f"100,000 x {what} of 784, rows/s", IMAGES, took, peer, goal))
        took = {**took, "dlsql": took["imported"]}
        for peer, goal in (("ONNX Runtime alone", ""), ("predict_batch_udf", goals[1])):
            found.append(compared("  by the same network, imported, rows/s", IMAGES, took, peer, goal))
    return found


def _people(spark: SparkSession, folder: str) -> Row:
    """The census, ten times over, against a pipeline of scikit-learn's with the same layers as MLflow runs it on Spark."""
    import mlflow.pyfunc
    import mlflow.sklearn
    from sklearn.compose import make_column_transformer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    people = spark.read.parquet(str(path("adult")))
    people.crossJoin(spark.range(TIMES_OVER)).drop("id").repartition(CORES).write.parquet(folder)
    features = [name for name in people.columns if name != "income"]
    options = {"model_type": "dnn_classifier", "hidden_units": [128, 64], "input_label_cols": ["income"], "max_iterations": 1}
    dlsql.train(people, "people", replace=True, **options)
    data = people.toPandas()
    words = [name for name in features if data[name].dtype == object]
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), words), (StandardScaler(), [name for name in features if name not in words])
    )
    fitted = make_pipeline(columns, MLPClassifier(hidden_layer_sizes=(128, 64), max_iter=1)).fit(data[features], data.income)
    mlflow.sklearn.save_model(fitted, f"{folder}-model", serialization_format="cloudpickle")
    by_mlflow = mlflow.pyfunc.spark_udf(spark, f"{folder}-model", result_type="string", env_manager="local")
    rows = spark.read.parquet(folder)
    ways = [
        ("dlsql", lambda: scanned(rows.select(dlsql.predict("people", *features)))),
        ("MLflow's spark_udf", lambda: scanned(rows.select(by_mlflow(F.struct(*features))))),
    ]
    return compared("census, words and numbers, rows/s", TIMES_OVER * len(data), measured(ways), ways[1][0], "3")


def train(spark: SparkSession, frame: DataFrame, model: str, columns: str, kind: str, hidden: str, more: str = "") -> None:
    """A network of a shape; what it learned does not matter here."""
    frame.limit(2000).createOrReplaceTempView("bench_rows")
    units = f", hidden_units = {hidden}" if "module" not in more else ""
    options = f"model_type = '{kind}', max_iterations = 1, max_steps = 1{units}{more}"
    spark.sql(f"CREATE OR REPLACE MODEL {model} OPTIONS ({options}) AS SELECT {columns} FROM bench_rows").collect()


def imported(spark: SparkSession, model: str, graph: bytes, file: str) -> None:
    """A graph as another tool's model, whose answer is what the graph gives."""
    Path(file).write_bytes(graph)
    spark.sql(f"CREATE OR REPLACE MODEL {model} OPTIONS (model_path = '{file}')").collect()


def artefact(spark: SparkSession, model: str) -> bytes:
    """A model's graph, which takes the numbers as `dense` [rows, n]."""
    catalog = language(spark).catalog(spark)
    version = catalog.find(catalog.qualified(parse_name(model)))
    return catalog.files.read(f"{version.uri}/model.onnx")


def _session(graph: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def batch_udf(graph: bytes, width: int | None = None, outputs: int = 1) -> Callable[..., Column]:
    """Spark's own function for networks, at the batch size that suits it: of columns, or of an array of a width."""

    def make() -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def predict(inputs: Any) -> Any:
            found = session.run(None, {name: inputs.astype("float32")})[0]
            return found[:, 0].astype("float64") if outputs == 1 else found.argmax(axis=1).astype("int64")

        if width is not None:
            return predict
        import numpy as np

        given = ", ".join(f"c{i}" for i in range(COLUMNS))  # it reads off the signature how many columns there are
        return eval(f"lambda {given}: predict(stack(({given}), axis=1))", {"predict": predict, "stack": np.stack})

    kind = DoubleType() if outputs == 1 else LongType()
    return predict_batch_udf(make, return_type=kind, batch_size=10_000, input_tensor_shapes=width and [[width]])


def arrow_udf(graph: bytes) -> Callable[..., Column]:
    """An Arrow function over the columns, by hand."""
    from pyspark.sql.functions import arrow_udf as spark_arrow_udf

    loaded: list[Any] = []

    def predict(*columns: pa.Array) -> pa.Array:
        import numpy as np
        import onnxruntime
        import pyarrow as pa

        if not loaded:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            loaded.append(onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]))
        dense = np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)
        return pa.array(loaded[0].run(None, {loaded[0].get_inputs()[0].name: dense})[0][:, 0].astype(np.float64))

    return spark_arrow_udf(predict, "double")


def alone(graph: bytes) -> float:
    """Seconds of ONNX Runtime on all cores, for as many images as the table has, from memory."""
    session = _session(graph, CORES)
    rows = np.random.default_rng(0).normal(size=(10_000, PIXELS)).astype(np.float32)
    name = session.get_inputs()[0].name
    began = time.perf_counter()
    for _ in range(IMAGES // len(rows)):
        session.run(None, {name: rows})
    return time.perf_counter() - began
