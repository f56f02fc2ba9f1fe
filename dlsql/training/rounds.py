"""The loop over rounds: each is one short Spark job, whose tasks are pure functions of their blocks, the state before it and the seed."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice

import numpy as np
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext
from pyspark.errors import PySparkException

from dlsql.bridge import slots, was_cancelled
from dlsql.errors import error
from dlsql.model import RoundInfo
from dlsql.options import Settings
from dlsql.training import jobs
from dlsql.training.background import Behind
from dlsql.training.checkpoint import Checkpoint
from dlsql.training.jobs import Done, StarvedError
from dlsql.training.pack import Blocks
from udfs import metrics
from udfs.metrics import Evaluated
from udfs.schedules import Schedule, learning_rates
from udfs.spec import Label, LocalSteps
from udfs.state import PIECE, State
from udfs.stopping import Standing
from udfs.train import Round, Task, Trained

_AVERAGINGS, _FEWEST_STEPS = 16, 16  # by default: averagings an epoch, and steps between them, of which fewer teach no more
_FIRST_STEPS, _ROUND_SECONDS = 256, 20.0  # a round is cut to this length: what a lost executor or a cancelled statement costs at most
_APART_SECONDS = 60.0  # after a gang for which cores did not get free: workers that need not begin together get on beside other jobs
_JOINED_EPOCHS, _JOINED_SECONDS = 500, 5.0  # epochs share a job, which costs a tenth of a second: what they learned is seen after it
_JOINED_STEPS = 10_000  # of them, where each has a rate of its own, which travels with the job


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
    standing: Standing = field(default_factory=Standing)
    stopped: bool = False

    @property
    def seconds(self) -> float:
        """That the rounds have taken, together."""
        return sum(one.seconds for one in self.rounds)


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
    steps = epoch_steps(blocks, plan.steps)
    seconds_a_step: float | None = None
    conf = context.getConf()  # a copy, which takes 20 ms: not once a round
    failures, most_failures = 0, int(conf.get("spark.task.maxFailures", "4") or 4)
    host = str(conf.get("spark.driver.host"))  # by which executors reach the driver anyway
    coming = _Rates(plan, progress, steps)
    apart = -math.inf  # until when no gang is tried
    while progress.epoch < settings.max_iterations and not progress.stopped:
        began = time.perf_counter()
        pace = _pace(context, blocks.workers, settings, steps, gangs=began >= apart)
        rounds = _rounds(pace, plan, progress, seconds_a_step, coming, blocks.holds_out, state)
        seconds = min(_JOINED_SECONDS, math.inf if settings.max_seconds is None else settings.max_seconds - progress.seconds)
        task = Task(plan.steps, rounds, settings.rules, progress.standing, progress.best_loss, plan.labels, seconds)
        try:
            with jobs.described(context, f"{plan.title}: {_said(rounds, progress, settings)}"):
                found = jobs.train(context, blocks, task, state, host if pace.gang else None, pace.free)
        except StarvedError:
            apart = time.perf_counter() + _APART_SECONDS
            continue
        except (Py4JJavaError, PySparkException) as e:
            # Spark starts a lost task anew, but not one of a barrier stage: there the round is begun anew, from the state before it,
            # and by whichever way of agreeing the executors that are left allow.
            failures += 1
            if not pace.gang or failures >= most_failures or was_cancelled(e):
                raise
            continue
        failures = 0
        seconds = (time.perf_counter() - began) / len(found)  # those of one job share its time
        seconds_a_step = seconds / (sum(this.count for this, _ in zip(rounds, found, strict=False)) / len(found))
        before = len(progress.rounds)
        for this, done in zip(rounds, found, strict=False):
            state = done.state or state
            _take(progress, this, done, plan, seconds, steps)
            coming.passed(this, progress.losses[-1] if progress.first == 0 else None)
            if progress.stopped and done.state:
                break
        if len(progress.rounds) // settings.checkpoint_every > before // settings.checkpoint_every:
            behind("A checkpoint", partial(save, _checkpoint(progress, state, blocks.workers)))
        behind("The progress", partial(on_round, list(progress.rounds)))
    best = state if progress.best is None else progress.best
    if not blocks.holds_out:
        with jobs.described(context, f"{plan.title}: evaluating on the training rows"):
            evaluated = jobs.evaluate_all(context, blocks, plan.steps, best, held_out=False)
        last = progress.rounds[-1]
        _check_finite_loss("The loss on the training rows", metrics.loss(evaluated), last.round, last.learning_rate)
        progress.best_metrics = metrics.metrics(evaluated, plan.labels)
    return best, progress


def _check_finite_loss(what: str, loss: float | None, number: int, learn_rate: float) -> None:
    if loss is not None and not math.isfinite(loss):
        raise error("DLSQL_DIVERGED", what=what, value=loss, round=number, learn_rate=learn_rate)


def _pace(context: SparkContext, workers: int, settings: Settings, steps: int, *, gangs: bool) -> _Pace:
    """A gang needs a core for each worker: it is asked for anew before each round, since executors come and go."""
    every = min(settings.sync_every or max(math.ceil(steps / _AVERAGINGS), _FEWEST_STEPS), steps)
    outer = (settings.outer_learn_rate, settings.outer_momentum) != (1.0, 0.0)
    alone = workers == 1 and not outer
    return _Pace(steps, every, alone, gangs and not alone and slots(context) >= workers)


def _rounds(
    pace: _Pace, plan: Plan, progress: Progress, seconds_a_step: float | None, coming: "_Rates", evaluates: bool, state: State
) -> tuple[Round, ...]:
    """The rounds of the next job: as much of an epoch as fits into one, or all epochs that are left, and it takes those it has time for.

    How they are cut does not change what is learned.
    """
    settings = plan.settings
    left = math.inf if settings.max_steps is None else settings.max_steps - progress.epoch * pace.steps - progress.first
    a_step = seconds_a_step or 0.0
    long = a_step * pace.steps > _JOINED_SECONDS  # an epoch
    if long and settings.max_seconds is not None:
        left = min(left, max((settings.max_seconds - progress.seconds) // a_step, 1))
    count = int(min(_length(pace, seconds_a_step), pace.steps - progress.first, left))
    every = pace.steps + 1 if pace.free else pace.every
    ends = count == left or progress.first + count == pace.steps
    network = sum(value.nbytes for key, value in state.items() if key.startswith("network/"))
    large = 2 * 3 * network > PIECE  # two states, with two moments each, come to the driver of several rounds
    alone = long or large or count < pace.steps or not (pace.free or pace.gang)
    epochs = 1 if alone else int(min(settings.max_iterations - progress.epoch, left / pace.steps, _JOINED_EPOCHS))
    return tuple(
        Round(progress.epoch + i, progress.first, count, rate, every, ends and evaluates, (i + 1) * count == left, of_steps)
        for i, (rate, of_steps) in enumerate(coming.of_rounds(count, epochs))
    )


def epoch_steps(blocks: Blocks, steps: LocalSteps) -> int:
    """How many steps an epoch has: those of the worker with the most rows."""
    return math.ceil(max(training for training, _ in blocks.rows) / steps.batch_size)


def rate_count(settings: Settings, steps: int) -> int:
    """How many learning rates a training may come to, where its epochs have so many steps."""
    if settings.lr_interval == "epoch":
        return settings.max_iterations
    most = settings.max_iterations * steps
    return max(most if settings.max_steps is None else min(most, settings.max_steps), 1)


class _Rates:
    """The learning rates of the epochs to come, or of the steps."""

    def __init__(self, plan: Plan, progress: Progress, steps: int) -> None:
        self.by_step = plan.settings.lr_interval == "step"
        self._left = rate_count(plan.settings, steps)  # a schedule may end with the last, and is not asked for more
        self._rates = learning_rates(plan.schedule, plan.settings.learn_rate, self._left)
        self._known = deque([next(self._rates)])
        self._waits = any(name == "ReduceLROnPlateau" for name, _ in plan.schedule)  # for the loss of an epoch before the next one's rate
        if self.by_step:
            self._pass(min(progress.epoch * steps + progress.first, self._left))
        else:
            for loss in progress.losses:
                self._pass(1, loss)

    def of_rounds(self, count: int, most: int) -> list[tuple[float, tuple[float, ...]]]:
        """What the next rounds of so many steps begin with, and the rates of their steps where these differ. As far as it is known."""
        if not self.by_step:
            return [(rate, ()) for rate in self.ahead(most)]
        most = max(min(most, _JOINED_STEPS // count), 1)
        known = self.ahead(most * count)
        return [(known[at], tuple(known[at : at + count])) for at in range(0, len(known), count)]

    def ahead(self, count: int) -> list[float]:
        """Those of the next epochs or steps, so many or as far as they are known."""
        while len(self._known) < count and not self._waits:
            self._known.append(self._rates.send(0.0))
        return list(islice(self._known, count))

    def passed(self, this: Round, loss: float | None) -> None:
        """A round is over, and an epoch has ended with this loss, if one has."""
        if self.by_step:
            self._pass(this.count)
        elif loss is not None:
            self._pass(1, loss)

    def _pass(self, count: int, loss: float = 0.0) -> None:
        for _ in range(count):
            self._known.popleft()
            self._left -= 1
            if not self._known and self._left:
                self._known.append(self._rates.send(loss))


def _said(rounds: Sequence[Round], progress: Progress, settings: Settings) -> str:
    """Of a job, for Spark's UI."""
    number, epoch, more = len(progress.rounds) + 1, rounds[0].epoch + 1, len(rounds) - 1
    loss = progress.rounds[-1].train_loss if progress.rounds else None
    shown = "" if loss is None else f", loss {loss:.4g}"
    if more:
        return f"rounds {number} and on, epochs {epoch} and on of {settings.max_iterations}{shown}"
    return f"round {number}, epoch {epoch}/{settings.max_iterations}{shown}"


