"""Learning rates by epoch and by step: every schedule of torch, one after the other, as torch itself would step them."""

import re
import time
from collections.abc import Sequence

import pytest
import torch

from dlsql import options
from dlsql.training import rounds, schedule_of
from udfs.schedules import Schedule, learning_rates, schedules
from udfs.train import Round

ARGUMENTS = {
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 4], "gamma": 0.1},
    "ExponentialLR": {"gamma": 0.9},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "OneCycleLR": {"max_lr": 0.2},
    "ReduceLROnPlateau": {"patience": 1},
}


def learning_rate(schedule: Sequence[Schedule], rate: float, length: int, losses: Sequence[float]) -> float:
    """The learning rate of the epoch after those that ended with `losses`."""
    rates = learning_rates(schedule, rate, length)
    found = next(rates)
    for loss in losses:
        found = rates.send(loss)
    return found


def rates(schedule: list[tuple[str, dict[str, object]]], epochs: int, loss: float = 1.0) -> list[float]:
    return [learning_rate(schedule, 0.1, epochs, [loss] * epoch) for epoch in range(epochs)]


@pytest.mark.parametrize("name", sorted(schedules().values()))
def test_every_schedule_of_torch_gives_a_rate_for_every_epoch(name: str) -> None:
    found = rates([(name, ARGUMENTS.get(name, {}))], 8)
    assert all(0 <= rate < 1 for rate in found)
    assert name == "ConstantLR" or len(set(found)) > 1


def test_polynomial_decay_ends_with_the_training() -> None:
    assert rates([("PolynomialLR", {"power": 2})], 4) == pytest.approx([0.1 * (1 - epoch / 4) ** 2 for epoch in range(4)])


def test_a_plateau_lowers_the_rate_and_progress_does_not() -> None:
    schedule = [("ReduceLROnPlateau", {"patience": 0, "factor": 0.5})]
    assert rates(schedule, 4) == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert [learning_rate(schedule, 0.1, 4, [1.0, 0.5, 0.2][:epoch]) for epoch in range(4)] == [0.1] * 4


def test_schedules_in_a_row_each_last_their_epochs() -> None:
    schedule = [("LinearLR", {"lasts": 3, "start_factor": 0.25, "total_iters": 3}), ("CosineAnnealingLR", {})]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    expected = []
    for _ in range(5):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rates(schedule, 8) == pytest.approx([0.025, 0.05, 0.075, *expected])


def test_thousands_of_epochs_take_a_step_of_the_schedule_each() -> None:
    rates = learning_rates([("CosineAnnealingLR", {})], 0.1, 20_000)
    began = time.perf_counter()
    found = [next(rates), *(rates.send(1.0) for _ in range(19_999))]
    assert time.perf_counter() - began < 20  # replayed from the first epoch each time they would be 200 million steps: half an hour
    assert found[10_000] == pytest.approx(0.05)


def settings(epochs: int, schedule: object) -> options.Settings:
    return options.read((("model_type", "linear_regressor"), ("max_iterations", epochs), ("lr_schedule", schedule)))  # type: ignore[arg-type]


