"""The loop over rounds: each is one short Spark job, whose tasks are pure functions of their blocks, the state before it and the seed."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from py4j.protocol import Py4JJavaError
from pyspark import RDD, Broadcast, SparkContext
from pyspark.errors import PySparkException

from dlsql.bridge import patience, slots, was_cancelled
from dlsql.errors import error
from dlsql.model import RoundInfo
from dlsql.options import Settings
from dlsql.training.background import Behind
from dlsql.training.checkpoint import Checkpoint
from dlsql.training.pack import Blocks
from udfs import metrics
from udfs.schedules import Schedule, learning_rates
from udfs.spec import Label, LocalSteps
from udfs.state import PIECE, Piece, Shares, State, cut, joined, merged, numbered
from udfs.sync import address_book
from udfs.train import Evaluated, Gpus, Round, Seated, Told, Trained, evaluate, half_step, no_seat, stepped_out, train_round

_AVERAGINGS = 16  # an epoch, by default
_FIRST_STEPS, _ROUND_SECONDS = 256, 20.0  # a round is cut to this length: what a lost executor or a cancelled statement costs at most


@dataclass(frozen=True, slots=True)
class Plan:
    """A training that is ready to run."""

    title: str  # for Spark's UI
    settings: Settings
    steps: LocalSteps
    schedule: Sequence[Schedule]
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class _Pace:
    """How the workers of this training keep together."""

    steps: int  # an epoch
    every: int  # steps between averagings
    free: bool  # one worker, that averages with nobody: its rounds may be cut anywhere
    gang: bool  # averagings happen inside a round; else each ends one


@dataclass(slots=True)
class Progress:
    """What the loop carries from round to round, beside the state."""

    rounds: list[RoundInfo] = field(default_factory=list)
    epoch: int = 0
    first: int = 0  # step of the epoch
    losses: list[float] = field(default_factory=list)  # of each epoch
    best_loss: float = math.inf
    best: State | None = None  # the state that the best epoch ended with
    best_metrics: dict[str, float] = field(default_factory=dict)
    reference: float = math.inf  # the loss that the next one must beat by min_rel_progress
    stale: int = 0  # epochs without progress
    stopped: bool = False


def run(
    context: SparkContext, blocks: Blocks, plan: Plan, state: State, start: Checkpoint | None,
    on_round: Callable[[list[RoundInfo]], None], save: Callable[[Checkpoint], None], behind: Behind,
) -> tuple[State, Progress]:  # fmt: skip
    """Trains, and gives the best state that an epoch ended with.

    Raises:
        DataError: there are no rows to train on, or the loss is no number any more.
    """
    settings = plan.settings
    progress = Progress()
    if start is not None:
        state, progress = _resumed(start)
    if not any(training for training, _ in blocks.rows):
        raise error("DLSQL_TRAINING_DATA", problem="Every usable row is held out for evaluation; none is left to train on.")
    has_held_out = any(held_out for _, held_out in blocks.rows)
    steps = math.ceil(max(training for training, _ in blocks.rows) / plan.steps.batch_size)
    seconds_a_step: float | None = None
    conf = context.getConf()  # a copy, which takes 20 ms: not once a round
    failures, most_failures = 0, int(conf.get("spark.task.maxFailures", "4") or 4)
    host = str(conf.get("spark.driver.host"))  # by which executors reach the driver anyway
    rates = learning_rates(plan.schedule, settings.learn_rate, settings.max_iterations)
    rate = next(rates)
    for loss in progress.losses:
        rate = rates.send(loss)
    while progress.epoch < settings.max_iterations and not progress.stopped:
        began = time.perf_counter()
        pace = _pace(context, blocks.workers, settings, steps)
        left = math.inf if settings.max_steps is None else settings.max_steps - progress.epoch * steps - progress.first
        count = int(min(_length(pace, seconds_a_step), steps - progress.first, left))
        ends = count == left or progress.first + count == steps
        every = pace.steps + 1 if pace.free else pace.every
        this = Round(progress.epoch, progress.first, count, rate, every, ends and has_held_out)
        number = len(progress.rounds) + 1
        before = progress.rounds[-1].train_loss if progress.rounds else None
        shown = "" if before is None else f", loss {before:.4g}"
        try:
            with described(context, f"{plan.title}: round {number}, epoch {this.epoch + 1}/{settings.max_iterations}{shown}"):
                state, parts, evaluated = _round(context, blocks, plan.steps, this, state, host if pace.gang else None, pace.free)
        except (Py4JJavaError, PySparkException) as e:
            # Spark starts a lost task anew, but not one of a barrier stage: there the round is begun anew, from the state before it,
            # and by whichever way of agreeing the executors that are left allow.
            failures += 1
            if not pace.gang or failures >= most_failures or was_cancelled(e):
                raise
            continue
        failures = 0
        seconds_a_step = (time.perf_counter() - began) / count
        info = _info(number, this, parts, evaluated, plan, time.perf_counter() - began)
        _check_finite(state, number, this)
        progress.rounds.append(info)
        progress.epoch, progress.first = (this.epoch + 1, 0) if ends else (this.epoch, this.first + count)
        if ends:
            _judge(progress, state, settings)
            rate = rates.send(progress.losses[-1])
            progress.stopped |= count == left
        if number % settings.checkpoint_every == 0:
            behind("A checkpoint", partial(save, _checkpoint(progress, state)))
        behind("The progress", partial(on_round, list(progress.rounds)))
    best = state if progress.best is None else progress.best
    if not has_held_out:
        with described(context, f"{plan.title}: evaluating on the training rows"):
            evaluated = _evaluate(context, blocks, plan.steps, best, held_out=False)
        last = progress.rounds[-1]
        _check_finite_loss("The loss on the training rows", metrics.loss(evaluated), last.round, last.learning_rate)
        progress.best_metrics = metrics.metrics(evaluated, plan.labels)
    return best, progress


def _check_finite_loss(what: str, loss: float | None, number: int, learn_rate: float) -> None:
    if loss is not None and not math.isfinite(loss):
        raise error("DLSQL_DIVERGED", what=what, value=loss, round=number, learn_rate=learn_rate)


def _pace(context: SparkContext, workers: int, settings: Settings, steps: int) -> _Pace:
    """A gang needs a free core for each worker, now: it is asked for anew before each round, since executors come and go."""
    every = min(settings.sync_every or math.ceil(steps / _AVERAGINGS), steps)
    outer = (settings.outer_learn_rate, settings.outer_momentum) != (1.0, 0.0)
    alone = workers == 1 and not outer
    return _Pace(steps, every, alone, not alone and every < steps and slots(context) >= workers)


def _length(pace: _Pace, seconds_a_step: float | None) -> int:
    """Steps of the next round. Where a gang's round is cut does not change what it learns, so time may decide it."""
    if not (pace.free or pace.gang):
        return pace.every
    wanted = _FIRST_STEPS if seconds_a_step is None else int(_ROUND_SECONDS / seconds_a_step)
    return max(wanted, 1) if pace.free else max(wanted // pace.every, 1) * pace.every


def _round(
    context: SparkContext, blocks: Blocks, steps: LocalSteps, this: Round, state: State, host: str | None, free: bool
) -> tuple[State, list[Trained], list[Evaluated]]:
    """One round: its merged state, what the workers trained, and what they counted on the rows held out. A gang meets at `host`."""
    fused = host is not None or free  # then the workers hold the merged state already
    asked = replace(this, evaluates=this.evaluates and fused)
    book = None if host is None else address_book(host)
    with shared(context, state) as shares:
        seat = no_seat if book is None else _barrier_seat((str(host), book.port), patience(context))
        task = partial(train_round, steps, asked, shares, seat, _gpus())
        tasks: RDD[Told] = blocks.rdd.mapPartitions(task) if book is None else blocks.rdd.barrier().mapPartitions(task)
        parts, evaluated, pieces = _sorted_out(_found(tasks, _pieces_back(state)))
        after = joined(pieces)
    del book
    parts.sort(key=lambda part: part.worker)
    if not parts:  # nobody had a batch to learn from
        after = state
    if fused:
        return after, parts, evaluated
    if parts:
        after = half_step(steps, this.learning_rate, state, after) if this.sync_every == 1 else stepped_out(steps, state, after)
    return after, parts, _evaluate(context, blocks, steps, after, held_out=True) if this.evaluates else evaluated


def _found(tasks: "RDD[Told]", pieces: int) -> Iterator[Told]:
    """What the tasks of a round return, the same pieces of several workers as one.

    Where there are many, tasks average them, as in BigDL (Dai et al., SoCC 2019), and they come to the driver one after the other: a job's
    result lies several times in the heap of the driver's JVM, and may not exceed spark.driver.maxResultSize.
    """
    if pieces == 1:
        return merged(tasks.collect())
    return tasks.map(numbered).partitionBy(pieces, int).values().mapPartitions(merged).toLocalIterator()


def _pieces_back(state: State) -> int:
    """How many pieces the state of a round may have; before the first one the optimiser has nothing yet, and most then hold two moments."""
    size = sum(value.nbytes for value in state.values())
    begun = any(key.startswith("optimizer/") for key in state)
    return -(-size * (1 if begun or size <= PIECE else 3) // PIECE) or 1


def _sorted_out(found: Iterable[Told]) -> tuple[list[Trained], list[Evaluated], Iterator[Piece]]:
    """What the workers tell, in lists that fill up as the pieces are taken."""
    parts: list[Trained] = []
    evaluated: list[Evaluated] = []

    def pieces() -> Iterator[Piece]:
        for one in found:
            if isinstance(one, Piece):
                yield one
            else:
                parts.append(one) if isinstance(one, Trained) else evaluated.append(one)

    return parts, evaluated, pieces()


def _judge(progress: Progress, state: State, settings: Settings) -> None:
    """After an epoch: is it the best, was there progress, is it time to stop? Early stopping as BigQuery ML defines it."""
    last = progress.rounds[-1]
    epoch = [one for one in progress.rounds if one.epoch == last.epoch]
    trained = sum((one.train_loss or 0.0) * one.rows for one in epoch) / max(sum(one.rows for one in epoch), 1)
    loss = trained if last.eval_loss is None else last.eval_loss
    progress.losses.append(loss)
    if loss < progress.best_loss:
        progress.best_loss, progress.best, progress.best_metrics = loss, state, dict(last.metrics)
    if loss < progress.reference * (1 - settings.min_rel_progress):
        progress.reference, progress.stale = loss, 0
    else:
        progress.stale += 1
    progress.stopped = (settings.early_stop and progress.stale >= settings.patience) or _is_enough(progress, loss, settings)


def _is_enough(progress: Progress, loss: float, settings: Settings) -> bool:
    """The other reasons to stop after an epoch."""
    score = progress.rounds[-1].metrics.get(_SCORES[settings.task])
    return bool(
        (settings.min_loss is not None and loss <= settings.min_loss)
        or (settings.max_score is not None and score is not None and score >= settings.max_score)
        or (settings.max_seconds is not None and sum(one.seconds for one in progress.rounds) >= settings.max_seconds)
    )


_SCORES = {"classification": "accuracy", "regression": "r2_score"}


def _check_finite(state: State, number: int, this: Round) -> None:
    """Raises DataError for a weight that is no number: a round's loss is that of the weights before its last steps."""
    strange = [values[~np.isfinite(values)] for key, values in state.items() if key.startswith("network/") and values.dtype.kind == "f"]
    for values in strange:
        if len(values):
            raise error("DLSQL_DIVERGED", what="A weight", value=float(values[0]), round=number, learn_rate=this.learning_rate)


def _info(number: int, this: Round, parts: list[Trained], evaluated: list[Evaluated], plan: Plan, seconds: float) -> RoundInfo:
    """A round as a row. Raises DataError where its loss is no number."""
    rows = sum(part.rows for part in parts)
    weight = sum(part.weight for part in parts)
    train_loss = sum(part.loss for part in parts) / weight if weight else None  # batch norm leaves a batch of one row out
    eval_loss = metrics.loss(evaluated)
    for what, loss in (("The training loss", train_loss), ("The evaluation loss", eval_loss)):
        _check_finite_loss(what, loss, number, this.learning_rate)
    counted = metrics.metrics(evaluated, plan.labels)
    return RoundInfo(
        number, this.epoch + 1, rows, train_loss, eval_loss, counted, this.learning_rate, seconds, rows / seconds, datetime.now(UTC)
    )


def _checkpoint(progress: Progress, state: State) -> Checkpoint:
    carried = {name: copy(getattr(progress, name)) for name in _CARRIED}  # it is written while the training goes on
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
_CARRIED = ("epoch", "first", "losses", "best_loss", "best_metrics", "reference", "stale", "stopped")


def _evaluate(context: SparkContext, blocks: Blocks, steps: LocalSteps, state: State, *, held_out: bool) -> list[Evaluated]:
    with shared(context, state) as shares:
        return blocks.rdd.mapPartitions(partial(evaluate, steps, shares, held_out, _gpus())).collect()


# What follows is defined within functions, so that it travels by value: executors do not have this module.


def _barrier_seat(book: tuple[str, int], seconds: int) -> Seated:
    def seat() -> Any:
        from pyspark import BarrierTaskContext

        from udfs.sync import Seat

        task = BarrierTaskContext.get()
        hosts = tuple(one.address.rpartition(":")[0] or one.address for one in task.getTaskInfos())
        return Seat(task.partitionId(), hosts, book, seconds)

    return seat


def _gpus() -> Gpus:
    def gpus() -> Sequence[str]:
        from pyspark import TaskContext

        task = TaskContext.get()
        given = None if task is None else task.resources().get("gpu")
        return () if given is None else tuple(given.addresses)

    return gpus


@contextmanager
def shared(context: SparkContext, state: State) -> Iterator[Shares]:
    """A state that every executor fetches once, for as long as a round lasts."""
    pieces: list[Broadcast[Piece]] = []
    try:
        for piece in cut(state):
            pieces.append(context.broadcast(piece))
        yield Shares(tuple(pieces))
    finally:
        for one in pieces:
            one.destroy()


@contextmanager
def described(context: SparkContext, text: str) -> Iterator[None]:
    """What Spark's UI says of the jobs within."""
    before = context.getLocalProperty("spark.job.description")
    context.setLocalProperty("spark.job.description", text)
    try:
        yield
    finally:
        context.setLocalProperty("spark.job.description", before)  # type: ignore[arg-type]
