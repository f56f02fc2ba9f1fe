"""Networks of any size, to import: what is measured is how they are kept and loaded, not what they answer."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from pyspark.sql import SparkSession

WEIGHTS = 5000


def imported(spark: SparkSession, folder: str, rows: int) -> str:
    """A model of 5,000 weights for each of so many rows, which takes four numbers; its file is `{name}.onnx`."""
    name, random = f"weights_{rows}", np.random.default_rng(0)
    tensors = {"narrow": (4, WEIGHTS), "wide": (WEIGHTS, rows)}
    nodes = [("MatMul", ["x", "narrow"], ["h"]), ("MatMul", ["h", "wide"], ["w"]), ("ReduceMax", ["w"], ["y"])]
    graph = helper.make_graph(
        [helper.make_node(*one, **({"axes": [1], "keepdims": 0} if one[0] == "ReduceMax" else {})) for one in nodes],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(random.normal(size=size).astype(np.float32), key) for key, size in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    Path(folder, f"{name}.onnx").write_bytes(model.SerializeToString())
    spark.sql(f"CREATE OR REPLACE MODEL {name} OPTIONS (model_path = '{folder}/{name}.onnx')").collect()
    return name
