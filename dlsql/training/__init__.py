"""Training: a query and its options -> a network with what it learned of the columns. The steps in order are in `train`."""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pyspark import SparkContext
from pyspark.sql import DataFrame

from dlsql.bridge import Bridge, Files
from dlsql.errors import did_you_mean, error
from dlsql.formats import onnx
from dlsql.model import Field, RoundInfo, Signature, label_task
from dlsql.options import Settings
from dlsql.training import checkpoint, own
from dlsql.training.background import behind
from dlsql.training.jobs import described, evaluate_files, first_rows
from dlsql.training.pack import Blocks, local_batch, pack_rows, workers
from dlsql.training.profile import Columns, Profile, columns, profile
from dlsql.training.rounds import Plan, epoch_steps, rate_count, run
from udfs import metrics
from udfs.preprocess import dense_width
from udfs.schedules import LOSSES, Schedule, optimizer_arguments, optimizers, rate_factor, schedules, try_optimizer, try_schedule
from udfs.spec import TENSORS, Code, LocalSteps, NetworkSpec, Preprocess
from udfs.state import State
from udfs.train import initial_state


@dataclass(frozen=True, slots=True)
class Start:
    """An earlier model to go on from: its tensors, and for a warm start what it learned of the columns."""

    state: State
    learned: Preprocess | None  # None: base_model, whose tensors are taken where names and shapes agree


@dataclass(frozen=True, slots=True)
class Job:
    """A training and what it reports to."""

    bridge: Bridge
    model: str  # sales.churn
    version: int | None  # that it will be, as far as can be known; None where nothing is registered
    settings: Settings
    start: Start | None
    files: Files | None  # None: no checkpoints are kept, and a training that fails begins anew
    checkpoints: Callable[[str], str]  # fingerprint -> folder
    on_round: Callable[[list[RoundInfo]], None]

    @property
    def title(self) -> str:
        """What Spark's UI says of it: `train sales.churn v3`."""
        return f"train {self.model}" + ("" if self.version is None else f" v{self.version}")


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training: the artefact's files, and what the catalog says of it."""

    files: Mapping[str, bytes]
    signature: Signature
    parameters: int
    rows: int
    loss: float
    metrics: Mapping[str, float]
    rounds: tuple[RoundInfo, ...]
    seconds: float
    checkpoints: str  # the folder to remove once the version is registered


@dataclass(frozen=True, slots=True)
class Outline:
    """What would be trained: the answer of EXPLAIN CREATE MODEL."""

    found: Profile
    network: NetworkSpec
    loss: Code | None  # of the user's own
    parameters: int
    workers: int
    batch: int  # rows a step of one worker


def train(frame: DataFrame, job: Job) -> Trained:
    """Trains a model on the rows of a query.

    Raises:
        OptionError: an optimiser, loss or schedule that torch does not have, or code that may not run here, before any job starts.
        NotFoundError, TypeMismatchError: a column is missing, or has a type that no network takes, before any job starts.
        DataError: there is nothing to learn from, or the loss became NaN.
    """
    began = time.perf_counter()
    context = frame.sparkSession.sparkContext
    names, code = torch_names(job.settings), own.own(job.settings, context.getConf().get(own.ALLOWED))
    chosen = columns(job.bridge, frame, job.settings)
    schedule = schedule_of(job.settings)
    with described(context, f"{job.title}: profiling the columns"):
        outline = _outline(frame, chosen, job, code)
    learned, spec = outline.found.learned, outline.network
    state = _first_state(job, spec)
    if job.settings.quantization != "none":
        _check_quantized(spec, state)
    blocks, last, folder = _packed(context, job, outline, state, code)
    outline = _among(outline, job.settings, blocks.workers)
    steps = _local_steps(job.settings, names, outline, int(context.getConf().get("spark.task.cpus", "1") or 1))
    try:
        if job.settings.lr_interval == "step":
            schedule_of(job.settings, rate_count(job.settings, epoch_steps(blocks, steps)))
        plan = Plan(job.title, job.settings, steps, schedule, learned.labels)
        save = partial(checkpoint.save, job.files, folder) if job.files else lambda last: None
        with behind() as write:
            best, progress = run(context, blocks, plan, state, last, job.on_round, save, write)
        artefact, measured = _artefact(spec, best, learned), dict(progress.best_metrics)
        if job.settings.quantization != "none":
            with described(context, f"{job.title}: in {job.settings.quantization}"):
                artefact, measured = _quantized(context, blocks, steps, artefact, learned, measured)
    finally:
        blocks.free()
    spread = {"rows_skipped": float(outline.found.skipped)} if outline.found.skipped else {}
    return Trained(
        artefact, signature(learned), outline.parameters, outline.found.rows, progress.best_loss,
        {**measured, **spread}, tuple(progress.rounds), time.perf_counter() - began, folder,
    )  # fmt: skip


