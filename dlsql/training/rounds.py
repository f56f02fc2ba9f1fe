"""The loop over rounds: each is one short Spark job, whose tasks are pure functions of their blocks, the state before it and the seed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pyspark import SparkContext

from dlsql.errors import error
from dlsql.model import RoundInfo
from dlsql.options import Settings
from dlsql.training.checkpoint import Checkpoint
from dlsql.training.merge import merge
from dlsql.training.pack import Blocks
from udfs import metrics
from udfs.spec import Label, LocalSteps
from udfs.train import Evaluated, Round, State, Trained, evaluate, learning_rates, train_round


@dataclass(frozen=True, slots=True)
class Plan:
    """A training that is ready to run."""

    title: str  # for Spark's UI
    settings: Settings
    steps: LocalSteps
    schedule: str | None  # a class of torch.optim.lr_scheduler
    label: Label


@dataclass(slots=True)
class Progress:
    """What the loop carries from round to round, beside the state."""

    rounds: list[RoundInfo] = field(default_factory=list)
    epoch: int = 0
    first: int = 0  # step of the epoch
    best_loss: float = math.inf
    best: State | None = None  # the state that the best epoch ended with
    best_metrics: dict[str, float] = field(default_factory=dict)
    reference: float = math.inf  # the loss that the next one must beat by min_rel_progress
    stale: int = 0  # epochs without progress
    stopped: bool = False


def run(
    context: SparkContext, blocks: Blocks, plan: Plan, state: State, start: Checkpoint | None,
    on_round: Callable[[list[RoundInfo]], None], save: Callable[[Checkpoint], None],
) -> tuple[State, Progress]:  # fmt: skip
    """Trains, and gives the best state that an epoch ended with.

    Raises:
        DataError: the loss is no number any more.
    """
    settings = plan.settings
    rates = learning_rates(plan.schedule, dict(settings.lr_schedule[1]), settings.learn_rate, settings.max_iterations)
    progress = Progress()
    if start is not None:
        state, progress = _resumed(start)
    with described(context, f"{plan.title}: packing rows into blocks"):
        rows = _rows_by_partition(context, blocks)
    if not any(rows[: blocks.workers]):
        raise error("DLSQL_TRAINING_DATA", problem="Every usable row is held out for evaluation; none is left to train on.")
    steps = math.ceil(max(rows[: blocks.workers]) / settings.batch_size)
    every = min(settings.sync_every or steps, steps)
    has_held_out = any(rows[blocks.workers :])
    while progress.epoch < settings.max_iterations and not progress.stopped:
        began = time.perf_counter()
        this = Round(progress.epoch, progress.first, None if every == steps else every, rates[progress.epoch])
        number = len(progress.rounds) + 1
        shown = f", loss {progress.rounds[-1].train_loss:.4g}" if progress.rounds else ""
        ends = progress.first + every >= steps
        with described(context, f"{plan.title}: round {number}, epoch {this.epoch + 1}/{settings.max_iterations}{shown}"):
            parts = _train(context, blocks, plan.steps, this, state)
            state = merge(parts)
            evaluated = _evaluate(context, blocks, plan.steps, state, blocks.evaluation) if ends and has_held_out else []
        info = _info(number, this, parts, evaluated, plan, time.perf_counter() - began)
        progress.rounds.append(info)
        progress.epoch, progress.first = (this.epoch + 1, 0) if ends else (this.epoch, this.first + every)
        if ends:
            _judge(progress, state, info, settings)
        if number % settings.checkpoint_every == 0:
            save(_checkpoint(progress, state))
        on_round(progress.rounds)
    best = state if progress.best is None else progress.best
    if not has_held_out:
        with described(context, f"{plan.title}: evaluating on the training rows"):
            progress.best_metrics = metrics.metrics(_evaluate(context, blocks, plan.steps, best, blocks.training), plan.label)
    return best, progress


def _judge(progress: Progress, state: State, info: RoundInfo, settings: Settings) -> None:
    """After an epoch: is it the best, was there progress, is it time to stop? Early stopping as BigQuery ML defines it."""
    loss = info.eval_loss if info.eval_loss is not None else info.train_loss
    assert loss is not None
    if loss < progress.best_loss:
        progress.best_loss, progress.best, progress.best_metrics = loss, state, dict(info.metrics)
    if loss < progress.reference * (1 - settings.min_rel_progress):
        progress.reference, progress.stale = loss, 0
    else:
        progress.stale += 1
    progress.stopped = settings.early_stop and progress.stale >= settings.patience


def _info(number: int, this: Round, parts: list[Trained], evaluated: list[Evaluated], plan: Plan, seconds: float) -> RoundInfo:
    """A round as a row. Raises DataError where its loss is no number."""
    rows = sum(part.rows for part in parts)
    train_loss = sum(part.loss for part in sorted(parts, key=lambda part: part.worker)) / sum(part.weight for part in parts)
    eval_loss = metrics.loss(evaluated)
    for loss in (train_loss, eval_loss):
        if loss is not None and not math.isfinite(loss):
            raise error("DLSQL_DIVERGED", loss=loss, round=number, learn_rate=this.learning_rate)
    counted = metrics.metrics(evaluated, plan.label)
    return RoundInfo(
        number, this.epoch + 1, rows, train_loss, eval_loss, counted, this.learning_rate, seconds, rows / seconds, datetime.now(UTC)
    )


def _checkpoint(progress: Progress, state: State) -> Checkpoint:
    carried = {name: getattr(progress, name) for name in _CARRIED}
    rounds = [{**asdict(one), "at": one.at.isoformat()} for one in progress.rounds]
    best = {} if progress.best is None or progress.best is state else {f"{_BEST}{key}": value for key, value in progress.best.items()}
    return Checkpoint(len(rounds), {**state, **best}, {**carried, "rounds": rounds})


def _resumed(start: Checkpoint) -> tuple[State, Progress]:
    """The inverse of `_checkpoint`."""
    state = {key: value for key, value in start.state.items() if not key.startswith(_BEST)}
    best = {key.removeprefix(_BEST): value for key, value in start.state.items() if key.startswith(_BEST)}
    rounds = [RoundInfo(**{**one, "at": datetime.fromisoformat(one["at"])}) for one in start.progress["rounds"]]
    best = best or (state if math.isfinite(start.progress["best_loss"]) else {})
    return state, Progress(rounds, best=best or None, **{name: start.progress[name] for name in _CARRIED})


_BEST = "best/"
_CARRIED = ("epoch", "first", "best_loss", "best_metrics", "reference", "stale", "stopped")


def _rows_by_partition(context: SparkContext, blocks: Blocks) -> list[int]:
    def count(partition: Any) -> Iterator[int]:
        yield sum(block[1] for block in partition)

    return list(context.runJob(blocks.rdd, count))


def _train(context: SparkContext, blocks: Blocks, steps: LocalSteps, this: Round, state: State) -> list[Trained]:
    with shared(context, state) as broadcast:
        return list(context.runJob(blocks.rdd, partial(train_round, steps, this, broadcast), blocks.training))


def _evaluate(context: SparkContext, blocks: Blocks, steps: LocalSteps, state: State, partitions: list[int]) -> list[Evaluated]:
    with shared(context, state) as broadcast:
        return list(context.runJob(blocks.rdd, partial(evaluate, steps, broadcast), partitions))


@contextmanager
def shared(context: SparkContext, state: State) -> Iterator[Any]:
    """A state that every executor fetches once, for as long as a round lasts."""
    broadcast = context.broadcast(state)
    try:
        yield broadcast
    finally:
        broadcast.destroy()


@contextmanager
def described(context: SparkContext, text: str) -> Iterator[None]:
    """What Spark's UI says of the jobs within."""
    before = context.getLocalProperty("spark.job.description")
    context.setLocalProperty("spark.job.description", text)
    try:
        yield
    finally:
        context.setLocalProperty("spark.job.description", before)  # type: ignore[arg-type]
