"""A version of a model -> the worker's function that scores it, with its return type."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyspark import SparkContext
from pyspark.sql.types import DataType, StringType, StructType
from pyspark.sql.udf import UserDefinedFunction

from dlsql.bridge import scalar_arrow_udf
from dlsql.model import Signature
from udfs.predict import predict, predict_label
from udfs.spec import Scoring

SCORED = ("model.onnx", "preprocess.json")  # what of an artefact the workers need


def digest(artefact: Mapping[str, bytes]) -> str:
    """The SHA-256 of an artefact: of its files' names and contents, in the names' order."""
    total = hashlib.sha256()
    for name in sorted(artefact):
        total.update(f"{name}\0{len(artefact[name])}\0".encode())
        total.update(artefact[name])
    return total.hexdigest()


def share(context: SparkContext, artefact: Mapping[str, bytes]) -> Any:
    """The files that score, for every executor to fetch once, when it first needs them."""
    return context.broadcast({name: artefact[name] for name in SCORED})


def scoring_udf(
    context: SparkContext,
    bundle: Any,
    sha256: str,
    signature: Signature,
    *,
    engine: str = "onnx",
    masked: bool = False,
    strict: bool = True,
    whole: bool = True,
) -> UserDefinedFunction:
    """The worker's function: one column for each input of the model, a mask before them where `masked`.

    It gives the whole answer, of `Signature.raw_type`; where not `whole`, the answer of PREDICT, of `Signature.answer_type`.
    """
    threads = int(context.getConf().get("spark.task.cpus", "1") or 1)
    scoring = Scoring(sha256, bundle, engine, signature.task, threads, masked, strict)
    name = "predict" if strict else "try_predict"
    if whole or signature.task == "regression":
        return scalar_arrow_udf(partial(predict, scoring), _spark_type(signature.raw_type), name)
    return scalar_arrow_udf(partial(predict_label, scoring), _spark_type(signature.answer_type), name)


def _spark_type(text: str) -> DataType:
    parsed = DataType.fromDDL(f"value {text}")
    return parsed.fields[0].dataType if isinstance(parsed, StructType) else StringType()
