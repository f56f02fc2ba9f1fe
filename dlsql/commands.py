"""Statements run: one small function for each, from a Statement to the rows that it gives."""

import getpass
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as library_version
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from dlsql import inference, options, training
from dlsql.bridge import Bridge, was_cancelled
from dlsql.catalog import DEFAULT, Catalog, new_run
from dlsql.errors import DataError, DlsqlError, ExistsError, error
from dlsql.formats import imported
from dlsql.formats.tensorboard import events
from dlsql.functions import MODEL_ROW, VERSION_ROW, local, model_rows, version_rows
from dlsql.model import IMPORTED, RoundInfo, Version, ddl
from dlsql.options import Settings
from dlsql.parser import parse, render
from dlsql.progress import bar, losses
from dlsql.statements import (
    CreateModel,
    DescribeModel,
    DropModel,
    ExplainCreateModel,
    ExportModel,
    Name,
    RenameModel,
    SetAlias,
    SetComment,
    SetDefaultVersion,
    SetProperties,
    ShowCreateModel,
    ShowModels,
    ShowVersions,
    Statement,
    UnsetAlias,
    Vacuum,
)
from dlsql.terms import parse_name
from dlsql.training import groups
from udfs.spec import Label, Preprocess

_SECONDS_BETWEEN_WRITES = 1.0  # rounds can be shorter, and nobody reads faster
_LIBRARIES = ("dlsql", "pyspark", "torch", "onnxruntime", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: a session, its view of the catalog, and the bridge that serves both."""

    spark: SparkSession
    catalog: Catalog
    bridge: Bridge


def run(client: Client, statement: Statement) -> DataFrame:
    """Runs a statement and gives its rows, which are on the driver already."""
    command: Callable[[Client, Any], DataFrame] = _COMMANDS[type(statement)]
    return command(client, statement)


# CREATE MODEL

_CREATED = pa.schema([
    ("model", pa.string()), ("version", pa.int32()), ("model_type", pa.string()), ("rows_trained", pa.int64()), ("loss", pa.float64()),
    ("metrics", pa.map_(pa.string(), pa.float64())), ("seconds", pa.float64()), ("uri", pa.string()),
])  # fmt: skip


def _create(client: Client, statement: CreateModel) -> DataFrame:
    catalog = client.catalog
    statement = _supported(replace(statement, name=catalog.qualified(statement.name)))
    settings = options.read_import(statement.options) if _is_import(statement) else options.read(statement.options)
    catalog.check_name(statement.name)
    if catalog.numbers(statement.name):
        if statement.if_not_exists:
            return local(client.spark, _CREATED, [_created_row(catalog.find(statement.name))])
        if not statement.replace:
            raise error("DLSQL_MODEL_EXISTS", name=str(statement.name))
    if _is_import(statement):
        found = imported.read(catalog.files.read, settings, statement.inputs, statement.outputs)
        make = partial(_import, client, statement, found)
    else:
        frame = _query(client, str(statement.query))
        make = partial(_train, client, statement, settings, frame, _start(catalog, statement.name, settings))
    catalog.prepare()
    try:
        version = make()
    except ExistsError:  # another client was faster
        if not statement.if_not_exists:
            raise
        version = catalog.find(statement.name)
    return local(client.spark, _CREATED, [_created_row(version)])


def _created_row(version: Version) -> dict[str, Any]:
    return {"model": version.full_name, **{name: getattr(version, name) for name in _CREATED.names[1:]}}


def _supported(statement: CreateModel) -> CreateModel:
    """Refuses the clauses that are read and not built: none is ever left out silently."""
    imports = _is_import(statement)
    of_imports = (("INPUT", statement.inputs), ("OUTPUT", statement.outputs))
    for clause, written in (("TRANSFORM", statement.transform), *(() if imports else of_imports)):
        if written:
            what = "that imports" if imports else "that trains"
            raise error("DLSQL_UNSUPPORTED", feature=f"The clause {clause} of a CREATE MODEL {what}")
    if imports and statement.query is not None:
        expected = "the statement has a query, too. A model is imported, or trained on the rows of a query."
        raise error("DLSQL_OPTION_VALUE", option="model_path", value=repr(dict(statement.options)["model_path"]), expected=expected)
    return statement


def _is_import(statement: CreateModel) -> bool:
    return any(name == "model_path" for name, _ in statement.options)


def _import(client: Client, statement: CreateModel, found: imported.Imported) -> Version:
    """Registers a model that was read. Whatever goes wrong, neither version nor artefact stays behind."""
    catalog, name, run_id = client.catalog, statement.name, new_run()
    uri = catalog.artefact_uri(name, run_id)
    began = time.monotonic()
    try:
        for file, data in found.files.items():
            catalog.files.write(f"{uri}/{file}", data)
        version = Version(
            model_type=found.format, task=found.signature.task, engine=found.engine, parameters=found.parameters,
            inputs=ddl(found.signature.inputs), outputs=ddl(found.signature.outputs), query="", tables=(), seed=0, rows_trained=0,
            loss=None, metrics={}, seconds=time.monotonic() - began, **_identity(client, statement, run_id, uri, found.files),
        )  # fmt: skip
        version = catalog.register(version, new=not statement.replace)
    except BaseException:
        _quietly(lambda: _undo(catalog, name, run_id, uri))
        raise
    catalog.unset_alias(name, DEFAULT)  # the new version is the default
    return version


def _identity(client: Client, statement: CreateModel, run_id: str, uri: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What a version says of itself, its artefact and its statement, however it was made; its number the catalog gives it."""
    return {
        "namespace": str(statement.name.namespace), "model": statement.name.model, "version": 0, "run": run_id, "status": "ready",
        "uri": uri, "sha256": inference.digest(files), "bytes": sum(map(len, files.values())),
        "options": {key: json.dumps(value, ensure_ascii=False) for key, value in statement.options}, "statement": render(statement),
        "libraries": {one: library_version(one) for one in _LIBRARIES}, "owner": client.catalog.user() or getpass.getuser(),
        "created_at": datetime.now(UTC), "comment": statement.comment or "",
    }  # fmt: skip


def _query(client: Client, text: str) -> DataFrame:
    # In parentheses nothing but a query parses: `FROM t INSERT INTO ...` would write while it is looked at. By itself it must parse
    # too: `SELECT 1) UNION ALL (SELECT 2` would end the parentheses.
    client.bridge.check_parses(client.spark, text)
    try:
        frame = client.spark.sql(f"SELECT * FROM (\n{text}\n)")
    except ParseException:
        raise
    except AnalysisException:
        client.bridge.check_means(client.spark, text)  # which says where in the text as it was written
        raise
    if frame.isStreaming:
        raise error("DLSQL_UNSUPPORTED", feature="Training on a stream", hint=" Write it to a table, and train on that.")
    return frame


def _start(catalog: Catalog, name: Name, settings: Settings) -> training.Start | None:
    if settings.warm_start:
        if not catalog.numbers(name):
            expected = f"there is no earlier version of `{name}` to go on from."
            raise error("DLSQL_OPTION_VALUE", option="warm_start", value="TRUE", expected=expected)
        earlier = catalog.find(name)
        if earlier.model_type != settings.model_type:
            expected = f"`{earlier.name}` is a {earlier.model_type}, and this a {settings.model_type}."
            raise error("DLSQL_OPTION_VALUE", option="warm_start", value="TRUE", expected=expected)
        learned = Preprocess.from_json(catalog.files.read(f"{earlier.uri}/preprocess.json").decode())
        return training.Start(_weights(catalog, earlier), learned)
    if settings.base_model is not None:
        base = catalog.find(catalog.qualified(parse_name(settings.base_model)))
        if base.task == IMPORTED:
            expected = f"`{base.name}` was imported; a network of ours starts from one of ours."
            raise error("DLSQL_OPTION_VALUE", option="base_model", value=repr(settings.base_model), expected=expected)
        return training.Start(_weights(catalog, base), None)
    return None


def _weights(catalog: Catalog, version: Version) -> dict[str, Any]:
    with np.load(io.BytesIO(catalog.files.read(f"{version.uri}/weights.npz")), allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def _train(client: Client, statement: CreateModel, settings: Settings, frame: DataFrame, start: training.Start | None) -> Version:
    """Trains and registers. Whatever goes wrong, no version, no artefact and no round of this run stays behind."""
    catalog, name, run_id = client.catalog, statement.name, new_run()
    uri = catalog.artefact_uri(name, run_id)
    say = client.bridge.client_log()
    checkpoints: list[str] = []
    written = 0.0

    def folder(fingerprint: str) -> str:
        checkpoints.append(catalog.checkpoint_uri(fingerprint))
        return checkpoints[0]

    try:
        number = catalog.next_number(name)
        with bar(f"train {name} v{number}", settings.max_iterations) as shown:

            def on_round(rounds: list[RoundInfo]) -> None:
                nonlocal written
                shown(rounds)
                if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                    last = rounds[-1]
                    say(f"{job.title}: round {last.round}, epoch {last.epoch}/{settings.max_iterations}, {losses(last)}")
                    catalog.write_rounds(name, run_id, rounds)
                    written = time.monotonic()

            learn = groups.train if settings.partition_cols else training.train
            job = training.Job(client.bridge, str(name), number, settings, start, catalog.files, folder, on_round)
            trained = learn(frame, job)
        catalog.write_rounds(name, run_id, trained.rounds)
        for file, data in {**trained.files, **events(trained.rounds)}.items():
            catalog.files.write(f"{uri}/{file}", data)
        version = catalog.register(_version(client, statement, settings, frame, trained, run_id, uri), new=not statement.replace)
    except BaseException as e:
        _quietly(lambda: _undo(catalog, name, run_id, uri))
        if isinstance(e, DataError | ExistsError):  # it would diverge again where it went on, or be too late again
            for path in checkpoints:
                _quietly(partial(catalog.files.delete, path))
        if was_cancelled(e):
            raise error("DLSQL_CANCELLED", name=name) from e
        raise
    catalog.unset_alias(name, DEFAULT)  # the new version is the default
    _quietly(lambda: catalog.files.delete(trained.checkpoints))
    return version


def _undo(catalog: Catalog, name: Name, run_id: str, uri: str) -> None:
    """Removes what a run wrote, unless it became a version: an answer that was lost may have been a yes."""
    if not catalog.is_registered(name, run_id):
        for clean in (lambda: catalog.drop_run(name, run_id), lambda: catalog.files.delete(uri)):
            _quietly(clean)


def _quietly(clean: Callable[[], None]) -> None:
    """Cleaning up must not hide why it was needed; `vacuum` takes what stays."""
    with suppress(DlsqlError, PySparkException):
        clean()


def _version(
    client: Client, statement: CreateModel, settings: Settings, frame: DataFrame, trained: training.Trained, run_id: str, uri: str
) -> Version:
    engine = inference.GROUPS if settings.partition_cols else "onnx"
    return Version(
        model_type=settings.model_type, task=settings.task, engine=engine, parameters=trained.parameters,
        inputs=ddl(trained.signature.inputs), outputs=ddl(trained.signature.outputs), query=str(statement.query),
        tables=client.bridge.tables_read(frame), seed=settings.seed, rows_trained=trained.rows, loss=trained.loss, metrics=trained.metrics,
        seconds=trained.seconds, **_identity(client, statement, run_id, uri, trained.files),
    )  # fmt: skip


_EXPLAINED = pa.schema([("part", pa.string()), ("name", pa.string()), ("detail", pa.string())])


def _explain(client: Client, statement: ExplainCreateModel) -> DataFrame:
    create = _supported(replace(statement.create, name=client.catalog.qualified(statement.create.name)))
    if _is_import(create):
        return _explain_import(client, create)
    settings = options.read(create.options)
    client.catalog.check_name(create.name)
    start = _start(client.catalog, create.name, settings)
    frame = _query(client, str(create.query))
    job = training.Job(client.bridge, str(create.name), None, settings, start, client.catalog.files, str, lambda rounds: None)
    if settings.partition_cols:
        return _explain_groups(client, create, settings, groups.outline(frame, job))
    outline = training.outline(frame, job)
    found, network = outline.found, outline.network
    labels = found.learned.labels
    block_row = 4 * (network.dense + len(network.codes) + len(labels) + 1)  # bytes: numbers, codes, labels and the row's weight
    held_out = "by " + str(settings.data_split_col) if settings.data_split_method == "custom" else f"{found.held_out:.1%} of the rows"
    details = [
        ("plan", "model", f"{create.name}, {settings.model_type}"),
        ("plan", "rows", f"{found.rows} usable, {found.skipped} left out"),
        ("plan", "held out", f"{settings.data_split_method}: {held_out}"),
        ("plan", "rounds", f"{settings.max_iterations} epochs at most, {outline.workers} workers, batches of {outline.batch} rows each"),
        *(("feature", one.name, _explained_feature(one)) for one in found.learned.features),
        *(("label", one.name, f"{one.type}: " + _explained_label(one)) for one in labels),
        ("network", "layers", network.layers),
        ("network", "parameters", str(outline.parameters)),
        ("disk", "blocks on the executors", f"{found.rows * block_row / 1e6:.1f} MB"),
        ("memory", "state, each worker and the driver", f"{outline.parameters * 4 * 4 / 1e6:.1f} MB"),  # weights, gradients, two moments
    ]
    return _explained(client, details)


def _explained(client: Client, details: list[tuple[str, str, str]]) -> DataFrame:
    return local(client.spark, _EXPLAINED, [dict(zip(_EXPLAINED.names, one, strict=True)) for one in details])


def _explain_import(client: Client, create: CreateModel) -> DataFrame:
    client.catalog.check_name(create.name)
    found = imported.read(client.catalog.files.read, options.read_import(create.options), create.inputs, create.outputs)
    runs = {None: "any number of rows", 0: "one row, whose tensors are its own"}.get(found.graph.batch, f"{found.graph.batch} rows")
    types = {one.name: one.type for one in (*found.signature.inputs, *found.signature.labels)}
    details = [
        ("plan", "model", f"{create.name}, {found.format}"),
        ("plan", "engine", f"{found.engine}, a run takes {runs}"),
        *(("feature", one.name, f"{types[one.name]}: {one.shown}") for one in found.graph.inputs),
        *(("output", one.name, f"{types[one.name]}: {one.shown}") for one in found.graph.outputs),
        ("network", "parameters", str(found.parameters)),
    ]
    return _explained(client, details)


def _explain_groups(client: Client, create: CreateModel, settings: Settings, found: groups.Outline) -> DataFrame:
    details = [
        ("plan", "model", f"{create.name}, {settings.model_type}, a network for each group by {', '.join(settings.partition_cols)}"),
        ("plan", "groups", f"{found.groups}, of {found.smallest} to {found.largest} rows"),
        ("plan", "rows", str(found.rows)),
        ("plan", "held out", f"{settings.data_split_method}, in each group"),
        ("plan", "rounds", f"{settings.max_iterations} epochs at most, batches of {settings.batch_size}, one Spark job"),
        *(("feature", one.name, one.type) for one in found.signature.inputs[len(settings.partition_cols) :]),
        ("label", found.signature.label.name, found.signature.label.type),
        ("network", "hidden layers", " - ".join(map(str, settings.hidden_units)) or "none"),
    ]
    return _explained(client, details)


def _explained_feature(feature: Any) -> str:
    if feature.kind == "category":
        return f"{feature.type}: {len(feature.vocabulary)} words" + (", NULL" if feature.nulls_seen else "")
    if feature.kind in ("numbers", "bytes"):
        return f"{feature.type}: {feature.width} numbers, {'as they are' if feature.size else 'each scaled'}"
    return f"{feature.type}: mean {feature.means[0]:g}, deviation {feature.scales[0]:g}"


def _explained_label(label: Label) -> str:
    return f"mean {label.mean:g}, deviation {label.scale:g}" if label.classes is None else f"{len(label.classes)} classes"


# ALTER and DROP

_DONE = pa.schema([("model", pa.string()), ("version", pa.int32()), ("action", pa.string())])


def _done(client: Client, name: Name, version: int | None, action: str) -> DataFrame:
    return local(client.spark, _DONE, [{"model": f"{name.namespace}.{name.model}", "version": version, "action": action}])


def _set_default(client: Client, statement: SetDefaultVersion) -> DataFrame:
    name = client.catalog.qualified(statement.name)
    client.catalog.set_alias(name, DEFAULT, statement.version)
    return _done(client, name, statement.version, "is the default version")


def _set_alias(client: Client, statement: SetAlias) -> DataFrame:
    name = client.catalog.qualified(statement.name)
    client.catalog.set_alias(name, statement.alias, statement.version)
    return _done(client, name, statement.version, f"is @{statement.alias}")


def _unset_alias(client: Client, statement: UnsetAlias) -> DataFrame:
    name = client.catalog.qualified(statement.name)
    version = client.catalog.find(replace(name, alias=statement.alias))
    client.catalog.unset_alias(name, statement.alias)
    return _done(client, name, version.version, f"is no longer @{statement.alias}")


def _set_comment(client: Client, statement: SetComment) -> DataFrame:
    version = client.catalog.amend(client.catalog.qualified(statement.name), lambda _: {"comment": statement.comment})
    return _done(client, version.name, version.version, "has a new comment")


def _set_properties(client: Client, statement: SetProperties) -> DataFrame:
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in statement.properties}
    version = client.catalog.amend(client.catalog.qualified(statement.name), lambda old: {"properties": {**old.properties, **given}})
    return _done(client, version.name, version.version, f"has the properties {', '.join(given)}")


def _rename(client: Client, statement: RenameModel) -> DataFrame:
    catalog = client.catalog
    name = catalog.qualified(statement.name)
    new = replace(statement.new_name, namespace=statement.new_name.namespace or name.namespace)
    catalog.find(name)
    catalog.check_name(new)
    if catalog.numbers(new):
        raise error("DLSQL_MODEL_EXISTS", name=f"{new.namespace}.{new.model}")
    catalog.rename(name, new)
    return _done(client, new, None, f"was `{name.namespace}.{name.model}`")


def _drop(client: Client, statement: DropModel) -> DataFrame:
    catalog = client.catalog
    name = catalog.qualified(statement.name)
    there = catalog.numbers(name)
    if statement.if_exists and (not there or (statement.version is not None and statement.version not in there)):
        return _done(client, name, statement.version, "was not there")
    catalog.drop(name, statement.version)
    return _done(client, name, statement.version, "is dropped")


# SHOW and DESCRIBE


def _show_models(client: Client, statement: ShowModels) -> DataFrame:
    catalog = client.catalog
    namespace = statement.namespace or client.spark.catalog.currentDatabase()
    catalog.check_name(Name(namespace, ""))
    shown = [one for one in catalog.models(namespace) if statement.pattern is None or _like(statement.pattern, one.model)]
    return local(client.spark, MODEL_ROW, model_rows(shown))


def _like(pattern: str, name: str) -> bool:
    """Spark's SHOW patterns: `*` stands for anything, `|` between alternatives; `%` does what `*` does.

    >>> _like("churn*|spam", "churn_2"), _like("churn", "churn_2")
    (True, False)
    """
    alternatives = (".*".join(map(re.escape, re.split(r"[*%]", one.strip()))) for one in pattern.split("|"))
    return any(re.fullmatch(one, name, re.IGNORECASE) for one in alternatives)


def _show_versions(client: Client, statement: ShowVersions) -> DataFrame:
    return local(client.spark, VERSION_ROW, version_rows(client.catalog, client.catalog.qualified(statement.name)))


def _show_create(client: Client, statement: ShowCreateModel) -> DataFrame:
    """The statement that made it, under the name and with the comment that it has now."""
    version = client.catalog.find(client.catalog.qualified(statement.name))
    written = parse(version.statement)
    assert isinstance(written, CreateModel)
    shown = render(replace(written, name=Name(version.namespace, version.model), comment=version.comment or None))
    return local(client.spark, pa.schema([("createmodel_stmt", pa.string())]), [{"createmodel_stmt": shown}])


_DESCRIBED = pa.schema([("col_name", pa.string()), ("data_type", pa.string()), ("comment", pa.string())])


def _describe(client: Client, statement: DescribeModel) -> DataFrame:
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


# The rest


def _export(client: Client, statement: ExportModel) -> DataFrame:
    client.catalog.find(client.catalog.qualified(statement.name))
    raise error("DLSQL_UNSUPPORTED", feature="EXPORT MODEL")


def _vacuum(client: Client, statement: Vacuum) -> DataFrame:
    return local(
        client.spark, pa.schema([("removed", pa.string())]), [{"removed": path} for path in client.catalog.vacuum(statement.retain_hours)]
    )


_COMMANDS: dict[type, Callable[[Client, Any], DataFrame]] = {
    CreateModel: _create,
    ExplainCreateModel: _explain,
    SetDefaultVersion: _set_default,
    SetAlias: _set_alias,
    UnsetAlias: _unset_alias,
    SetComment: _set_comment,
    SetProperties: _set_properties,
    RenameModel: _rename,
    DropModel: _drop,
    ShowModels: _show_models,
    ShowVersions: _show_versions,
    ShowCreateModel: _show_create,
    DescribeModel: _describe,
    ExportModel: _export,
    Vacuum: _vacuum,
}
