"""The language for DataFrames: a DataFrame in, a registered model out; a model's name in, a column of its answers out.

    dlsql.train(customers, "sales.churn", model_type="dnn_classifier", input_label_cols=["churned"])
    customers.select("*", dlsql.predict("sales.churn").alias("churns"))

All but `predict_udf` is SQL underneath, and so the same over Spark Connect, errors included: they come as Spark's AnalysisException,
with the text that SQL users see.
"""

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from numbers import Integral, Real
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.udf import UserDefinedFunction

from dlsql import code
from dlsql.errors import error
from dlsql.parser import render
from dlsql.session import attach, language
from dlsql.statements import CreateModel, HParamCandidates, HParamRange, Name, Options, Value
from dlsql.terms import parse_name


def train(
    df: DataFrame, name: str, *, replace: bool = False, if_not_exists: bool = False, comment: str | None = None, **options: Any
) -> Row:
    """Trains a model on the rows of a DataFrame and registers it: CREATE MODEL name ... AS df.

    Args:
        df: the label and the features; each column is one of them. Of a classic session or of Spark Connect.
        name: `model` or `namespace.model`, odd parts in backticks.
        replace: make the next version of a model that exists, and its default; else an existing name is an error.
        if_not_exists: leave a model that exists as it is, and give its default version.
        comment: stored with the version.
        options: those of CREATE MODEL, e.g. `model_type="dnn_regressor"`. Their values are booleans, numbers, strings, lists, tuples and
            dicts; None is as good as not given. In a classic session `module` also takes a function or class that makes a torch module or a
            Keras model, and `loss` a function of (outputs, labels).

    Returns:
        model, version, model_type, rows_trained, loss, metrics, seconds, uri of the version.

    Raises:
        StatementSyntaxError: `name` is not a name.
        TypeMismatchError: `name` is not even a string.
        OptionError: the value of an option cannot be written in SQL.
        AnalysisException: what CREATE MODEL refuses.
    """
    named = _named("train", name)
    view = f"__dlsql_{uuid.uuid4().hex}"
    query = f"SELECT /* trained from a DataFrame, which this view was */ * FROM {view}"
    with ExitStack() as objects:
        given = {option: _handed(df.sparkSession, option, value, objects) for option, value in options.items()}
        statement = CreateModel(named, as_options(given), query, replace=replace, if_not_exists=if_not_exists, comment=comment)
        # Spark drops what is cached of a view's plan when the view is dropped: the condition makes it another plan than the caller's.
        df.where("true").createOrReplaceTempView(view)
        try:
            # The view comes first: a session that does not know the language is cloned, with the views that it has.
            return _knowing(df.sparkSession).sql(render(statement)).collect()[0]
        finally:
            df.sparkSession.catalog.dropTempView(view)


def _handed(spark: SparkSession, option: str, value: Any, objects: ExitStack) -> Any:
    """The value of an option; for code, the text that stands for it while `objects` lasts."""
    if option.lower() not in _CODE or not callable(value):
        return value
    if not is_classic(spark):
        hint = f" Name it, where the server has it and allows it: {option}='package.module:function'."
        raise error("DLSQL_UNSUPPORTED", feature=f"A Python object as `{option}` over Spark Connect", hint=hint)
    return objects.enter_context(code.handed(option.lower(), value))


_CODE = ("module", "loss")  # options that take code


def as_options(options: Mapping[str, Any]) -> Options:
    """Options given in Python as a statement holds them.

    >>> as_options({"Hidden_Units": (8, 4), "dropout": None})
    (('hidden_units', [8, 4]),)
    """
    return tuple((name.lower(), _value(name, value)) for name, value in options.items() if value is not None)


def _value(option: str, value: Any) -> Value:
    match value:
        case None | bool() | str() | HParamRange() | HParamCandidates():
            return value
        case Integral():  # numpy's, too
            return int(value)
        case Real():
            return float(value)
        case list() | tuple():
            return [_value(option, item) for item in value]
        case dict():
            return {str(key): _value(option, item) for key, item in value.items()}
    expected = f"a {type(value).__name__} is none of the values that options take: booleans, numbers, strings, lists, tuples and dicts."
    raise error("DLSQL_OPTION_VALUE", option=option, value=repr(value)[:200], expected=expected)


