"""When a training ends, and whose weights it keeps: the rules, the driver that judges rounds, and a worker with many epochs in one job."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dlsql import options
from dlsql.training import rounds
from dlsql.training.jobs import Done
from udfs.batches import Block
from udfs.metrics import Evaluated
from udfs.spec import Label, LocalSteps, NetworkSpec
from udfs.state import Piece, Shares, State, cut, joined
from udfs.stopping import Rules, Standing
from udfs.train import Round, Task, Trained, alone, initial_state, train_rounds

NEVER = Rules(0.01, None, None, None, "r2_score")
ROWS = 10


# The rules


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([1.0, 0.9, 0.8], 1, None),
        ([1.0, 1.1], 1, 2),
        ([1.0, 0.995], 1, 2),  # less than 1 % below the best is no progress
        ([1.0, 0.98, 0.975, 0.971], 2, 4),
        ([1.0, 1.1, 0.5, 0.6, 0.4], 2, None),  # progress begins the count anew
        ([1.0, 0.995, 0.992, 0.989], 3, None),  # small steps add up against the best that counted
        ([1.0, 2.0, 3.0], None, None),
    ],
)
def test_patience_counts_epochs_without_progress(losses: list[float], patience: int | None, ends: int | None) -> None:
    rules = replace(NEVER, patience=patience)
    standing, found = Standing(), None
    for epoch, loss in enumerate(losses, 1):
        standing = standing.after(rules, loss)
        if standing.is_enough(rules, loss, {}):
            found = epoch
            break
    assert found == ends


@pytest.mark.parametrize(("loss", "enough"), [(0.51, False), (0.5, True), (0.1, True)])
def test_a_loss_that_is_low_enough_ends_it(loss: float, enough: bool) -> None:
    assert Standing().is_enough(replace(NEVER, min_loss=0.5), loss, {}) is enough
    assert not Standing().is_enough(NEVER, loss, {})


@pytest.mark.parametrize(
    ("metrics", "enough"), [({"r2_score": 0.89}, False), ({"r2_score": 0.9}, True), ({"accuracy": 0.95}, False), ({}, False)]
)
def test_a_score_that_is_high_enough_ends_it(metrics: dict[str, float], enough: bool) -> None:
    assert Standing().is_enough(replace(NEVER, max_score=0.9), 1.0, metrics) is enough
    assert not Standing().is_enough(NEVER, 1.0, metrics)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("dnn_regressor", {"patience": 3, "min_rel_progress": 0.2}, Rules(0.2, 3, None, None, "r2_score")),
        ("dnn_classifier", {"max_score": 0.9, "min_loss": 0.1}, Rules(0.01, 1, 0.1, 0.9, "accuracy")),
        ("dnn_classifier", {"early_stop": False, "patience": 3}, Rules(0.01, None, None, None, "accuracy")),
    ],
)
def test_options_make_the_rules(kind: str, given: dict[str, object], expected: Rules) -> None:
    assert options.read((("model_type", kind), *given.items())).rules == expected  # type: ignore[arg-type]


# The driver


def plan(**given: object) -> rounds.Plan:
    settings = options.read((("model_type", "linear_regressor"), ("max_iterations", 100), *given.items()))  # type: ignore[arg-type]
    return rounds.Plan("test", settings, None, [], (Label("y", "double"),))  # type: ignore[arg-type]


def weights(epoch: int) -> State:
    return {"network/w": np.array([float(epoch)], np.float32)}


def taken(plan: rounds.Plan, losses: list[float], *, evaluated: bool = True, steps: int = 1, seconds: float = 1.0) -> rounds.Progress:
    """The progress after rounds of one step each; where they are evaluated the loss is that, and the label's variance is 1."""
    progress = rounds.Progress()
    for place, loss in enumerate(losses):
        epoch, first = divmod(place, steps)
        told = Trained(0, ROWS, ROWS, (100.0 - place if evaluated else loss) * ROWS)
        sums = np.array([0.0, loss * ROWS, 0.0, 0.0, ROWS])
        ends = evaluated and first + 1 == steps
        done = Done(weights(place), [told], [Evaluated(0, ROWS, ROWS, loss * ROWS, sums)] if ends else [])
        this = Round(epoch, first, 1, 0.1, 1, last=place + 1 == plan.settings.max_steps)
        rounds._take(progress, this, done, plan, seconds, steps)
        if progress.stopped:
            break
    return progress


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_weights_and_metrics_of_the_best_epoch_are_kept(evaluated: bool) -> None:
    progress = taken(plan(early_stop=False), [0.9, 0.4, 0.6, 0.5], evaluated=evaluated)
    assert progress.losses == pytest.approx([0.9, 0.4, 0.6, 0.5])
    assert progress.best_loss == pytest.approx(0.4)
    assert progress.best == weights(1)
    assert progress.best_metrics.get("r2_score") == (pytest.approx(0.6) if evaluated else None)
    assert (progress.epoch, progress.first, progress.stopped) == (4, 0, False)


def test_the_first_of_two_best_epochs_is_kept() -> None:
    assert taken(plan(early_stop=False), [0.9, 0.4, 0.4]).best == weights(1)


