"""SHOW and DESCRIBE."""

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from dlsql.catalog import DEFAULT
from dlsql.commands.client import Client
from dlsql.functions import MODEL_ROW, VERSION_ROW, local, model_rows, version_rows
from dlsql.parser import parse, render
from dlsql.statements import CreateModel, DescribeModel, Name, ShowCreateModel, ShowModels, ShowTrainings, ShowVersions
from dlsql.training.running import Running, running


def show_models(client: Client, statement: ShowModels) -> DataFrame:
    """SHOW MODELS [IN namespace] [LIKE 'pattern']."""
    catalog = client.catalog
    namespace = statement.namespace or client.spark.catalog.currentDatabase()
    catalog.check_name(Name(namespace, ""))
    shown = [one for one in catalog.models(namespace) if is_like(statement.pattern, one.model)]
    return local(client.spark, MODEL_ROW, model_rows(shown))


def is_like(pattern: str | None, name: str) -> bool:
    """Spark's SHOW patterns: `*` stands for anything, `|` between alternatives; `%` does what `*` does. None takes all.

    >>> is_like("churn*|spam", "churn_2"), is_like("churn", "churn_2"), is_like(None, "churn")
    (True, False, True)
    """
    if pattern is None:
        return True
    alternatives = (".*".join(map(re.escape, re.split(r"[*%]", one.strip()))) for one in pattern.split("|"))
    return any(re.fullmatch(one, name, re.IGNORECASE) for one in alternatives)


def show_versions(client: Client, statement: ShowVersions) -> DataFrame:
    """SHOW VERSIONS IN MODEL name."""
    return local(client.spark, VERSION_ROW, version_rows(client.catalog, client.catalog.qualified(statement.name)))


def show_create(client: Client, statement: ShowCreateModel) -> DataFrame:
    """The statement that made it, under the name and with the comment that it has now."""
    version = client.catalog.find(client.catalog.qualified(statement.name))
    written = parse(version.statement)
    assert isinstance(written, CreateModel)
    shown = render(replace(written, name=Name(version.namespace, version.model), comment=version.comment or None))
    return local(client.spark, pa.schema([("createmodel_stmt", pa.string())]), [{"createmodel_stmt": shown}])


_DESCRIBED = pa.schema([("col_name", pa.string()), ("data_type", pa.string()), ("comment", pa.string())])


def describe(client: Client, statement: DescribeModel) -> DataFrame:
    """As Spark describes a table: the columns, then what else there is to know."""
    version = client.catalog.find(client.catalog.qualified(statement.name))
    signature = version.signature
    rows = [(one.name, one.type, "input") for one in signature.inputs]
    rows += [(one.name, one.type, "output") for one in signature.outputs]
    rows.append(("", "", ""))
    rows.append(("# Detailed Model Information", "", ""))
    names = {alias for alias, target in client.catalog.aliases(version.name).items() if target == version.version and alias != DEFAULT}
    told = {
        "Name": f"{version.full_name}", "Version": version.version, "Aliases": ", ".join(sorted(names)), "Type": version.model_type,
        "Status": version.status, "Rows trained": version.rows_trained, "Loss": version.loss, "Metrics": _pairs(version.metrics),
        "Parameters": version.parameters, "Comment": version.comment, "Owner": version.owner, "Created at": version.created_at.isoformat(),
        "Location": version.uri,
    }  # fmt: skip
    more = {
        "Engine": version.engine, "SHA-256": version.sha256, "Bytes": version.bytes, "Seed": version.seed, "Seconds": version.seconds,
        "Options": _pairs(version.options), "Query": version.query, "Tables": ", ".join(version.tables),
        "Libraries": _pairs(version.libraries), "Properties": _pairs(version.properties), "Run": version.run,
    }  # fmt: skip
    rows += [(key, str(value), "") for key, value in {**told, **(more if statement.extended else {})}.items()]
    return local(client.spark, _DESCRIBED, [dict(zip(_DESCRIBED.names, row, strict=True)) for row in rows])


def _pairs(values: Any) -> str:
    return ", ".join(f"{key} = {value:.6g}" if isinstance(value, float) else f"{key} = {value}" for key, value in values.items())


_TRAINING = pa.schema([
    ("namespace", pa.string()), ("model", pa.string()), ("version", pa.int32()), ("model_type", pa.string()), ("owner", pa.string()),
    ("started_at", pa.timestamp("us", "UTC")), ("epochs", pa.int32()), ("epoch", pa.int32()), ("round", pa.int32()),
    ("train_loss", pa.float64()), ("eval_loss", pa.float64()), ("rows_per_second", pa.float64()),
])  # fmt: skip


def show_trainings(client: Client, statement: ShowTrainings) -> DataFrame:
    """SHOW TRAININGS [IN namespace] [LIKE 'pattern']."""
    if statement.namespace is not None:
        client.catalog.check_name(Name(statement.namespace, ""))
    shown = [one for one in running() if statement.namespace in (None, one.name.namespace)]
    return local(client.spark, _TRAINING, [_training_row(one) for one in shown if is_like(statement.pattern, one.name.model)])


def _training_row(one: Running) -> dict[str, Any]:
    told = {column: getattr(one.last, column, None) for column in ("epoch", "round", "train_loss", "eval_loss", "rows_per_second")}
    return {
        "namespace": one.name.namespace, "model": one.name.model, "version": one.version, "model_type": one.model_type, "owner": one.owner,
        "started_at": one.started_at, "epochs": one.epochs, **told,
    }  # fmt: skip