def predict(model: str | Column, *features: str | Column) -> Column:
    """The answer of a model for each row: the label in its own type, a DOUBLE for a regression; of several labels a struct of these.
    PREDICT in SQL.

    Args:
        model: its name, `[namespace.]model[@vN | @alias]`. A Column is an expression that gives it.
        features: columns or their names: one struct, or one for each input of the model, matched by name where the model knows all of
            their names, else by place. None at all: the columns of the DataFrame, by name; those that the model does not know are ignored.
            In `groupBy` Spark does not take them so: add the prediction as a column first.
    """
    return _call("predict", model, features)


def predict_proba(model: str | Column, *features: str | Column) -> Column:
    """The probability of each class, MAP<label, DOUBLE>: PREDICT_PROBA in SQL. Arguments as for `predict`."""
    return _call("predict_proba", model, features)


def ml_predict(model: str | Column, *features: str | Column) -> Column:
    """Everything that a model says of a row, as a STRUCT: ML_PREDICT in SQL. Arguments as for `predict`.

    Of a classifier: label, probability, probabilities ARRAY<STRUCT<label, probability>>, the most probable first. Of a regressor: value.
    Of several labels: such a struct for each.
    """
    return _call("ml_predict", model, features)


def try_predict(model: str | Column, *features: str | Column) -> Column:
    """As `predict`, with NULL for a row that cannot be scored, such as an array of another length: TRY_PREDICT in SQL."""
    return _call("try_predict", model, features)


def _call(function: str, model: str | Column, features: tuple[str | Column, ...]) -> Column:
    named = F.lit(model) if isinstance(model, str) else model
    return F.call_function(function, named, *(features or (F.struct("*"),)))


def predict_udf(model: str, spark: SparkSession | None = None) -> UserDefinedFunction:
    """A version of a model as a function of its own, to be called on columns or registered under a name.

    `spark.udf.register("churn", predict_udf("sales.churn@v2"))` makes `SELECT churn(age, income) FROM customers` work in that session. The
    function keeps the version that it was made from.

    Args:
        model: its name, `[namespace.]model[@vN | @alias]`.
        spark: a classic session, which an unqualified name is looked up in; the active one by default.

    Returns:
        A function of one column for each input, in the model's order, that gives what `predict` gives. Numbers of other types than the
        model's are taken as they are, without Spark's checks.

    Raises:
        NotFoundError: no such model, version or alias.
        UnsupportedError: over Spark Connect, whose clients do not have the model's files; or the model has several labels.
    """
    spark = spark or _active()
    if not is_classic(spark):
        raise error("DLSQL_UNSUPPORTED", feature="predict_udf over Spark Connect", hint=" Use predict.")
    taught = language(spark)
    catalog = taught.catalog(spark)
    return taught.bindings.udf(catalog, catalog.find(catalog.qualified(_named("predict_udf", model))), whole=False)


def _named(function: str, name: object) -> Name:
    if not isinstance(name, str):
        raise error("DLSQL_ARGUMENTS", function=function, problem=f"takes a model's name, a string; got {name!r:.80}.")
    return parse_name(name)


def models(spark: SparkSession | None = None) -> DataFrame:
    """The models of the catalog, the default version of each: namespace, model, version, model_type, created_at, owner, comment.

    Args:
        spark: a classic session or one of Spark Connect; the active one by default.
    """
    return _knowing(spark or _active()).sql("SELECT * FROM ml_models()")


def is_classic(spark: SparkSession) -> bool:
    """Whether a session runs in this process; one of Spark Connect runs in a server, which knows the language or does not."""
    return isinstance(spark, SparkSession)


def _knowing(spark: SparkSession) -> SparkSession:
    return attach(spark) if is_classic(spark) else spark


def _active() -> SparkSession:
    spark = SparkSession.getActiveSession()
    if spark is None:
        raise error("DLSQL_ENVIRONMENT", problem="There is no Spark session. Start one with dlsql.session(), or hand over yours: spark=...")
    return spark