@pytest.mark.parametrize(
    ("given", "losses", "epochs"),
    [
        ({}, [0.9, 0.8, 0.81, 0.1], 3),
        ({"patience": 2}, [0.9, 0.8, 0.81, 0.82, 0.1], 4),
        ({"early_stop": False}, [0.9, 0.8, 0.81, 0.82, 0.1], 5),
        ({"min_rel_progress": 0.5}, [0.9, 0.8, 0.1], 2),
        ({"min_loss": 0.5}, [0.9, 0.5, 0.1], 2),
        ({"max_score": 0.5}, [0.9, 0.6, 0.5, 0.1], 3),
        ({"max_seconds": 2.5}, [0.9, 0.8, 0.7, 0.6], 3),
        ({"max_seconds": 3}, [0.9, 0.8, 0.7, 0.6], 3),
        ({"max_steps": 2}, [0.9, 0.8, 0.7], 2),
    ],
    ids=str,
)
def test_a_training_ends_after_the_epoch_that_a_rule_says(given: dict[str, object], losses: list[float], epochs: int) -> None:
    progress = taken(plan(**given), losses)
    assert (len(progress.losses), progress.stopped) == (epochs, bool(given.get("early_stop", True)))
    assert progress.best == weights(int(np.argmin(losses[:epochs])))


def test_the_rounds_of_an_epoch_are_judged_together_at_its_end() -> None:
    progress = taken(plan(early_stop=False), [0.2, 0.8, 0.6, 0.6], evaluated=False, steps=2)
    assert progress.losses == pytest.approx([0.5, 0.6])
    assert progress.best == weights(1)
    cut_off = taken(plan(max_steps=3, early_stop=False), [0.2, 0.8, 0.1, 0.1], evaluated=False, steps=2)
    assert (cut_off.losses, cut_off.stopped) == (pytest.approx([0.5, 0.1]), True)
    assert cut_off.best == weights(2)


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_a_round_after_which_a_weight_or_the_loss_is_no_number_fails(strange: float) -> None:
    told, this = Trained(0, ROWS, ROWS, 1.0), Round(0, 0, 1, 0.1, 1)
    for state, loss in (({"network/w": np.array([1.0, strange], np.float32)}, 1.0), (weights(0), strange)):
        done = Done(state, [replace(told, loss=loss)], [])
        with pytest.raises(ValueError, match=r"\[DLSQL_DIVERGED\] (A weight|The training loss) became (nan|inf|-inf) in round 1\."):
            rounds._take(rounds.Progress(), this, done, plan(), 1.0, 1)


# A worker


RANDOM = np.random.default_rng(0)
SPEC = NetworkSpec(3, (), 1, arguments=(("hidden_units", ()), ("activation", "relu"), ("dropout", 0.0), ("batch_norm", False)))
STEPS = LocalSteps(SPEC, "regression", "mse_loss", "SGD", 8, 7, 1)


def block(held_out: bool, rows: int) -> Block:
    dense = RANDOM.normal(size=(rows, 3)).astype(np.float32)
    return 0, held_out, rows, dense.tobytes(), b"", dense.sum(axis=1).tobytes(), np.ones(rows, np.float32).tobytes()


BLOCKS = [block(False, 64), block(True, 32)]


def trained(rates: list[float], rules: Rules = NEVER, seconds: float = 60.0) -> tuple[int, dict[int, State]]:
    """How many of a job's epochs a worker trains, and the states that it gives back, by the epoch that they are of."""
    each = tuple(Round(epoch, 0, 8, rate, 9, evaluates=True) for epoch, rate in enumerate(rates))
    task = Task(STEPS, each, rules, Standing(), math.inf, (Label("y", "double"),), seconds)
    start = Shares(tuple(Sent(piece) for piece in cut(initial_state(SPEC, 3))))
    told = list(train_rounds(task, start, alone, lambda: (), iter(BLOCKS)))
    pieces = {place: joined(one for at, one in told if at == place and isinstance(one, Piece)) for place, _ in told}
    return 1 + max(pieces), {place: {key: value.copy() for key, value in state.items()} for place, state in pieces.items() if state}


class Sent:
    """What Spark would broadcast."""

    def __init__(self, value: Piece) -> None:
        self.value = value


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("rules", "seconds", "epochs"),
    [
        (NEVER, 60.0, 5),
        (NEVER, 0.0, 1),
        (replace(NEVER, min_loss=1e9), 60.0, 1),
        (replace(NEVER, max_score=-1e9), 60.0, 1),
        (replace(NEVER, patience=1), 60.0, 5),
        (Rules(1.0, 2, None, None, "r2_score"), 60.0, 2),  # nothing is progress, not even the first epoch
    ],
)
def test_a_worker_stops_in_the_middle_of_a_job_where_the_driver_would(rules: Rules, seconds: float, epochs: int) -> None:
    count, states = trained([0.01] * 5, rules, seconds)
    assert count == epochs
    assert list(states) == [epochs - 1]  # the best one's is the last one's
    assert same(states[epochs - 1], trained([0.01] * epochs)[1][epochs - 1])


def test_a_worker_gives_back_the_state_of_the_best_epoch_and_of_the_last() -> None:
    rates = [0.01, 0.1, 1.5, 1.0]  # the last two overshoot
    count, states = trained(rates)
    assert count == 4
    assert list(states) == [1, 3]
    assert same(states[1], trained(rates[:2])[1][1])
    assert not same(states[1], states[3])
