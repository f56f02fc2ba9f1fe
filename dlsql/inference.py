"""A version of a model -> the worker's function that scores it, with its return type."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from tempfile import NamedTemporaryFile

import pyarrow as pa
from pyspark import Broadcast, SparkContext
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import DataType, StringType, StructType
from pyspark.sql.udf import UserDefinedFunction

from dlsql.bridge import Files, scalar_arrow_udf, shared_file
from dlsql.errors import error
from dlsql.model import IMPORTED, Signature
from udfs.graphs import predict_graph, predict_output, predict_tensors
from udfs.predict import predict, predict_label, predict_rows
from udfs.score import predict_groups
from udfs.spec import LARGE, TENSORS, Bundle, Scoring, ValueScoring

GROUPS = "groups"  # the engine of a model with partition_cols

# What of an artefact the workers need, by engine; of a large graph its tensors, too.
FILES = {
    "onnx": ("model.onnx", "preprocess.json"),
    "onnxruntime": ("model.onnx", "graph.json"),  # imported
    "torch": ("model.pt", "graph.json"),  # imported
    GROUPS: ("groups.arrow",),
}


def digest(artefact: Mapping[str, bytes]) -> str:
    """The SHA-256 of an artefact: of its files' names and contents, in the names' order."""
    total = hashlib.sha256()
    for name in sorted(artefact):
        total.update(f"{name}\0{len(artefact[name])}\0".encode())
        total.update(artefact[name])
    return total.hexdigest()


def scored_files(files: Files, folder: str, engine: str = "onnx") -> dict[str, bytes]:
    """Those files of an artefact that the workers need."""
    return {name: files.read(f"{folder}/{name}") for name in _sizes(files, folder, engine)}


def _sizes(files: Files, folder: str, engine: str) -> dict[str, int]:
    there = files.sizes(folder)
    return {name: there.get(name, 0) for name in (*FILES[engine], *({TENSORS} & there.keys()))}


def bundle(context: SparkContext, files: Files, folder: str, engine: str) -> Bundle:
    """The files that score, of an artefact in the store. Large ones are mapped from there where that is a file system that all hosts may
    see, and else read from there by each executor.
    """
    sizes, here = _sizes(files, folder, engine), None
    large = [name for name, size in sizes.items() if _is_large(name, size)]
    small = context.broadcast({name: files.read(f"{folder}/{name}") for name in sizes if name not in large})
    if large and folder.startswith("file:"):
        here = "/" + folder.removeprefix("file:").lstrip("/")
        if str(context.master).startswith("local"):  # elsewhere hosts may not see it
            large = []
    shared = {name: _shared(context, f"{here or folder}/{name}", partial(files.read, f"{folder}/{name}")) for name in large}
    return Bundle(small, shared, here)


def share(context: SparkContext, files: Mapping[str, bytes]) -> Bundle:
    """The same of files in memory, for every executor to fetch once, when it first needs them."""
    large = {}
    for name, content in files.items():
        if _is_large(name, len(content)):
            with NamedTemporaryFile(dir=str(context._temp_dir), delete=False) as file:  # Spark removes that folder when it stops
                file.write(content)
            large[name] = _shared(context, file.name, partial(files.__getitem__, name))
    return Bundle(context.broadcast({name: content for name, content in files.items() if name not in large}), large)


def _is_large(name: str, size: int) -> bool:
    """Whether workers take a file from a disk. The others are never large: a graph that would be is parted, see `onnx.files`."""
    return name in (TENSORS, "model.pt", "groups.arrow") and size >= LARGE


def _shared(context: SparkContext, place: str, read: Callable[[], bytes]) -> "Broadcast[bytes]":
    """A file for workers: as it is; as its bytes where Spark keeps no plain files."""
    return context.broadcast(read()) if context._encryption_enabled else shared_file(context, place)


def scoring_udf(
    context: SparkContext,
    bundle: Bundle,
    sha256: str,
    signature: Signature,
    *,
    engine: str = "onnx",
    strict: bool = True,
    whole: bool = True,
) -> UserDefinedFunction:
    """The worker's function: one column for each input of the model.

    It gives the whole answer, of `Signature.raw_type`; where not `whole`, the answer of PREDICT, of `Signature.answer_type`.

    Raises:
        UnsupportedError: the model has several labels.
    """
    scoring = Scoring(sha256, bundle, engine, signature.task, _threads(context), strict)
    name = "predict" if strict else "try_predict"
    if signature.task == IMPORTED:
        alone = not whole and not signature.others
        function = partial(predict_output if alone else predict_graph, scoring)
        return scalar_arrow_udf(function, spark_type(signature.answer_type if alone else signature.raw_type), name)
    if signature.others:
        raise error(
            "DLSQL_UNSUPPORTED", feature="predict_udf of a model with several labels", hint=" Use dlsql.predict, or PREDICT in SQL."
        )
    if engine == GROUPS:
        inputs = tuple(field.name for field in signature.inputs)
        how = value_scoring(signature, inputs, whole=whole, strict=strict)
        return scalar_arrow_udf(
            partial(predict_groups, how, scoring), spark_type(signature.raw_type if whole else signature.answer_type), name
        )
    if whole or signature.task == "regression":
        return scalar_arrow_udf(partial(predict, scoring), spark_type(signature.raw_type), name)
    return scalar_arrow_udf(partial(predict_label, scoring), spark_type(signature.answer_type), name)


def packed_udf(context: SparkContext, bundle: Bundle, sha256: str, *, engine: str, strict: bool) -> UserDefinedFunction:
    """The worker's function over rows that the JVM packed, one or a block of them a value. It gives the network's outputs for these."""
    scoring = Scoring(sha256, bundle, engine, None, _threads(context), strict)
    function = predict_rows if engine == "onnx" else predict_tensors
    return scalar_arrow_udf(partial(function, scoring), spark_type("binary"), "predict" if strict else "try_predict")


def _threads(context: SparkContext) -> int:
    """The cores of a task, which a network runs on."""
    return int(context.getConf().get("spark.task.cpus", "1") or 1)


def value_scoring(signature: Signature, names: tuple[str, ...], *, whole: bool, strict: bool) -> ValueScoring:
    """How rows that name their own networks are scored, all of them of one signature."""
    answer = arrow_type(spark_type(signature.answer_type))
    return ValueScoring(names, answer, signature.task, whole and signature.task == "classification", strict)


def arrow_type(kind: DataType) -> pa.DataType:
    """The Arrow type that workers give values of a Spark type in."""
    return to_arrow_type(kind, timezone="UTC")


def spark_type(text: str) -> DataType:
    """A type as Spark writes it -> the type."""
    parsed = DataType.fromDDL(f"value {text}")
    return parsed.fields[0].dataType if isinstance(parsed, StructType) else StringType()