def _packed(
    context: SparkContext, job: Job, outline: Outline, state: State, code: own.Own
) -> tuple[Blocks, checkpoint.Checkpoint | None, str]:
    """The rows in blocks, the checkpoint to go on from, and where it is kept. What was begun by so many workers is ended by as many,
    however many cores there are now.
    """

    def packed(workers: int) -> Blocks:
        with described(context, f"{job.title}: packing rows into blocks"):
            return pack_rows(job.bridge, outline.found, job.settings, workers, f"{job.title}: blocks")

    blocks = packed(outline.workers)
    try:
        folder = job.checkpoints(_fingerprint(job, outline, blocks, state, code))
        last = checkpoint.load(job.files, folder) if job.files and job.settings.resume else None
        if last is None or last.workers == blocks.workers:
            return blocks, last, folder
    except BaseException:
        blocks.free()
        raise
    blocks.free()
    return packed(last.workers), last, folder


def outline(frame: DataFrame, job: Job) -> Outline:
    """Everything up to the first step: the profile, the network and its size."""
    context = frame.sparkSession.sparkContext
    torch_names(job.settings)
    schedule_of(job.settings)
    code = own.own(job.settings, context.getConf().get(own.ALLOWED))
    chosen = columns(job.bridge, frame, job.settings)
    with described(context, f"explain {job.title}: profiling the columns"):
        return _outline(frame, chosen, job, code)


def signature(learned: Preprocess) -> Signature:
    """What a model with this preprocessing takes and gives."""
    inputs = tuple(Field(feature.name, feature.type) for feature in learned.features)
    task = "regression" if any(label.task == "regression" for label in learned.labels) else "classification"
    label, *others = (Field(label.name, label.type) for label in learned.labels)
    return Signature(inputs, label, task, tuple(others))


def torch_names(settings: Settings) -> dict[str, str]:
    """The options that name something of torch, in torch's own spelling; torch has looked at the optimiser's arguments."""
    losses = {name: name for name in LOSSES[settings.task]}
    optimizer = _named("optimizer", settings.optimizer, optimizers())
    _check_optimizer(optimizer, settings.optimizer_args)
    return {
        "optimizer": optimizer,
        "loss": _named("loss", LOSSES[settings.task][0] if settings.own_loss else settings.loss or LOSSES[settings.task][0], losses),
    }


def _check_optimizer(name: str, arguments: Sequence[tuple[str, Any]]) -> None:
    known = optimizer_arguments(name)
    strange = next((argument for argument, _ in arguments if argument not in known), None)
    if strange is not None:
        expected, hint = f"{name} takes {', '.join(known)}.", did_you_mean(strange, known)
        raise error("DLSQL_OPTION_VALUE", option="optimizer_args", value=repr(strange), expected=expected, hint=hint)
    if problem := try_optimizer(name, arguments):
        raise error("DLSQL_OPTION_VALUE", option="optimizer_args", value=repr(dict(arguments)), expected=f"torch says: {problem}.")


def schedule_of(settings: Settings, length: int | None = None) -> list[Schedule]:
    """The learning-rate schedules in torch's own spelling; torch has looked at their arguments.

    Args:
        settings: the options.
        length: how many epochs or steps they are for; by default epochs, and steps are looked at anew once it is known how many there are.
    """
    kinds, unit = schedules(), f"{settings.lr_interval}s"
    found: list[Schedule] = []
    for place, (name, given) in enumerate(settings.lr_schedule):
        arguments = dict(given)
        lasts = arguments.pop(unit, None)
        if name == "constant":
            if len(settings.lr_schedule) == 1:
                return []
            name, arguments = "constantlr", {"factor": 1.0, **arguments}
        kind = _named("lr_schedule", name, kinds)
        if kind == "ReduceLROnPlateau" and unit == "steps":
            expected = "it waits for the loss of an epoch; with `lr_interval` = 'step' the rate follows from the step alone."
            raise error("DLSQL_OPTION_VALUE", option="lr_schedule", value=repr(kind), expected=expected)
        if lasts is not None or place < len(settings.lr_schedule) - 1:
            if not isinstance(lasts, int) or lasts < 1:
                expected = f"each schedule but the last says for how many `{unit}` it lasts."
                raise error("DLSQL_OPTION_VALUE", option="lr_schedule", value=repr(kind), expected=expected)
            arguments["lasts"] = lasts
        found.append((kind, arguments))
    if problem := try_schedule(found, settings.learn_rate, length or settings.max_iterations):
        one, said = problem
        raise error("DLSQL_OPTION_VALUE", option="lr_schedule", value=repr(one), expected=f"torch says: {said}.")
    return found