def _length(pace: _Pace, seconds_a_step: float | None) -> int:
    """Steps of the next round. Where a gang's round is cut does not change what it learns, so time may decide it."""
    if not (pace.free or pace.gang):
        return pace.every
    wanted = _FIRST_STEPS if seconds_a_step is None else int(_ROUND_SECONDS / seconds_a_step)
    return max(wanted, 1) if pace.free else max(wanted // pace.every, 1) * pace.every


def _take(progress: Progress, this: Round, done: Done, plan: Plan, seconds: float, steps: int) -> None:
    """A round that is over. Raises DataError where its loss, or a weight, is no number."""
    number = len(progress.rounds) + 1
    info = _info(number, this, done.parts, done.evaluated, plan, seconds)
    _check_finite(done.state, number, this)
    progress.rounds.append(info)
    ends = this.last or this.first + this.count == steps
    progress.epoch, progress.first = (this.epoch + 1, 0) if ends else (this.epoch, this.first + this.count)
    if ends:
        _judge(progress, done.state, plan.settings)
        progress.stopped |= this.last


def _judge(progress: Progress, state: State, settings: Settings) -> None:
    """After an epoch: is it the best, and is it time to stop?"""
    last = progress.rounds[-1]
    epoch = [one for one in progress.rounds if one.epoch == last.epoch]
    trained = (last.train_loss or 0.0) if len(epoch) == 1 else _mean_loss(epoch)
    loss = trained if last.eval_loss is None else last.eval_loss
    progress.losses.append(loss)
    if loss < progress.best_loss:
        progress.best_loss, progress.best, progress.best_metrics = loss, state, dict(last.metrics)
    progress.standing = progress.standing.after(settings.rules, loss)
    out_of_time = settings.max_seconds is not None and progress.seconds >= settings.max_seconds
    progress.stopped = out_of_time or progress.standing.is_enough(settings.rules, loss, last.metrics)


def _mean_loss(rounds: Sequence[RoundInfo]) -> float:
    return sum((one.train_loss or 0.0) * one.rows for one in rounds) / max(sum(one.rows for one in rounds), 1)


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


def _checkpoint(progress: Progress, state: State, workers: int) -> Checkpoint:
    carried = {name: copy(getattr(progress, name)) for name in _CARRIED}  # it is written while the training goes on
    rounds = [{**asdict(one), "at": one.at.isoformat()} for one in progress.rounds]
    best = {} if progress.best is None or progress.best is state else {f"{_BEST}{key}": value for key, value in progress.best.items()}
    return Checkpoint(len(rounds), workers, {**state, **best}, {**carried, "standing": asdict(progress.standing), "rounds": rounds})


def _resumed(start: Checkpoint) -> tuple[State, Progress]:
    """The inverse of `_checkpoint`."""
    state = {key: value for key, value in start.state.items() if not key.startswith(_BEST)}
    best = {key.removeprefix(_BEST): value for key, value in start.state.items() if key.startswith(_BEST)}
    rounds = [RoundInfo(**{**one, "at": datetime.fromisoformat(one["at"])}) for one in start.progress["rounds"]]
    best = best or (state if math.isfinite(start.progress["best_loss"]) else {})
    carried = {name: start.progress[name] for name in _CARRIED}
    return state, Progress(rounds, best=best or None, standing=Standing(**start.progress["standing"]), **carried)


_BEST = "best/"
_CARRIED = ("epoch", "first", "losses", "best_loss", "best_metrics", "stopped")
