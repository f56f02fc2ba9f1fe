"""EXPLAIN CREATE MODEL: everything up to the first step, and its figures."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from dlsql import options, training
from dlsql.commands.client import Client
from dlsql.commands.create import is_import, start_of, supported, training_query
from dlsql.formats import imported
from dlsql.functions import local
from dlsql.options import Settings
from dlsql.statements import CreateModel, ExplainCreateModel
from dlsql.training import groups
from udfs.spec import Label

_EXPLAINED = pa.schema([("part", pa.string()), ("name", pa.string()), ("detail", pa.string())])


def explain(client: Client, statement: ExplainCreateModel) -> DataFrame:
    """EXPLAIN CREATE MODEL."""
    create = supported(replace(statement.create, name=client.catalog.qualified(statement.create.name)))
    if is_import(create):
        return _explain_import(client, create)
    settings = options.read(create.options)
    client.catalog.check_name(create.name)
    start = start_of(client.catalog, create.name, settings)
    frame = training_query(client, str(create.query))
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
