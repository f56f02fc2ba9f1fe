"""Numbers of every type of Spark's as elements of every type of tensor: what the JVM packs is what the worker makes of columns."""

from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from onnx.helper import np_dtype_to_tensor_dtype
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dlsql.inference import arrow_type, spark_type
from tests.graphs import graph
from udfs.tensors import narrowed

TENSORS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
TINY = [0, 1, -1, 127, -128]
SMALL = [*TINY, 128, 255, 256, 32767, -32768]
INT = [*SMALL, 32768, 65504, 65519, 65520, -65520, 65536, 2049, 2**31 - 1, -(2**31)]
LONG = [*INT, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOAT = [0.5, 2.5, -0.9, 254.9, 255.0, 255.9, 256.0, 1e-8, 3e-8, 6.1e-5, 65519.9, -65520.0, 2.0**31, 2.0**32, 2.0**63, 2.0**64, 1e30, np.nan, np.inf, -np.inf]  # fmt: skip
DECIMAL = [Decimal(one) for one in ("0.00", "0.99", "-0.99", "255.99", "256.00", "-128.99", "9007199254740993.00", "18446744073709551615.99", "18446744073709551616", "-9223372036854775808.99", "-9223372036854775809.00", "99999999999999999999.00")]  # fmt: skip
NUMBERS: dict[str, list[Any]] = {
    "tinyint": TINY, "smallint": SMALL, "int": INT, "bigint": LONG, "float": FLOAT, "double": [*FLOAT, 1e300, -(2.0**63), 0.1], "decimal(22,2)": DECIMAL,
}  # fmt: skip


@pytest.mark.parametrize("form", ["value", "array"])
def test_each_number_becomes_each_tensors_element_or_does_not_fit(spark: SparkSession, database: str, tmp_path: Path, form: str) -> None:
    """A row holds a number in one tensor and zeros in the others. It is packed out of rows, and out of Parquet's columns."""
    pairs = list(product(TENSORS, NUMBERS))
    sizes = ["n"] if form == "value" else ["n", 3]
    kinds = [int(np_dtype_to_tensor_dtype(np.dtype(tensor))) for tensor, _ in pairs]
    file = graph(
        tmp_path, [("Identity", [f"x{i}"], [f"y{i}"]) for i in range(len(pairs))],
        [(f"x{i}", kind, sizes) for i, kind in enumerate(kinds)], [(f"y{i}", kind, sizes) for i, kind in enumerate(kinds)],
    )  # fmt: skip
    types = [number if form == "value" else f"array<{number}>" for _, number in pairs]
    taken = ", ".join(f"x{i} {type}" for i, type in enumerate(types))
    spark.sql(f"CREATE MODEL m INPUT ({taken}) OPTIONS (model_path = '{file}')").collect()

    def values(at: int) -> pa.Array:
        return pa.array(NUMBERS[pairs[at][1]], arrow_type(spark_type(pairs[at][1])))

    def cells(at: int) -> pa.Array:
        """A column: its own numbers where its rows are, else zeros."""
        counts = [len(NUMBERS[number]) for _, number in pairs]
        kind = values(at).type
        zeros = [pa.array([0] * count).cast(kind) for count in counts]
        column = pa.concat_arrays([*zeros[:at], values(at), *zeros[at + 1 :]])
        if form == "value":
            return column
        ones = pa.array([1] * len(column)).cast(kind)
        flat = pa.concat_arrays([ones, column, ones]).take(pa.array(np.arange(3 * len(column)).reshape(3, -1).T.ravel()))
        return pa.ListArray.from_arrays(pa.array(np.arange(0, 3 * len(column) + 1, 3, dtype=np.int32)), flat)

    table = pa.table({f"x{i}": cells(i) for i in range(len(pairs))})
    rows = spark.createDataFrame(table.append_column("row", pa.array(range(len(table)))))
    rows.write.parquet(f"{tmp_path}/rows")
    answer = F.expr(f"try_predict('m', {', '.join(f'x{i}' for i in range(len(pairs)))})").alias("y")
    for frame in (rows, spark.read.parquet(f"{tmp_path}/rows")):
        found = [row["y"] for row in frame.select("row", answer).orderBy("row").collect()]
        start = 0
        for at, (tensor, number) in enumerate(pairs):
            expected, outside = narrowed(values(at), np.dtype(tensor))
            for place, wanted in enumerate(expected):
                row = found[start + place]
                said = f"{NUMBERS[number][place]!r} ({number}) as {tensor}"
                assert (row is None) == (place in outside), said
                if row is not None:
                    got = row[f"y{at}"] if form == "value" else row[f"y{at}"][1]
                    np.testing.assert_equal(float(got) if tensor.startswith("f") else int(got), wanted.item(), said)
                    assert form == "value" or [int(row[f"y{at}"][i]) for i in (0, 2)] == [1, 1]
            start += len(expected)
