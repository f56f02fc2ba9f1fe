"""CREATE MODEL: a query is trained on, or a file is imported, and what came of it is registered as a version."""

import getpass
import io
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as library_version
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import DataFrame

from dlsql import inference, options, training
from dlsql.bridge import was_cancelled
from dlsql.catalog import DEFAULT, Catalog, new_run
from dlsql.commands.client import Client
from dlsql.errors import DataError, DlsqlError, ExistsError, error
from dlsql.formats import imported
from dlsql.formats.tensorboard import events
from dlsql.functions import local
from dlsql.model import IMPORTED, RoundInfo, Version, ddl
from dlsql.options import Settings
from dlsql.parser import render
from dlsql.progress import bar, losses
from dlsql.statements import CreateModel, Name
from dlsql.terms import parse_name
from dlsql.training import groups
from dlsql.training.running import Running, under_way
from udfs.spec import Preprocess

_SECONDS_BETWEEN_WRITES = 1.0  # rounds can be shorter, and nobody reads faster
_LIBRARIES = ("dlsql", "pyspark", "torch", "onnxruntime", "numpy", "pyarrow")

_CREATED = pa.schema([
    ("model", pa.string()), ("version", pa.int32()), ("model_type", pa.string()), ("rows_trained", pa.int64()), ("loss", pa.float64()),
    ("metrics", pa.map_(pa.string(), pa.float64())), ("seconds", pa.float64()), ("uri", pa.string()),
])  # fmt: skip


def create(client: Client, statement: CreateModel) -> DataFrame:
    """CREATE MODEL."""
    catalog = client.catalog
    statement = supported(replace(statement, name=catalog.qualified(statement.name)))
    settings = options.read_import(statement.options) if is_import(statement) else options.read(statement.options)
    catalog.check_name(statement.name)
    if catalog.numbers(statement.name):
        if statement.if_not_exists:
            return local(client.spark, _CREATED, [_created_row(catalog.find(statement.name))])
        if not statement.replace:
            raise error("DLSQL_MODEL_EXISTS", name=str(statement.name))
    if is_import(statement):
        found = imported.read(catalog.files.read, settings, statement.inputs, statement.outputs)
        make = partial(_import, client, statement, found)
    else:
        frame = training_query(client, str(statement.query))
        make = partial(_train, client, statement, settings, frame, start_of(catalog, statement.name, settings))
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


def supported(statement: CreateModel) -> CreateModel:
    """Refuses the clauses that are read and not built: none is ever left out silently."""
    imports = is_import(statement)
    of_imports = (("INPUT", statement.inputs), ("OUTPUT", statement.outputs))
    for clause, written in (("TRANSFORM", statement.transform), *(() if imports else of_imports)):
        if written:
            what = "that imports" if imports else "that trains"
            raise error("DLSQL_UNSUPPORTED", feature=f"The clause {clause} of a CREATE MODEL {what}")
    if imports and statement.query is not None:
        expected = "the statement has a query, too. A model is imported, or trained on the rows of a query."
        raise error("DLSQL_OPTION_VALUE", option="model_path", value=repr(dict(statement.options)["model_path"]), expected=expected)
    return statement


def is_import(statement: CreateModel) -> bool:
    """Whether it reads a model from a file."""
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
        "libraries": {one: library_version(one) for one in _LIBRARIES}, "owner": _owner(client),
        "created_at": datetime.now(UTC), "comment": statement.comment or "",
    }  # fmt: skip


def _owner(client: Client) -> str:
    return client.catalog.user() or getpass.getuser()


def training_query(client: Client, text: str) -> DataFrame:
    """The rows to train on. Raises what Spark says of the query, with positions in its own text."""
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


def start_of(catalog: Catalog, name: Name, settings: Settings) -> training.Start | None:
    """The model that a training goes on from, if it does."""
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
    checkpoints: list[str] = []

    def folder(fingerprint: str) -> str:
        checkpoints.append(catalog.checkpoint_uri(fingerprint))
        return checkpoints[0]

    with under_way(Running(name, catalog.next_number(name), run_id, settings.model_type, _owner(client), settings.max_iterations)) as seen:
        try:
            with seen.cancellable(client.spark.sparkContext):
                trained = _learned(client, seen, settings, frame, start, folder)
            for file, data in {**trained.files, **events(trained.rounds)}.items():
                catalog.files.write(f"{uri}/{file}", data)
            seen.check()
            version = catalog.register(_version(client, statement, settings, frame, trained, run_id, uri), new=not statement.replace)
        except BaseException as e:
            _quietly(lambda: _undo(catalog, name, run_id, uri))
            if isinstance(e, DataError | ExistsError):  # it would diverge again where it went on, or be too late again
                for path in checkpoints:
                    _quietly(partial(catalog.files.delete, path))
            if seen.cancelled or was_cancelled(e):
                raise error("DLSQL_CANCELLED", name=name) from e
            raise
        catalog.unset_alias(name, DEFAULT)  # the new version is the default
        _quietly(lambda: catalog.files.delete(trained.checkpoints))
    return version


def _learned(
    client: Client, seen: Running, settings: Settings, frame: DataFrame, start: training.Start | None, folder: Callable[[str], str]
) -> training.Trained:
    """Trains, and tells of each round: at the terminal, in the client's log, in the catalog."""
    catalog, say, written = client.catalog, client.bridge.client_log(), 0.0
    with bar(f"train {seen.name} v{seen.version}", settings.max_iterations) as shown:

        def on_round(rounds: list[RoundInfo]) -> None:
            nonlocal written
            seen.last = last = rounds[-1]
            seen.check()
            shown(rounds)
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                say(f"{job.title}: round {last.round}, epoch {last.epoch}/{settings.max_iterations}, {losses(last)}")
                catalog.write_rounds(seen.name, seen.run, rounds)
                written = time.monotonic()

        learn = groups.train if settings.partition_cols else training.train
        job = training.Job(client.bridge, str(seen.name), seen.version, settings, start, catalog.files, folder, on_round)
        trained = learn(frame, job)
    catalog.write_rounds(seen.name, seen.run, trained.rounds)
    return trained


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
