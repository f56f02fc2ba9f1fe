"""A worker's part of a round, without Spark: two workers as the threads of a gang, or one after the other with their states merged."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from udfs.batches import Block
from udfs.networks import keras as keras_networks
from udfs.spec import Code, Input, LocalSteps, NetworkSpec
from udfs.state import Piece, State, joined, merged
from udfs.sync import Seat, address_book, gang
from udfs.train import Learner, Round, half_step, initial_state, network, stepped_out, train_round

WIDTH, BATCH, RATE = 3, 8, 0.05


def block(worker: int, rows: int) -> Block:
    random = np.random.default_rng(worker)
    dense = random.normal(loc=worker, size=(rows, WIDTH)).astype(np.float32)
    label = dense.sum(axis=1)
    return worker, False, rows, dense.tobytes(), b"", label.tobytes(), np.ones(rows, np.float32).tobytes()


BLOCKS = [block(0, 40), block(1, 24)]


def perceptron() -> NetworkSpec:
    arguments = {"hidden_units": (4, 4), "activation": "relu", "dropout": 0.0, "batch_norm": True}
    return NetworkSpec(WIDTH, (), 1, arguments=tuple(arguments.items()))


def made_by(factory: str) -> NetworkSpec:
    return NetworkSpec(WIDTH, (), 1, "module", (), Code(f"{__name__}:{factory}"), (Input("x", (WIDTH,), "float", 0),))


class Counting(nn.Module):
    """Counts its batches in either mode, in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return x


def counting() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4), Counting(), nn.Linear(4, 1))


def keras_normed() -> nn.Module:
    keras = keras_networks.keras
    given = keras.Input((WIDTH,))
    inner = keras.layers.BatchNormalization()(keras.layers.Dense(4)(given))
    return keras.Model(given, keras.layers.Dense(1)(keras.layers.BatchNormalization()(inner)))


def keras_sequence() -> nn.Module:
    """Keras has each tensor of it under two names."""
    keras = keras_networks.keras
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def in_a_gang(steps: LocalSteps, start: State, this: Round) -> State:
    """The state that two workers agree on inside the round."""
    book = address_book("127.0.0.1")

    def work(rank: int) -> State:
        with gang(Seat(rank, ("127.0.0.1",) * 2, ("127.0.0.1", book.port), 60)) as together:
            learner = Learner(steps, start)
            list(train_round(learner, this, [BLOCKS[rank]], together))
            return learner.state()

    with ThreadPoolExecutor(2) as workers:
        one, other = workers.map(work, range(2))
    assert all(np.array_equal(one[key], other[key]) for key in one)
    return one


def after_it(steps: LocalSteps, start: State, this: Round) -> State:
    """The state that a driver makes of what two workers return, in a round for each stretch between averagings."""
    state = start
    for first in range(this.first, this.first + this.count, this.sync_every):
        stretch = Round(this.epoch, first, this.sync_every, this.learning_rate, this.sync_every)
        told = [one for block in BLOCKS for one in train_round(Learner(steps, state), stretch, [block], None)]
        found = joined(one for one in merged(told) if isinstance(one, Piece))
        state = half_step(steps, this.learning_rate, state, found) if this.sync_every == 1 else stepped_out(steps, state, found)
    return state


Way = Callable[[LocalSteps, State, Round], State]
WAYS: Sequence[Way] = (in_a_gang, after_it)


def own(key: str) -> str:
    """The name of a tensor, of two the shorter one."""
    return key.removeprefix("network/").removeprefix("_functional.")


FROZEN = {
    "torch": (perceptron, ("layers.0", "layers.1")),
    "its statistics alone": (perceptron, ("layers.1.running", "layers.1.num")),
    "a buffer": (lambda: made_by("counting"), ("1.seen",)),
    "keras": (lambda: made_by("keras_normed"), ("_torch_params.dense/", "_torch_params.batch_normalization/")),
    "keras, its statistics alone": (lambda: made_by("keras_normed"), ("_torch_params.batch_normalization/moving",)),
    "by one name": (lambda: made_by("keras_sequence"), ("_torch_params.sequential/dense/", "_torch_params.sequential/batch")),
    "by the other": (lambda: made_by("keras_sequence"), ("_functional._torch_params.sequential/batch_normalization/moving",)),
}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("what", FROZEN)
def test_frozen_tensors_do_not_move_and_all_others_do_by_either_way_of_agreeing(what: str, every: int) -> None:
    spec, frozen = FROZEN[what]
    steps = LocalSteps(spec(), "regression", "mse_loss", "Adam", BATCH, 7, 1, frozen=frozen)
    start = initial_state(steps.network, 3)
    inside, outside = (way(steps, start, Round(0, 0, 4, RATE, every)) for way in WAYS)
    assert inside.keys() == outside.keys()
    assert all(np.array_equal(inside[key], outside[key]) for key in inside)
    still = {own(key) for key, value in start.items() if np.array_equal(inside[key], value)}
    wanted = {key for key in start if key.startswith(tuple(f"network/{prefix}" for prefix in frozen))}
    assert still == {own(key) for key in wanted} != set()


@pytest.mark.parametrize("what", ["torch", "keras"])
def test_a_frozen_batch_norm_norms_by_its_statistics(what: str) -> None:
    """At first these are a mean of 0 and a variance of 1, for what has neither."""
    spec, frozen = FROZEN[what]
    rows = torch.tensor(np.frombuffer(BLOCKS[1][3], np.float32).reshape(-1, WIDTH).copy())
    means = []
    for prefixes in (frozen, ()):
        steps = LocalSteps(spec(), "regression", "mse_loss", "SGD", BATCH, 7, 1, frozen=prefixes)
        learner = Learner(steps, initial_state(steps.network, 3))
        learner.begin(Round(0, 0, 1, RATE, 1))
        layers = learner.module.layers if what == "torch" else learner.module.module.layers[1:]
        given = layers[0](rows)
        normed = layers[1](given) if what == "torch" else layers[1](given, training=learner.module.training)
        means.append(float(normed.detach().mean(dim=0).abs().max()))
    assert means[1] < 1e-5 < 0.1 < means[0]  # float32: the mean of a batch that was normed by itself


@pytest.mark.parametrize("what", ["torch", "by one name"])
def test_an_outer_step_moves_every_tensor_that_is_trained_and_averages_the_others(what: str) -> None:
    """Also where a tensor has two names, of which the second is loaded last."""
    spec = FROZEN[what][0]()
    steps = LocalSteps(spec, "regression", "mse_loss", "SGD", BATCH, 7, 1, outer_learn_rate=0.5, outer_momentum=0.2)
    before = initial_state(spec, 3)
    average = {key: np.asarray(value + 1) for key, value in before.items()}
    trained = {
        f"network/{name}" for name, parameter in network(spec, before).named_parameters(remove_duplicate=False) if parameter.requires_grad
    }
    module = network(spec, {key: value for key, value in stepped_out(steps, before, average).items() if key.startswith("network/")})
    for name, tensor in module.state_dict().items():
        key = f"network/{name}"
        np.testing.assert_allclose(tensor.numpy(), before[key] + (0.5 * 1.2 if key in trained else 1), rtol=1e-5, atol=1e-5)  # float32
