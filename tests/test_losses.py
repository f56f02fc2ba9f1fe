"""A step under each option of the trainer equals the same step written out in torch."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dlsql import options
from dlsql.training import _class_weights, _local_steps, torch_names
from udfs import losses
from udfs.batches import Batch, Block, as_batch
from udfs.losses import backward
from udfs.schedules import LOSSES
from udfs.spec import LocalSteps, NetworkSpec
from udfs.train import Learner, Round, initial_state

ROWS, WIDTH, CLASSES, RATE = 12, 3, 4, 0.1
RANDOM = np.random.default_rng(0)
DENSE = RANDOM.normal(size=(ROWS, WIDTH)).astype(np.float32)
WEIGHT = RANDOM.uniform(0.5, 2, ROWS).astype(np.float32)
LABELS = {"regression": (3 * RANDOM.normal(size=ROWS)).astype(np.float32), "classification": np.arange(ROWS, dtype=np.int32) % CLASSES}


def local_steps(task: str, loss: str, **changes: object) -> LocalSteps:
    arguments = {"hidden_units": (5,), "activation": "tanh", "dropout": 0.0, "batch_norm": False}
    spec = NetworkSpec(WIDTH, (), CLASSES if task == "classification" else 1, arguments=tuple(arguments.items()))
    return LocalSteps(spec, task, loss, "SGD", ROWS, 7, 1, **changes)  # type: ignore[arg-type]


def batch_of(steps: LocalSteps, weight: np.ndarray = WEIGHT) -> Batch:
    block: Block = (0, False, ROWS, DENSE.tobytes(), b"", LABELS[steps.task].tobytes(), weight.tobytes())
    return as_batch(steps, block)


def ours(steps: LocalSteps, batch: Batch) -> nn.Module:
    """The network after a step on the batch."""
    learner = Learner(steps, initial_state(steps.network, 3))
    learner.begin(Round(0, 0, 1, RATE, 1))
    learner.take(0, 0, 0, batch)
    learner.step()
    return learner.module


def theirs(
    steps: LocalSteps, loss: Callable[[nn.Module, Tensor], Tensor], clip: Callable[[nn.Module], object] = lambda module: None
) -> nn.Module:
    """The same network after the step, in plain torch: `loss` takes the network and its answers."""
    module = deepcopy(Learner(steps, initial_state(steps.network, 3)).module)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    loss(module, module(torch.from_numpy(DENSE), torch.zeros(ROWS, 0, dtype=torch.int64))).backward()
    clip(module)
    optimizer.step()
    return module


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(mine, wanted, rtol=1e-5, atol=1e-7) for mine, wanted in pairs)  # float32: sums in another order


def weighted(named: str, outputs: Tensor, label: np.ndarray, **more: float) -> Tensor:
    weight = torch.from_numpy(WEIGHT)
    given = outputs if label.dtype == np.int32 else outputs[:, 0]
    wanted = torch.from_numpy(label.astype(np.int64) if label.dtype == np.int32 else label)
    losses = getattr(functional, named)(given, wanted, reduction="none", **more)
    return (losses * weight).sum() / weight.sum()


@pytest.mark.parametrize(("task", "loss"), [(task, loss) for task, losses in LOSSES.items() for loss in losses])
def test_a_loss_goes_by_its_name_in_torch_and_by_the_rows_weights(task: str, loss: str) -> None:
    steps = local_steps(task, loss)
    assert same(ours(steps, batch_of(steps)), theirs(steps, lambda _, outputs: weighted(loss, outputs, LABELS[task])))
    others = [
        other for other in LOSSES[task] if {loss, other} not in ({loss}, {"huber_loss", "smooth_l1_loss"})
    ]  # with a delta and beta of 1 they are one
    assert not any(same(ours(steps, batch_of(steps)), ours(local_steps(task, other), batch_of(steps))) for other in others)


def test_label_smoothing_is_that_of_cross_entropy() -> None:
    steps = local_steps("classification", "cross_entropy", label_smoothing=0.2)
    wanted = theirs(steps, lambda _, outputs: weighted("cross_entropy", outputs, LABELS["classification"], label_smoothing=0.2))
    assert same(ours(steps, batch_of(steps)), wanted)
    assert not same(ours(local_steps("classification", "cross_entropy"), batch_of(steps)), wanted)


def test_class_weights_are_those_of_cross_entropy() -> None:
    weights = (0.5, 1.0, 4.0, 0.0)
    steps = local_steps("classification", "cross_entropy", class_weights=weights)
    label = torch.from_numpy(LABELS["classification"]).long()
    wanted = theirs(steps, lambda _, outputs: functional.cross_entropy(outputs, label, weight=torch.tensor(weights)))
    assert same(ours(steps, batch_of(steps, np.ones(ROWS, np.float32))), wanted)


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.3), (0.2, 0.4)])
def test_a_penalty_is_on_the_weights_and_not_on_the_biases(l1: float, l2: float) -> None:
    steps = local_steps("regression", "mse_loss", l1_reg=l1, l2_reg=l2)

    def loss(module: nn.Module, outputs: Tensor) -> Tensor:
        weights = [tensor for name, tensor in module.named_parameters() if name.endswith("weight")]
        penalty = sum(l1 * one.abs().sum() + l2 / 2 * (one**2).sum() for one in weights)
        return weighted("mse_loss", outputs, LABELS["regression"]) + penalty

    assert same(ours(steps, batch_of(steps)), theirs(steps, loss))
    assert not same(ours(local_steps("regression", "mse_loss"), batch_of(steps)), theirs(steps, loss))


@pytest.mark.parametrize(
    ("changes", "clip"),
    [
        ({"grad_clip": 0.05}, lambda module: nn.utils.clip_grad_norm_(module.parameters(), 0.05)),
        ({"grad_clip_value": 0.02}, lambda module: nn.utils.clip_grad_value_(module.parameters(), 0.02)),
        (
            {"grad_clip": 0.05, "grad_clip_value": 0.02},
            lambda module: [nn.utils.clip_grad_value_(module.parameters(), 0.02), nn.utils.clip_grad_norm_(module.parameters(), 0.05)],
        ),
    ],
    ids=["norm", "value", "value, then norm"],
)
def test_a_gradient_is_clipped_as_torch_clips_it(changes: dict[str, float], clip: Callable[[nn.Module], object]) -> None:
    steps = local_steps("regression", "mse_loss", **changes)

    def loss(_: nn.Module, outputs: Tensor) -> Tensor:
        return weighted("mse_loss", outputs, LABELS["regression"])

    assert same(ours(steps, batch_of(steps)), theirs(steps, loss, clip))
    assert not same(theirs(steps, loss), theirs(steps, loss, clip))


def test_the_average_gradient_of_all_workers_is_clipped_and_not_that_of_each() -> None:
    steps = local_steps("regression", "mse_loss", grad_clip=0.05)
    learner = Learner(steps, initial_state(steps.network, 3))
    learner.begin(Round(0, 0, 1, RATE, 1))
    learner.take(0, 0, 0, batch_of(steps))
    half = learner.half()
    norm = np.sqrt(sum(float((value**2).sum()) for key, value in half.items() if key.startswith("gradient/")))
    assert norm > 0.05
    before = [parameter.detach().clone() for parameter in learner.module.parameters()]
    learner.finish(half)
    step = torch.cat([(old - new.detach()).ravel() for old, new in zip(before, learner.module.parameters(), strict=True)])
    assert float(step.norm()) == pytest.approx(RATE * 0.05, rel=1e-4)  # clip_grad_norm_ divides by the norm and 1e-6


@pytest.mark.parametrize("lacking", [1e-5, 1.0, 1e4], ids=["too small for a float16", "fitting", "too large for a multiple"])
def test_a_gradient_in_float16_is_that_of_float32_however_small_or_large(monkeypatch: pytest.MonkeyPatch, lacking: float) -> None:
    def gradients(precision: str) -> list[np.ndarray]:
        steps = local_steps("regression", "mse_loss", mixed_precision=precision)
        module = Learner(steps, initial_state(steps.network, 3)).module
        batch = batch_of(steps)
        with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=precision == "float16"):
            outputs = module(batch.dense, batch.codes).float()
        backward(steps, module, replace(batch, label=outputs[:, 0] + lacking))
        return [parameter.grad.numpy() for parameter in module.parameters() if parameter.grad is not None]

    def distance() -> float:
        pairs = zip(gradients("float16"), gradients("float32"), strict=True)
        return max(float(np.abs(mine - wanted).max() / np.abs(wanted).max()) for mine, wanted in pairs)

    assert 0 < distance() < 0.005
    if lacking < 1:
        monkeypatch.setattr(losses, "_SCALES", (1.0,))
        assert distance() > 0.02


# What the statement says arrives at the workers


def test_every_option_of_a_step_arrives_at_the_workers_under_its_own_name() -> None:
    said = {
        "l1_reg": 0.1, "l2_reg": 0.2, "grad_clip": 0.3, "grad_clip_value": 0.4, "label_smoothing": 0.5, "loss": "cross_entropy", "seed": 9,
        "outer_learn_rate": 0.6, "outer_momentum": 0.7, "mixed_precision": "float16", "freeze": ["layers.0"], "transport": "bfloat16",
    }  # fmt: skip
    settings = options.read((("model_type", "dnn_classifier"), *said.items()))  # type: ignore[arg-type]
    outline = SimpleNamespace(network=local_steps("classification", "cross_entropy").network, batch=16, loss=None, found=None)
    steps = _local_steps(settings, torch_names(settings), outline, 3)  # type: ignore[arg-type]
    assert {name: getattr(steps, name) for name in said if name not in ("freeze", "transport")} == {
        name: value for name, value in said.items() if name not in ("freeze", "transport")
    }
    assert (steps.frozen, steps.transport, steps.batch_size, steps.threads) == (("layers.0",), said["transport"], 16, 3)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"class_weights": {"B": 3, "c": 0.5}}, (1.0, 3.0, 0.5)),
        ({"auto_class_weights": True}, (60 / (3 * 10), 60 / (3 * 20), 60 / (3 * 30))),
        ({}, None),
    ],
)
def test_a_class_weighs_what_is_said_or_by_its_rows(said: dict[str, object], expected: tuple[float, ...] | None) -> None:
    settings = options.read((("model_type", "dnn_classifier"), *said.items()))  # type: ignore[arg-type]
    label = SimpleNamespace(name="y", classes=pa.array(["a", "b", "c"]))
    found = SimpleNamespace(rows=60, class_counts=((10, 20, 30),), learned=SimpleNamespace(label=label))
    assert _class_weights(settings, found) == expected  # type: ignore[arg-type]
