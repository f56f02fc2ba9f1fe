"""What is behind a stage's model: training columns to a network, in memory or in the catalog, and the network to a column."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pyspark import SparkContext
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame
from pyspark.sql.udf import UserDefinedFunction

from dlsql import frame as dataframes
from dlsql import inference, options
from dlsql.errors import did_you_mean, error
from dlsql.model import Field, Signature, kind_of
from dlsql.options import Settings
from dlsql.quoting import identifier
from dlsql.session import language
from dlsql.statements import Options
from dlsql.terms import parse_name
from udfs.spec import TENSORS, Preprocess


class Network:
    """What scores: the files of an artefact that the workers need, and what is known of the training."""

    def __init__(self, files: Mapping[str, bytes], metrics: Mapping[str, float], name: str | None) -> None:
        self.files = {one: files[one] for one in (*inference.FILES["onnx"], TENSORS) if one in files}
        self.metrics, self.name = dict(metrics), name  # name: namespace.model@vN, if it is registered
        self._made: tuple[SparkContext, UserDefinedFunction] | None = None

    @cached_property
    def learned(self) -> Preprocess:
        """What training learned of the columns."""
        return Preprocess.from_json(self.files["preprocess.json"].decode())

    @cached_property
    def signature(self) -> Signature:
        """What it takes and gives."""
        from dlsql import training  # brings torch, which takes two seconds

        return training.signature(self.learned)

    def udf(self, context: SparkContext) -> UserDefinedFunction:
        """The function that scores rows, made once for a Spark application."""
        if self._made is None or self._made[0] is not context:
            bundle = inference.share(context, self.files)
            self._made = context, inference.scoring_udf(context, bundle, inference.digest(self.files), self.signature)
        return self._made[1]

    def answer(self, dataset: DataFrame, features: list[str], stage: str) -> Column:
        """The whole answer for each row, of `Signature.raw_type`.

        Raises:
            TypeMismatchError: another number of features than in training, or one of the wrong type.
            NotFoundError: a column is missing.
        """
        inputs = self.signature.inputs
        if len(features) != len(inputs):
            problem = f"got {len(features)} features columns, {', '.join(features)}; {stage} takes {len(inputs)}."
            raise error("DLSQL_ARGUMENTS", function="transform", problem=problem)
        fed = [_fed(dataset, name, wanted, stage) for name, wanted in zip(features, inputs, strict=True)]
        return self.udf(dataset.sparkSession.sparkContext)(*fed)


def check_classic(dataset: DataFrame, stage: str) -> None:
    """Raises UnsupportedError for a DataFrame of Spark Connect: the driver that trains and scores is another process."""
    if not dataframes.is_classic(dataset.sparkSession):
        raise error("DLSQL_UNSUPPORTED", feature=f"{stage} over Spark Connect", hint=" Use dlsql.train and dlsql.predict.")


def selected(dataset: DataFrame, features: list[str], settings: Settings) -> DataFrame:
    """The columns to train on: every other one would be a feature.

    Raises:
        NotFoundError: a column is missing.
    """
    others = [("label", settings.label), ("weight", settings.instance_weight_col), ("split", settings.data_split_col)]
    wanted = [("features", name) for name in features] + [(role, name) for role, name in others if name]
    return dataset.select(*dict.fromkeys(identifier(_found(dataset, role, name)) for role, name in wanted))


def _found(dataset: DataFrame, role: str, name: str) -> str:
    """A column's name as the DataFrame has it."""
    for one in dataset.columns:
        if one.casefold() == name.casefold():
            return one
    shown = ", ".join(dataset.columns[:20])
    hint = did_you_mean(name, dataset.columns)
    raise error("DLSQL_COLUMN_NOT_FOUND", role=f"The {role} column", column=name, columns=shown, hint=hint)


def _fed(dataset: DataFrame, name: str, wanted: Field, stage: str) -> Column:
    """A features column as the model takes it."""
    there = _found(dataset, "features", name)
    column, found = dataset[identifier(there)], dataset.schema[there].dataType
    type = "array<double>" if isinstance(found, VectorUDT) else found.simpleString()
    if isinstance(found, VectorUDT):
        column = vector_to_array(column)
    if type == wanted.type:
        return column
    if kind_of(type) != kind_of(wanted.type) or "boolean" in (type, wanted.type):
        raise error("DLSQL_FEATURE_TYPE", name=stage, feature=name, expected=wanted.type.upper(), found=type.upper())
    return column.cast(wanted.type)


def trained(frame: DataFrame, stage: str, given: Options) -> Network:
    """Trains in memory: no catalog, no checkpoints, nothing in the model store."""
    from dlsql import training  # brings torch, which takes two seconds
    from dlsql.progress import bar

    settings = options.read(given)
    for option in ("warm_start", "base_model"):
        if getattr(settings, option):
            expected = "it goes on from a registered model; set modelName, so that this one is registered, too."
            raise error("DLSQL_OPTION_VALUE", option=option, value=repr(getattr(settings, option)), expected=expected)
    bridge = language(frame.sparkSession).bridge
    with bar(f"train {stage}", settings.max_iterations) as shown:
        done = training.train(frame, training.Job(bridge, stage, None, settings, None, None, str, shown))
    return Network(done.files, done.metrics, None)


def registered(frame: DataFrame, name: str, given: Options) -> Network:
    """Trains as CREATE OR REPLACE MODEL."""
    arguments: dict[str, Any] = dict(given)
    row = dataframes.train(frame, name, replace=True, **arguments)
    catalog = language(frame.sparkSession).catalog(frame.sparkSession)
    version = catalog.find(catalog.qualified(parse_name(f"{row['model']}@v{row['version']}")))
    return Network(inference.scored_files(catalog.files, version.uri), version.metrics, str(version.name))