def _named(option: str, given: str, known: Mapping[str, str]) -> str:
    if given.lower() not in known:
        expected = f"it takes one of {', '.join(sorted(known))}."
        raise error("DLSQL_OPTION_VALUE", option=option, value=repr(given), expected=expected, hint=did_you_mean(given, known))
    return known[given.lower()]


def _outline(frame: DataFrame, chosen: Columns, job: Job, code: own.Own) -> Outline:
    settings = job.settings
    learned = job.start.learned if job.start is not None else None
    if learned is not None:
        _check_same_columns(chosen, settings, learned)
    found = profile(job.bridge, chosen, settings, frame.count(), learned)
    spec = own.spec(settings, code, found.learned, found.largest) if settings.own_network else _tabular(settings, found.learned)
    parameters = own.check(settings, code, spec)
    own.check_workers(frame.sparkSession.sparkContext, code, spec)
    parallelism = frame.sparkSession.sparkContext.defaultParallelism
    return _among(Outline(found, spec, code.loss, parameters, 0, 0), settings, workers(settings, found.rows, parallelism))


def _among(outline: Outline, settings: Settings, workers: int) -> Outline:
    """The same with so many workers."""
    return dataclasses.replace(outline, workers=workers, batch=local_batch(settings, outline.found.rows, workers))


def perceptron(settings: Settings) -> tuple[tuple[str, Any], ...]:
    """What the network of the tabular kinds is built from."""
    return (
        ("hidden_units", settings.hidden_units), ("activation", settings.activation_fn), ("dropout", settings.dropout),
        ("batch_norm", settings.batch_norm),
    )  # fmt: skip


def _tabular(settings: Settings, learned: Preprocess) -> NetworkSpec:
    codes = tuple(one.codes for one in learned.features if one.kind == "category")
    return NetworkSpec(dense_width(learned.features), codes, learned.label.outputs, arguments=perceptron(settings))


def _check_same_columns(chosen: Columns, settings: Settings, learned: Preprocess) -> None:
    before = {feature.name.casefold(): feature.type for feature in learned.features}
    now = {name.casefold(): chosen.types[name] for name in chosen.features}
    if list(before.items()) != list(now.items()):
        said = ", ".join(f"{name} {type}" for name, type in before.items())
        raise error("DLSQL_SHAPE", problem=f"warm_start goes on with the same feature columns in the same order: {said}.")
    trained = [(label.name.casefold(), label.task) for label in learned.labels]
    asked = [(name.casefold(), label_task(settings.task, chosen.types[name])) for name in chosen.labels]
    if trained != asked and (learned.others or len(asked) > 1):
        said = ", ".join(f"{label.name} {label.type}" for label in learned.labels)
        raise error("DLSQL_SHAPE", problem=f"warm_start goes on with the same labels in the same order: {said}.")


def _local_steps(settings: Settings, names: Mapping[str, str], outline: Outline, threads: int) -> LocalSteps:
    return LocalSteps(
        outline.network, settings.task, names["loss"], names["optimizer"], outline.batch, settings.seed, threads, settings.optimizer_args,
        l1_reg=settings.l1_reg, l2_reg=settings.l2_reg, grad_clip=settings.grad_clip, grad_clip_value=settings.grad_clip_value,
        outer_learn_rate=settings.outer_learn_rate, outer_momentum=settings.outer_momentum, label_smoothing=settings.label_smoothing,
        class_weights=_class_weights(settings, outline.found), frozen=settings.freeze, own_loss=outline.loss,
        transport=settings.transport, mixed_precision=settings.mixed_precision,
        rate_factor=rate_factor(names["optimizer"], outline.batch / settings.batch_size),
    )  # fmt: skip


def _class_weights(settings: Settings, found: Profile) -> tuple[float, ...] | None:
    """The weight of each class; balanced as n / (classes * count), scikit-learn's rule for class_weight='balanced'."""
    if settings.auto_class_weights:
        (counts,) = found.class_counts
        return tuple(found.rows / (len(counts) * max(count, 1)) for count in counts)
    if settings.class_weights is None:
        return None
    assert found.learned.label.classes is not None
    given = dict(settings.class_weights)
    known = [str(value) for value in found.learned.label.classes.to_pylist()]
    strange = next((name for name in given if name.casefold() not in {one.casefold() for one in known}), None)
    if strange is not None:
        expected = f"it is no class of `{found.learned.label.name}`: {', '.join(known[:20])}."
        raise error("DLSQL_OPTION_VALUE", option="class_weights", value=repr(strange), expected=expected, hint=did_you_mean(strange, known))
    folded = {name.casefold(): weight for name, weight in given.items()}
    weights = tuple(folded.get(name.casefold(), 1.0) for name in known)
    if not any(weights):
        expected = "a class must weigh more than 0, or there is nothing to learn."
        raise error("DLSQL_OPTION_VALUE", option="class_weights", value=repr(given), expected=expected)
    return weights


