"""Functions at analysis: which model a call names, how its arguments feed it, and what Spark is to run in its place."""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.udf import UserDefinedFunction

from dlsql import encoding, inference
from dlsql.bridge import Bridge
from dlsql.catalog import Catalog
from dlsql.errors import did_you_mean, error, listed
from dlsql.model import IMPORTED, Argument, Field, Signature, Version, alike, match
from dlsql.quoting import identifier, literal
from dlsql.terms import parse_name
from udfs.rows import row_type
from udfs.spec import Graph, Preprocess

# function -> (what it shows of the answer for a classification and for several labels, for a regression, whether a row that cannot be
# scored fails)
ANSWERS: dict[str, tuple[str, str, bool]] = {
    "predict": ("label", "whole", True),
    "predict_proba": ("map", "", True),
    "ml_predict": ("whole", "value", True),
    "try_predict": ("label", "whole", False),
}
SCALARS = tuple(ANSWERS)


@dataclass(frozen=True, slots=True)
class Packed:
    """How a version scores rows that the JVM packs."""

    udf: UserDefinedFunction
    encoder: Any  # of the JVM
    answers: Any  # of the JVM


class Bindings:
    """The workers' functions of one Spark application: made once for a version, so that equal calls in a query are the same call."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._bundles: dict[str, Any] = {}
        self._udfs: dict[Any, UserDefinedFunction] = {}
        self._packed: dict[Any, Packed | None] = {}

    def udf(self, catalog: Catalog, version: Version, *, strict: bool = True, whole: bool = True) -> UserDefinedFunction:
        """The function that scores rows with a version, see `inference.scoring_udf`."""
        key = (version.uri, strict, whole)
        if key not in self._udfs:
            context: SparkContext = self._bridge.context
            bundle = self._bundle(catalog, version)
            self._udfs[key] = inference.scoring_udf(
                context, bundle, version.sha256, version.signature, engine=version.engine, strict=strict, whole=whole
            )
        return self._udfs[key]

    def packed(self, catalog: Catalog, version: Version, *, strict: bool) -> Packed | None:
        """The function that scores packed rows with a version, and what packs them and reads its outputs; None if they are not."""
        key = (version.uri, strict)
        if key not in self._packed:
            self._packed[key] = self._pack(catalog, version, strict)
        return self._packed[key]

    def _pack(self, catalog: Catalog, version: Version, strict: bool) -> Packed | None:
        if version.engine == inference.GROUPS:
            return None
        if version.task == IMPORTED:
            graph = Graph.from_json(catalog.files.read(f"{version.uri}/graph.json").decode())
            if not graph.is_even:
                return None
            encoder = encoding.tensors_in(graph, strict=strict)
            answers = self._bridge.tensors(encoding.tensors_out(graph, strict=strict))
        else:
            learned = _learned(catalog, version)
            encoder = encoding.told(learned, row_type(learned), strict=strict, alone=True)
            answers = self._bridge.labels(encoding.labels(learned))
        bundle = self._bundle(catalog, version)
        udf = inference.packed_udf(self._bridge.context, bundle, version.sha256, engine=version.engine, strict=strict)
        return Packed(udf, self._bridge.encoder(encoder), answers)

    def _bundle(self, catalog: Catalog, version: Version) -> Any:
        if version.uri not in self._bundles:
            self._bundles[version.uri] = inference.bundle(self._bridge.context, catalog.files, version.uri, version.engine)
        return self._bundles[version.uri]

    def once(self, key: Hashable, make: Callable[[], UserDefinedFunction]) -> UserDefinedFunction:
        """The function of this key, made if it was not made before."""
        if key not in self._udfs:
            self._udfs[key] = make()
        return self._udfs[key]


def bind(bindings: Bindings, bridge: Bridge, catalog: Catalog, question: Mapping[str, Any]) -> Any:
    """PREDICT(model, features...) -> the worker's function and a plan that says which argument feeds which input, and cast to what.

    Raises:
        NotFoundError: no such model, version or alias; a feature is missing.
        TypeMismatchError: the arguments have the wrong number or types.
    """
    function = str(question["function"])
    version = _model(catalog, function, question["model"])
    signature = version.signature
    several = len(signature.labels) > 1
    if signature.task == IMPORTED:
        part = "" if function == "predict_proba" else "label" if function != "ml_predict" and not several else "whole"
    else:
        part = str(ANSWERS[function][1 if signature.task == "regression" and not several else 0])
    if part == "map" and several:
        one = next((one.name for one in signature.labels if signature.task_of(one) == "classification"), None)
        hint = "" if one is None else f": ML_PREDICT(...).{identifier(one)}.probabilities"
        names = ", ".join(one.name for one in signature.labels)
        problem = (
            f"gives the probabilities of one label; `{version.full_name}` answers with a struct of several: {names}. Use ML_PREDICT{hint}."
        )
        raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)
    if not part:
        is_model = (
            "was imported, and answers with what its graph gives"
            if signature.task == IMPORTED
            else (f"is a {version.model_type}, whose answer is a number")
        )
        problem = f"gives the probabilities of classes; `{version.full_name}` {is_model}. Use PREDICT."
        raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)
    arguments = tuple(Argument(one["name"], one["type"]) for one in question["arguments"])
    if not question["struct"]:  # whose fields have names of their own
        _check_named(version, function, arguments, question["named"])
    places = match(version, function.upper(), arguments, by_name=question["struct"] or any(question["named"]))
    inputs = [
        {"place": place, "cast": cast(arguments[place].type, wanted.type)} for place, wanted in zip(places, signature.inputs, strict=True)
    ]
    strict, told = ANSWERS[function][2], f"{version.name}, {version.engine}"
    plan = {"strict": strict, "inputs": inputs, "answer": part, "type": signature.raw_type, "packed": False, "told": told}
    packed = bindings.packed(catalog, version, strict=strict)
    if packed is not None:
        shown, kind = _shown(signature, part)
        plan |= {"answer": shown, "type": kind, "packed": True}
    _check_follows(question, plan, version)
    if packed is None:
        return bridge.bound(bindings.udf(catalog, version, strict=strict), plan)
    return bridge.bound(packed.udf, plan, packed.encoder, packed.answers)


def _check_follows(question: Mapping[str, Any], plan: Mapping[str, Any], version: Version) -> None:
    """Refuses a version that takes other columns than the one that a stream began with, or answers another type."""
    followed = question.get("followed")
    if followed is not None and followed != {one: plan[one] for one in followed}:
        problem = (
            f"in a stream that follows `{question['model']}` has come to `{version.name}`, which takes other columns than the "
            f"version before it or answers another type. Start the stream anew."
        )
        raise error("DLSQL_ARGUMENTS", function=str(question["function"]).upper(), problem=problem)


def _shown(signature: Signature, part: str) -> tuple[str, str]:
    """What the JVM's Answers are asked for, and its Spark type."""
    label = signature.answer_type
    if signature.task == "regression" and not signature.others:
        return {"whole": ("label", label), "value": ("whole", "struct<value:double>")}[part]
    return part, {"label": label, "map": f"map<{label},double>", "whole": signature.raw_type}[part]