def shorter(steps: int, **more: object) -> dict[str, object]:
    return {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": steps, **more}


@pytest.mark.parametrize(
    ("epochs", "schedule", "problem"),
    [
        (10, shorter(3), "Tried to step 4 times. The specified number of total steps is 3."),
        (10, shorter(8), "Tried to step 9 times. The specified number of total steps is 8."),
        (10, [{"name": "LinearLR", "epochs": 4}, shorter(4)], "Tried to step 5 times. The specified number of total steps is 4."),
        (10, [shorter(3, epochs=5), {"name": "CosineAnnealingLR"}], "Tried to step 4 times. The specified number of total steps is 3."),
        (10, {"name": "ConstantLR", "factor": 0, "total_iters": 7}, "float division by zero."),
        (
            2000,
            {"name": "CyclicLR", "base_lr": 0.1, "max_lr": 1, "mode": "exp_range", "gamma": 2.0},
            "(34, 'Numerical result out of range').",
        ),
    ],
)
def test_a_schedule_that_fails_in_any_epoch_is_refused_before_the_first(epochs: int, schedule: object, problem: str) -> None:
    said = re.escape("[DLSQL_OPTION_VALUE] Option `lr_schedule` is (") + ".*; torch says: " + re.escape(problem)
    with pytest.raises(ValueError, match=said):
        schedule_of(settings(epochs, schedule))


@pytest.mark.parametrize(
    ("epochs", "schedule"),
    [
        (10, shorter(9)),
        (1, shorter(1)),
        (6, [shorter(3, epochs=3), {"name": "CosineAnnealingLR"}]),
        (3, [shorter(2, epochs=5), {"name": "StepLR", "step_size": 2}]),
        (9, [{"name": "LinearLR", "epochs": 2}, {"name": "ReduceLROnPlateau", "patience": 0}]),
    ],
)
@pytest.mark.parametrize("ahead", [1, 100])
def test_a_schedule_that_is_not_refused_has_a_rate_for_each_epoch_of_the_loop(epochs: int, schedule: object, ahead: int) -> None:
    given = settings(epochs, schedule)
    plan = rounds.Plan("test", given, None, schedule_of(given), ())  # type: ignore[arg-type]
    known = rounds._Rates(plan, rounds.Progress(), 1)
    found = []
    for epoch in range(epochs):
        found.append(known.ahead(min(ahead, epochs - epoch))[0])
        known.passed(Round(epoch, 0, 1, found[-1], 1), 1.0)
    assert found == [learning_rate(plan.schedule, given.learn_rate, epochs, [1.0] * epoch) for epoch in range(epochs)]


def test_a_constant_rate_may_come_before_others() -> None:
    schedule = schedule_of(settings(8, [{"name": "constant", "epochs": 3}, {"name": "CosineAnnealingLR"}]))
    assert rates(schedule, 8)[:4] == [0.1] * 4  # type: ignore[arg-type]
    assert rates(schedule, 8)[3:] == rates([("CosineAnnealingLR", {})], 5)  # type: ignore[arg-type]
    assert schedule_of(settings(8, "constant")) == []


def by_step(schedule: object, **more: object) -> options.Settings:
    given = {"model_type": "linear_regressor", "max_iterations": 3, "lr_schedule": schedule, "lr_interval": "step", **more}
    return options.read(tuple(given.items()))  # type: ignore[arg-type]


def test_rates_by_step_go_on_where_a_training_stopped() -> None:
    given = by_step([{"name": "LinearLR", "steps": 7, "total_iters": 7}, {"name": "OneCycleLR", "max_lr": 0.1}])
    length = rounds.rate_count(given, 10)
    assert length == 30
    schedule = schedule_of(given, length)
    plan = rounds.Plan("test", given, None, schedule, ())  # type: ignore[arg-type]
    expected = [learning_rate(schedule, given.learn_rate, length, [0.0] * step) for step in range(length)]
    whole = rounds._Rates(plan, rounds.Progress(), 10)
    assert whole.of_rounds(10, 3) == [(expected[at], tuple(expected[at : at + 10])) for at in (0, 10, 20)]
    resumed = rounds._Rates(plan, rounds.Progress(epoch=1, first=4), 10)
    assert resumed.of_rounds(6, 1) == [(expected[14], tuple(expected[14:20]))]
    resumed.passed(Round(1, 4, 6, expected[14], 1), 1.0)
    assert resumed.ahead(10) == expected[20:]
    resumed.passed(Round(2, 0, 10, expected[20], 1), 1.0)  # OneCycleLR has no rate after its last
    over = rounds.Plan("test", by_step("OneCycleLR", max_steps=14), None, [("OneCycleLR", {"max_lr": 0.1})], ())  # type: ignore[arg-type]
    rounds._Rates(over, rounds.Progress(epoch=2, stopped=True), 10)  # its second epoch ended with step 14


@pytest.mark.parametrize(
    ("schedule", "length", "problem"),
    [
        ("ReduceLROnPlateau", None, "'ReduceLROnPlateau'; it waits for the loss of an epoch;"),
        ([{"name": "LinearLR", "epochs": 3}, "StepLR"], None, "'LinearLR'; each schedule but the last says for how many `steps` it lasts."),
        ({"name": "CosineAnnealingLR", "epochs": 3}, None, r"('CosineAnnealingLR', {'epochs': 3}); torch says: "),
        (shorter(100), 200, "Tried to step 101 times. The specified number of total steps is 100."),
        (shorter(100_000), 4_000_000, "The specified number of total steps is 100000."),
        ({"name": "CyclicLR", "base_lr": 0.1, "max_lr": 1, "mode": "exp_range", "gamma": 1.01}, 1_000_000, "Numerical result out of range"),
    ],
)
def test_a_schedule_by_step_that_fails_in_any_step_is_refused(schedule: object, length: int | None, problem: str) -> None:
    with pytest.raises(ValueError, match=r"\[DLSQL_OPTION_VALUE\] Option `lr_schedule` is .*" + re.escape(problem)):
        schedule_of(by_step(schedule), length)
