"""Learning rates by epoch: every schedule of torch, one after the other, as torch itself would step them."""

import time

import pytest
import torch

from udfs.schedules import learning_rate, learning_rates, schedules

ARGUMENTS = {
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 4], "gamma": 0.1},
    "ExponentialLR": {"gamma": 0.9},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "OneCycleLR": {"max_lr": 0.2},
    "ReduceLROnPlateau": {"patience": 1},
}


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
    schedule = [("LinearLR", {"epochs": 3, "start_factor": 0.25, "total_iters": 3}), ("CosineAnnealingLR", {})]
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