def _check_named(version: Version, function: str, arguments: tuple[Argument, ...], named: list[str | None]) -> None:
    """Where an argument is written as name => value, all are meant by name, and the model must know each name."""
    if not any(named):
        return
    known = {one.name.casefold(): one.name for one in version.signature.inputs}
    names = [*filter(None, named[:1]), *(one.name for one in arguments)]
    strange = [name for name in names if name is None or name.casefold() not in known]
    if strange:
        got = "an argument without a name beside named ones" if strange[0] is None else f"an argument named `{strange[0]}`"
        hint = did_you_mean(strange[0] or "", known.values())
        takes = f"`{version.full_name}` takes {', '.join(known.values())}.{hint}"
        raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=f"got {got}; {takes}")


def _model(catalog: Catalog, function: str, name: Any) -> Version:
    if not isinstance(name, str):
        raise error(
            "DLSQL_ARGUMENTS", function=function.upper(), problem="takes the model's name, a constant string, as its first argument."
        )
    return catalog.find(catalog.qualified(parse_name(name)))


def _learned(catalog: Catalog, version: Version) -> Preprocess:
    return Preprocess.from_json(catalog.files.read(f"{version.uri}/preprocess.json").decode())


def cast(found: str, wanted: str) -> str | None:
    """What an argument of one type is cast to before it enters a model that takes another; None for nothing."""
    if found == "vector":
        return "vector"
    return None if found == wanted else wanted


