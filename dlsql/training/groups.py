"""A network for each group of rows: what TRAIN runs in a query, and the training of CREATE MODEL with `partition_cols`, one Spark job."""

import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from dlsql.bridge import grouped_arrow_udf
from dlsql.errors import did_you_mean, error, listed
from dlsql.model import Field, RoundInfo, Signature, is_label_type, kind_of
from dlsql.options import LINEAR, Settings
from dlsql.training import Job, Trained, perceptron, schedule_of, torch_names
from dlsql.training.jobs import described
from dlsql.training.profile import column, fields, parts, without_vectors
from udfs.groups import report_group
from udfs.schedules import learning_rates
from udfs.spec import Feature, GroupTraining, Label, LocalSteps, NetworkSpec

# The artefact: a row for each group, its partition columns and its network, NULL where there is none.
NETWORKS = "groups.arrow"
_REPORT = "value binary, report string"


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A training of groups that is ready to run."""

    how: GroupTraining
    columns: tuple[str, ...]  # what the worker takes after the hash of the row's content
    signature: Signature


def plan(columns: Sequence[tuple[str, str]], settings: Settings, threads: int) -> GroupPlan:
    """Checks options and columns, each a name and its type, before any job starts. Raises what `parts` and `torch_names` raise."""
    found = parts(columns, settings)
    names = torch_names(settings)
    (label,) = found.labels
    steps = LocalSteps(
        NetworkSpec(0, (), 0, arguments=perceptron(settings)), settings.task, names["loss"], names["optimizer"], settings.batch_size,
        settings.seed, threads, settings.optimizer_args, l1_reg=settings.l1_reg, l2_reg=settings.l2_reg, grad_clip=settings.grad_clip,
        grad_clip_value=settings.grad_clip_value, label_smoothing=settings.label_smoothing,
    )  # fmt: skip
    rates = _rates(settings)
    how = GroupTraining(
        tuple(Feature(name, found.types[name], str(kind_of(found.types[name]))) for name in found.features),
        Label(label, found.types[label]), steps, tuple(rates), settings.model_type not in LINEAR, settings.auto_class_weights,
        settings.class_weights or (), settings.data_split_method, settings.data_split_eval_fraction, found.weight is not None,
        settings.rules,
    )  # fmt: skip
    inputs = tuple(Field(name, found.types[name]) for name in found.features)
    ordered = [name for name in (found.weight, found.split, label, *found.features) if name is not None]
    return GroupPlan(how, tuple(ordered), Signature(inputs, Field(label, found.types[label]), settings.task))


def _rates(settings: Settings) -> list[float]:
    """The learning rate of each epoch, the same in all groups."""
    schedule = schedule_of(settings)
    if any(name == "ReduceLROnPlateau" for name, _ in schedule):
        expected = "a network for each group takes schedules that depend on the epoch alone."
        raise error("DLSQL_OPTION_VALUE", option="lr_schedule", value="'reducelronplateau'", expected=expected)
    return list(islice(learning_rates(schedule, settings.learn_rate, settings.max_iterations), settings.max_iterations))


@dataclass(frozen=True, slots=True)
class Outline:
    """What would be trained: the answer of EXPLAIN CREATE MODEL."""

    signature: Signature
    groups: int
    rows: int
    smallest: int  # rows of the smallest group
    largest: int


def outline(frame: DataFrame, job: Job) -> Outline:
    """The groups and their sizes, and the checks before them."""
    keys, rest = _keys(frame, job.settings)
    planned = _planned(rest, keys, job.settings)
    with described(frame.sparkSession.sparkContext, f"explain {job.title}: counting the groups"):
        sizes = frame.groupBy(*(column(field.name) for field in keys)).count()
        (found,) = sizes.agg(F.count("count"), F.sum("count"), F.min("count"), F.max("count")).collect()
    return Outline(planned.signature, *(int(number or 0) for number in found))


def train(frame: DataFrame, job: Job) -> Trained:
    """Trains a network for each group of `partition_cols`, all in one Spark job.

    Raises:
        NotFoundError, TypeMismatchError, OptionError: a column or an option does not do, before any job starts.
        DataError: no group could be trained.
    """
    began = time.perf_counter()
    keys, rest = _keys(frame, job.settings)
    planned = _planned(rest, keys, job.settings)
    by = ", ".join(field.name for field in keys)
    with described(frame.sparkSession.sparkContext, f"{job.title}: a network for each group by {by}"):
        found = _grouped(rest, keys, planned, job.settings.seed).toArrow()
    seconds = time.perf_counter() - began
    names = [str(i) for i in range(len(keys))]
    found = found.sort_by([(name, "ascending") for name in names]).combine_chunks()
    reports = [json.loads(one) for one in found.column("report").to_pylist()]
    trained = [one for one in reports if "note" not in one]
    if not trained:
        why = f" {_group(keys, found, 0)}: {reports[0]['note']}" if reports else ""
        raise error("DLSQL_TRAINING_DATA", problem=f"None of the {len(reports)} groups by {by} could be trained.{why}")
    rows = sum(one["rows"] for one in trained)
    summary = _summary(reports, trained, job.settings, seconds)
    untrained = [_untrained(one, _group(keys, found, place), summary) for place, one in enumerate(reports) if "note" in one]
    rounds = [summary, *untrained]
    job.on_round([summary])
    stored = found.select([*names, "value"])
    return Trained(
        {NETWORKS: _file(stored)}, planned.signature, sum(one["parameters"] for one in trained), rows, _mean(trained, "loss"),
        summary.metrics, tuple(rounds), seconds, job.checkpoints(NETWORKS),
    )  # fmt: skip


def _keys(frame: DataFrame, settings: Settings) -> tuple[list[Field], DataFrame]:
    """The partition columns, in the order of the option, and the frame without ML vectors."""
    frame = without_vectors(frame)
    known = {field.name.casefold(): field for field in frame.schema.fields}
    keys: list[Field] = []
    for name in settings.partition_cols:
        if name.casefold() not in known:
            hint = did_you_mean(name, frame.columns)
            known_columns = listed(frame.columns)
            raise error("DLSQL_COLUMN_NOT_FOUND", role="Partition column (partition_cols)", column=name, columns=known_columns, hint=hint)
        field = known[name.casefold()]
        key = Field(field.name, field.dataType.simpleString())
        if not is_label_type(key.type):
            expected = "a partition column is a number, boolean, string, date, timestamp or binary."
            raise error("DLSQL_COLUMN_TYPE", column=key.name, found=key.type.upper(), expected=expected)
        if key in keys:
            raise error(
                "DLSQL_OPTION_VALUE", option="partition_cols", value=repr(settings.partition_cols), expected=f"`{name}` is there twice."
            )
        keys.append(key)
    return keys, frame


def _planned(frame: DataFrame, keys: Sequence[Field], settings: Settings) -> GroupPlan:
    taken = {field.name for field in keys}
    roles = {
        "input_label_cols": settings.label,
        "instance_weight_col": settings.instance_weight_col,
        "data_split_col": settings.data_split_col,
    }
    for option, name in roles.items():
        if name is not None and name.casefold() in {one.casefold() for one in taken}:
            raise error("DLSQL_OPTION_VALUE", option=option, value=repr(name), expected="it is a partition column (partition_cols).")
    threads = int(frame.sparkSession.sparkContext.getConf().get("spark.task.cpus", "1") or 1)
    found = plan([field for field in fields(frame) if field[0] not in taken], settings, threads)
    inputs = (*keys, *found.signature.inputs)
    return GroupPlan(found.how, found.columns, Signature(inputs, found.signature.label, found.signature.task))


def _grouped(frame: DataFrame, keys: Sequence[Field], planned: GroupPlan, seed: int) -> DataFrame:
    """A row for each group: its partition columns under their numbers, `value` and `report`."""
    given = [column(name) for name in planned.columns]
    content = F.xxhash64(F.lit(seed), *given).alias("content")
    # Numbered, since a name may hold dots and backticks.
    numbered = [one.alias(f"c{place}") for place, one in enumerate(given)]
    rows = frame.select(*(column(field.name).alias(str(place)) for place, field in enumerate(keys)), content, *numbered)
    learned = grouped_arrow_udf(partial(report_group, planned.how), StructType.fromDDL(_REPORT), "train")
    told = learned("content", *(f"c{place}" for place in range(len(given))))
    return (
        rows.groupBy(*(f"`{place}`" for place in range(len(keys))))
        .agg(told.alias("told"))
        .select("*", "told.value", "told.report")
        .drop("told")
    )


def _summary(reports: list[dict[str, Any]], trained: list[dict[str, Any]], settings: Settings, seconds: float) -> RoundInfo:
    """All groups as one row; a metric is the groups' average, each by its rows."""
    rows = sum(one["rows"] for one in trained)
    names = trained[0]["metrics"]
    measured = {name: _mean([{"rows": one["rows"], **one["metrics"]} for one in trained], name) for name in names}
    skipped = sum(one.get("skipped", 0) for one in trained)
    counted = {"groups": float(len(reports)), "groups_trained": float(len(trained))} | ({"rows_skipped": float(skipped)} if skipped else {})
    epochs = max(one["epochs"] for one in trained)
    note = f"{len(trained)} of {len(reports)} groups have a network"
    loss = _mean(trained, "loss")
    return RoundInfo(
        1, epochs, rows, loss, None, {**measured, **counted}, settings.learn_rate, seconds, rows / seconds, datetime.now(UTC), None, note
    )


def _mean(reports: list[dict[str, Any]], name: str) -> float:
    """The average of the groups' values, each by the group's rows."""
    return math.fsum(one[name] * one["rows"] for one in reports) / math.fsum(one["rows"] for one in reports)


def _untrained(report: dict[str, Any], group: str, summary: RoundInfo) -> RoundInfo:
    return RoundInfo(1, 0, report["rows"], None, None, {}, summary.learning_rate, report["seconds"], 0.0, summary.at, group, report["note"])


def _group(keys: Sequence[Field], found: pa.Table, place: int) -> str:
    """A group's name: `store=7, region=NULL`."""
    values = [found.column(str(i))[place].as_py() for i in range(len(keys))]
    return ", ".join(f"{field.name}={'NULL' if value is None else value}" for field, value in zip(keys, values, strict=True))


def _file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    return sink.getvalue()