def _first_state(job: Job, spec: NetworkSpec) -> State:
    fresh = initial_state(spec, job.settings.seed)
    _check_frozen(job.settings, [key.removeprefix("network/") for key in fresh])
    if job.start is None:
        return fresh
    taken = {key: value for key, value in job.start.state.items() if key in fresh and fresh[key].shape == value.shape}
    if not taken or (job.start.learned is not None and set(taken) != set(fresh)):
        shapes = ", ".join(f"{key.removeprefix('network/')} {list(value.shape)}" for key, value in fresh.items())
        raise error("DLSQL_SHAPE", problem=f"The earlier model's tensors do not fit this network, which has {shapes}.")
    return {**fresh, **taken}


def _check_frozen(settings: Settings, tensors: list[str]) -> None:
    frozen = {prefix: [name for name in tensors if name.startswith(prefix)] for prefix in settings.freeze}
    strange = next((prefix for prefix, names in frozen.items() if not names), None)
    if strange is not None:
        expected = f"no tensor's name begins so: {', '.join(tensors)}."
        raise error("DLSQL_OPTION_VALUE", option="freeze", value=repr(strange), expected=expected, hint=did_you_mean(strange, tensors))
    if len({name for names in frozen.values() for name in names}) == len(tensors):
        raise error("DLSQL_OPTION_VALUE", option="freeze", value=repr(settings.freeze), expected="nothing is left to train.")


def _fingerprint(job: Job, outline: Outline, blocks: Blocks, state: State, code: own.Own) -> str:
    """A checkpoint belongs to the same model, options, columns, rows, tensors and code, and to no other training."""
    found = outline.found
    started = "" if job.start is None else hashlib.sha256(_npz(job.start.state)).hexdigest()
    said = dataclasses.asdict(dataclasses.replace(job.settings, resume=True, checkpoint_every=1))
    counted = [found.rows, found.skipped, list(found.class_counts), str(found.split_at), blocks.content]
    counted += [[(key, value.shape) for key, value in state.items()], own.sources(code)]  # either may have changed under a factory's name
    return checkpoint.fingerprint(job.model, json.dumps(said, default=str), found.learned.to_json(), json.dumps(counted), started)


def _artefact(spec: NetworkSpec, state: State, learned: Preprocess) -> dict[str, bytes]:
    weights = {key: value for key, value in state.items() if key.startswith("network/")}
    return {
        **onnx.files(onnx.export(spec, state)),
        "preprocess.json": learned.to_json().encode(),
        "network.json": json.dumps(spec.described()).encode(),
        "weights.npz": _npz(weights),
    }


_CALIBRATED_ROWS = 1_000


def _check_quantized(spec: NetworkSpec, state: State) -> None:
    """Raises UnsupportedError for a network whose tensors lie apart from its graph: before it trains, since its size stays what it is."""
    files = onnx.files(onnx.export(spec, state))
    if TENSORS in files:
        hint = f" This network has {sum(map(len, files.values())) / 2**20:.0f} MB; leave `quantization` out."
        raise error("DLSQL_UNSUPPORTED", feature="int8 of a network of more than 16 MB", hint=hint)


def _quantized(
    context: SparkContext,
    blocks: Blocks,
    steps: LocalSteps,
    artefact: Mapping[str, bytes],
    learned: Preprocess,
    before: Mapping[str, float],
) -> tuple[dict[str, bytes], dict[str, float]]:  # fmt: skip
    """The artefact with its network in int8, and the metrics of that beside what those of the float32 one were."""
    graph = onnx.quantized(artefact["model.onnx"], *first_rows(blocks, steps, _CALIBRATED_ROWS))
    files = {**artefact, "model.onnx": graph}
    found = metrics.metrics(evaluate_files(context, blocks, steps, files, held_out=blocks.holds_out), learned.labels)
    return files, {**found, **{f"{name}_float32": value for name, value in before.items() if name in found}}


def _npz(state: State) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **state)  # type: ignore[arg-type]
    return sink.getvalue()