# Table functions: a query over a stand-in relation that the bridge replaces with the TABLE argument, or rows of the catalog.

_INPUT = "__dlsql_input"
_Tables = list[tuple[Argument, ...]]  # the columns of each TABLE argument


def table(bridge: Bridge, spark: SparkSession, catalog: Catalog, question: Mapping[str, Any]) -> Any:
    """A table function of the language -> the plan that takes its place."""
    function, constants = str(question["function"]), list(question["constants"])
    if question["named"]:
        problem = f"takes its arguments by place; `{question['named'][0]} =>` is not needed."
        raise error("DLSQL_ARGUMENTS", function=function.upper(), problem=problem)
    tables = [tuple(Argument(one["name"], one["type"]) for one in columns) for columns in question["tables"]]
    answer = _TABLES[function](spark, catalog, constants, tables)
    return bridge.query(answer, _INPUT) if isinstance(answer, str) else bridge.dataset(answer)


def _no_more(function: str, constants: list[Any], tables: _Tables, most: tuple[int, int], form: str) -> None:
    if len(constants) not in range(1 if most[0] else 0, most[0] + 1) or len(tables) > most[1]:
        raise error("DLSQL_ARGUMENTS", function=function, problem=f"is called as {form}.")


def _ml_predict(spark: SparkSession, catalog: Catalog, constants: list[Any], tables: _Tables) -> str:
    form = "ML_PREDICT('model', TABLE(query) [, map(...)])"
    _no_more("ML_PREDICT", constants, tables, (2, 1), form)
    if not tables:
        raise error("DLSQL_ARGUMENTS", function="ML_PREDICT", problem=f"in FROM needs its rows: {form}.")
    version = _model(catalog, "ML_PREDICT", constants[0])
    options = _settings(constants[1]) if len(constants) > 1 else {}
    features = _features(options["features"]) if "features" in options else None
    fed = "struct(*)" if features is None else ", ".join(identifier(one) for one in features)
    answer, whole = f"predict({_pinned(version)}, {fed})", f"ml_predict({_pinned(version)}, {fed})"
    if version.signature.others:
        if "threshold" in options:
            expected = f"it is for models of one label, and `{version.full_name}` has {len(version.signature.labels)}."
            raise error("DLSQL_OPTION_VALUE", option="threshold", value=options["threshold"], expected=expected)
        return f"SELECT *, {', '.join(_predicted(version.signature, answer, whole))} FROM {_INPUT}"
    label = version.signature.label.name
    probabilities = f"{whole}.probabilities"
    if "threshold" in options:
        threshold = _threshold(catalog, version, options["threshold"])
        positive, negative = f"array_max({probabilities})", f"array_min({probabilities})"  # by label: the classes are in ascending order
        answer = f"if({positive}.probability > {threshold!r}D, {positive}.label, {negative}.label)"
    columns = f"*, {answer} AS {identifier('predicted_' + label)}"
    if version.task == "classification":
        columns += f", {probabilities} AS {identifier(f'predicted_{label}_probs')}"
    return f"SELECT {columns} FROM {_INPUT}"


def _predicted(signature: Signature, answer: str, whole: str) -> Iterator[str]:
    """The columns of a model with several labels."""
    for one in signature.labels:
        yield f"{answer}.{identifier(one.name)} AS {identifier('predicted_' + one.name)}"
        if signature.task_of(one) == "classification":
            yield f"{whole}.{identifier(one.name)}.probabilities AS {identifier(f'predicted_{one.name}_probs')}"


_SETTINGS = ("features", "threshold")


def _settings(given: Any) -> dict[str, str | None]:
    """The third argument of ML_PREDICT."""
    if not isinstance(given, dict | None):
        problem = f"got {given} as its settings; they are a map, e.g. map('threshold', 0.3)."
        raise error("DLSQL_ARGUMENTS", function="ML_PREDICT", problem=problem)
    settings = {str(name).lower(): value for name, value in (given or {}).items()}
    strange = next((name for name in settings if name not in _SETTINGS), None)
    if strange is not None:
        hint = did_you_mean(strange, _SETTINGS) or f" It takes {' and '.join(_SETTINGS)}."
        raise error("DLSQL_UNKNOWN_OPTION", option=strange, where="ML_PREDICT", hint=hint)
    return settings


def _features(given: str | None) -> list[str]:
    try:
        names = json.loads(given or "")
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        expected = """it takes column names as a JSON array, e.g. '["age", "income"]'."""
        raise error("DLSQL_OPTION_VALUE", option="features", value=repr(given), expected=expected)
    return names


def _threshold(catalog: Catalog, version: Version, given: str | None) -> float:
    """The probability above which the second of two classes is the answer, as BigQuery ML means it."""
    classes = None
    if version.task == "classification":
        classes = _learned(catalog, version).label.classes
    if classes is None or len(classes) != 2:
        has = f"has {len(classes)}" if classes is not None else "was imported" if version.task == IMPORTED else "is a regressor"
        expected = f"it is for classifiers of two classes, and `{version.full_name}` {has}."
        raise error("DLSQL_OPTION_VALUE", option="threshold", value=given, expected=expected)
    try:
        threshold = float(given or "")
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise error("DLSQL_OPTION_VALUE", option="threshold", value=given, expected="it takes a number from 0 to 1.")
    return threshold


def _pinned(version: Version) -> str:
    """The version's name as a literal: a query keeps the version that it was analysed with."""
    return literal(f"{identifier(version.namespace)}.{identifier(version.model)}@v{version.version}")


# For every row and class: was it the label, was it the guess, how probable. Grouped by the probability to six digits, so that the rank
# sum behind the area under the ROC curve (Mann-Whitney U) runs over at most a million groups a class, however long the table.
# A label that training never saw is a class that is never guessed, with a probability of 0: its rows are wrong answers.
_EVALUATE_CLASSES = """
SELECT sum(tp) / sum(actual) AS accuracy,
  avg(if(actual > 0, if(guessed > 0, tp / guessed, 0), NULL)) AS precision,
  avg(if(actual > 0, tp / actual, NULL)) AS recall,
  avg(if(actual > 0, 2 * tp / (guessed + actual), NULL)) AS f1_score,
  sum(log_loss) / sum(actual) AS log_loss,
  avg(if(actual > 0 AND others > 0, pairs / (actual * others), NULL)) AS roc_auc
FROM (
  SELECT class, sum(tp) * 1D AS tp, sum(guessed) * 1D AS guessed, sum(actual) * 1D AS actual, sum(others) * 1D AS others,
    sum(log_loss) AS log_loss, sum(others * (above - actual / 2D)) AS pairs
  FROM (
    SELECT *, sum(actual) OVER (PARTITION BY class ORDER BY score DESC) AS above
    FROM (
      SELECT one.label AS class, round(one.probability, 6) AS score, count_if(one.label = truth AND one.label = guess) AS tp,
        count_if(one.label = guess) AS guessed, count_if(one.label = truth) AS actual, count_if(one.label <> truth) AS others,
        sum(if(one.label = truth, -ln(greatest(one.probability, 1e-15D)), 0D)) AS log_loss
      FROM (
        SELECT truth, answer.label AS guess, explode(
          if(exists(answer.probabilities, known -> known.label = truth), answer.probabilities,
             concat(answer.probabilities, array(named_struct('label', truth, 'probability', 0D))))) AS one
        FROM (SELECT {label} AS truth, ml_predict({model}, struct(*)){field} AS answer FROM {input} WHERE {label} IS NOT NULL)
      ) GROUP BY ALL
    )
  ) GROUP BY class
)"""

# What is measured against the spread of the label has no value where all labels are the same.
_EVALUATE_VALUES = """
SELECT avg(abs(error)) AS mean_absolute_error, avg(error * error) AS mean_squared_error,
  sqrt(avg(error * error)) AS root_mean_squared_error,
  1 - avg(error * error) / nullif(var_pop(truth), 0) AS r2_score, 1 - var_pop(error) / nullif(var_pop(truth), 0) AS explained_variance
FROM (
  SELECT if(answer IS NULL, NULL, truth) AS truth, truth - answer AS error
  FROM (SELECT CAST({label} AS DOUBLE) AS truth, predict({model}, struct(*)){field} AS answer FROM {input} WHERE {label} IS NOT NULL)
)"""

_METRICS = {
    "classification": ("accuracy", "precision", "recall", "f1_score", "log_loss", "roc_auc"),
    "regression": ("mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "r2_score", "explained_variance"),
}


def _ml_evaluate(spark: SparkSession, catalog: Catalog, constants: list[Any], tables: _Tables) -> str | DataFrame:
    _no_more("ML_EVALUATE", constants, tables, (1, 1), "ML_EVALUATE('model' [, TABLE(query)])")
    version = _model(catalog, "ML_EVALUATE", constants[0])
    signature = version.signature
    if signature.task == IMPORTED:
        hint = " Compare PREDICT with the label in SQL."
        raise error("DLSQL_UNSUPPORTED", feature=f"ML_EVALUATE of an imported model, `{version.full_name}`,", hint=hint)
    named = {
        one.name: [f"{one.name}_{name}" if signature.others else name for name in _METRICS[signature.task_of(one)]]
        for one in signature.labels
    }
    if not tables:  # what was measured on the rows held out in training
        columns = pa.schema([(name, pa.float64()) for names in named.values() for name in names])
        return local(spark, columns, [{name: version.metrics.get(name) for name in columns.names}])
    queries = []
    for one in signature.labels:
        _check_label(version, one, tables[0])
        query = _EVALUATE_CLASSES if signature.task_of(one) == "classification" else _EVALUATE_VALUES
        field = f".{identifier(one.name)}" if signature.others else ""
        queries.append(query.format(label=identifier(one.name), model=_pinned(version), input=_INPUT, field=field))
    if not signature.others:
        return queries[0]
    parts = (
        f"({query}) AS part_{place}({', '.join(map(identifier, names))})"
        for place, (query, names) in enumerate(zip(queries, named.values(), strict=True))
    )
    return f"SELECT * FROM {' CROSS JOIN '.join(parts)}"


def _check_label(version: Version, label: Field, columns: tuple[Argument, ...]) -> None:
    """Raises NotFoundError where a table lacks a label, TypeMismatchError where it cannot be compared with the answers."""
    names = [str(column.name) for column in columns]
    found = next((column for column in columns if str(column.name).casefold() == label.name.casefold()), None)
    if found is None:
        role = f"The label of model `{version.full_name}`"
        hint = did_you_mean(label.name, names)
        raise error("DLSQL_COLUMN_NOT_FOUND", role=role, column=label.name, columns=listed(names), hint=hint)
    if not alike(found.type, label.type):
        expected = f"it is compared with the answers of model `{version.full_name}`, which are {label.type.upper()}. Cast it."
        raise error("DLSQL_COLUMN_TYPE", column=found.name, found=found.type.upper(), expected=expected)


_TRAINING_INFO = pa.schema([
    ("version", pa.int32()), ("round", pa.int32()), ("epoch", pa.int32()), ("rows", pa.int64()), ("train_loss", pa.float64()),
    ("eval_loss", pa.float64()), ("metrics", pa.map_(pa.string(), pa.float64())), ("learning_rate", pa.float64()),
    ("seconds", pa.float64()), ("rows_per_second", pa.float64()), ("at", pa.timestamp("us", "UTC")),
    ("group", pa.string()), ("note", pa.string()),
])  # fmt: skip


def _ml_training_info(spark: SparkSession, catalog: Catalog, constants: list[Any], tables: _Tables) -> DataFrame:
    _no_more("ML_TRAINING_INFO", constants, tables, (1, 0), "ML_TRAINING_INFO('model')")
    if not isinstance(constants[0], str):
        raise error("DLSQL_ARGUMENTS", function="ML_TRAINING_INFO", problem="takes the model's name, a constant string.")
    name = catalog.qualified(parse_name(constants[0]))
    name = name if name.alias is None else catalog.find(name).name
    names = _TRAINING_INFO.names[1:]
    rows = [{"version": number, **{k: getattr(one, k) for k in names}} for number, rounds in catalog.rounds(name) for one in rounds]
    return local(spark, _TRAINING_INFO, rows)


MODEL_ROW = pa.schema([
    ("namespace", pa.string()), ("model", pa.string()), ("version", pa.int32()), ("model_type", pa.string()),
    ("created_at", pa.timestamp("us", "UTC")), ("owner", pa.string()), ("comment", pa.string()),
])  # fmt: skip
VERSION_ROW = pa.schema([
    ("version", pa.int32()), ("is_default", pa.bool_()), ("aliases", pa.list_(pa.string())), ("status", pa.string()),
    ("model_type", pa.string()), ("rows_trained", pa.int64()), ("loss", pa.float64()), ("metrics", pa.map_(pa.string(), pa.float64())),
    ("created_at", pa.timestamp("us", "UTC")), ("owner", pa.string()), ("comment", pa.string()), ("uri", pa.string()),
])  # fmt: skip


def model_rows(versions: list[Version]) -> list[dict[str, Any]]:
    """Rows of SHOW MODELS and ML_MODELS()."""
    return [{name: getattr(version, name) for name in MODEL_ROW.names} for version in versions]


def version_rows(catalog: Catalog, name: Any) -> list[dict[str, Any]]:
    """Rows of SHOW VERSIONS and ML_MODEL_VERSIONS('m')."""
    aliases, default = catalog.aliases(name), catalog.find(name).version
    own = [one for one in VERSION_ROW.names if one not in ("is_default", "aliases")]

    def row(version: Version) -> dict[str, Any]:
        named = sorted(alias for alias, target in aliases.items() if target == version.version and alias != "default")
        return {"is_default": version.version == default, "aliases": named, **{one: getattr(version, one) for one in own}}

    return [row(version) for version in catalog.versions(name)]


def _ml_models(spark: SparkSession, catalog: Catalog, constants: list[Any], tables: _Tables) -> DataFrame:
    _no_more("ML_MODELS", constants, tables, (0, 0), "ML_MODELS()")
    return local(spark, MODEL_ROW, model_rows(catalog.models()))


def _ml_model_versions(spark: SparkSession, catalog: Catalog, constants: list[Any], tables: _Tables) -> DataFrame:
    _no_more("ML_MODEL_VERSIONS", constants, tables, (1, 0), "ML_MODEL_VERSIONS('model')")
    version = _model(catalog, "ML_MODEL_VERSIONS", constants[0])
    return local(
        spark,
        VERSION_ROW,
        version_rows(catalog, catalog.qualified(parse_name(f"{identifier(version.namespace)}.{identifier(version.model)}"))),
    )


def _unsupported(name: str) -> Callable[..., Any]:
    def refuse(spark: SparkSession, catalog: Catalog, constants: list[Any], tables: _Tables) -> Any:
        raise error("DLSQL_UNSUPPORTED", feature=f"The table function {name.upper()}")

    return refuse


_LATER = (
    "ml_confusion_matrix",
    "ml_roc_curve",
    "ml_trial_info",
    "ml_feature_info",
    "ml_weights",
    "ml_global_explain",
    "ml_explain_predict",
)
_TABLES: dict[str, Callable[[SparkSession, Catalog, list[Any], _Tables], str | DataFrame]] = {
    "ml_predict": _ml_predict,
    "ml_evaluate": _ml_evaluate,
    "ml_training_info": _ml_training_info,
    "ml_models": _ml_models,
    "ml_model_versions": _ml_model_versions,
    **{name: _unsupported(name) for name in _LATER},
}
TABLES = tuple(_TABLES)


def local(spark: SparkSession, schema: pa.Schema, rows: list[dict[str, Any]]) -> DataFrame:
    """Rows of the driver as a DataFrame, without a Spark job."""
    columns = {
        field.name: [list(row[field.name].items()) if pa.types.is_map(field.type) else row[field.name] for row in rows] for field in schema
    }
    return spark.createDataFrame(pa.table(columns, schema=schema))
