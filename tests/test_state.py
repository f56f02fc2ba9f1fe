"""States as they travel: in pieces, which one merges as wholes."""

import numpy as np
import pytest
import torch

from udfs.state import Piece, State, cut, joined, merge, merged, outer_step, restored, shortened


def drawn(seed: int) -> State:
    random = np.random.default_rng(seed)
    return {
        "network/weight": random.normal(size=(7, 5)).astype(np.float32),
        "network/scale": random.normal(size=()).astype(np.float32),
        "network/empty": np.zeros((0, 3), np.float32),
        "network/num_batches_tracked": np.array(seed),
        "optimizer/0/exp_avg": random.normal(size=(7, 5)),
        "optimizer/0/step": np.array(float(seed), np.float32),
    }


def same(one: State, other: State) -> bool:
    return list(one) == list(other) and all(
        one[key].dtype == other[key].dtype and one[key].shape == other[key].shape and np.array_equal(one[key], other[key]) for key in one
    )


@pytest.mark.parametrize("size", [8, 12, 50, 1 << 20])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_state_is_the_same_after_it_was_cut_and_joined(size: int, backwards: bool) -> None:
    pieces = list(cut(drawn(1), size))
    assert all(sum(part.nbytes for part in piece.parts.values()) <= size for piece in pieces)
    assert same(joined(reversed(pieces) if backwards else pieces), drawn(1))


@pytest.mark.parametrize("size", [8, 50, 1 << 20])
def test_pieces_merge_to_the_bits_of_the_wholes(size: int) -> None:
    states, weights = [drawn(seed) for seed in range(3)], [3, 0, 1.5]
    told = [piece for worker in (2, 0, 1) for piece in cut(states[worker], size, worker, weights[worker])]
    found = list(merged(["beside them", *told]))
    assert found[0] == "beside them"
    pieces = [one for one in found if isinstance(one, Piece)]
    assert len(pieces) == len(found) - 1 == len(told) / 3
    assert same(joined(pieces), merge(states, weights))


@pytest.mark.parametrize(("transport", "steps"), [("bfloat16", 128), ("float16", 1024)])
def test_a_state_that_travels_short_is_cut_off_towards_the_state_before(transport: str, steps: int) -> None:
    before, after = drawn(1), drawn(2)
    found = restored(shortened(after, before, transport), before)
    assert list(found) == list(after)
    for key in ("network/weight", "network/scale"):
        told, true = found[key] - before[key], after[key] - before[key]
        assert np.all(
            np.abs(told) <= np.abs(true) * (1 + 1e-5)
        )  # 1e-5: what float32 rounds where a difference is small beside what it is of
        assert np.all(np.abs(told - true) <= np.abs(true) / steps + 1e-6)
    for key in ("network/num_batches_tracked", "optimizer/0/exp_avg", "optimizer/0/step"):  # counters, and what is no float32
        assert np.array_equal(found[key], after[key])


@pytest.mark.parametrize("transport", ["bfloat16", "float16"])
def test_a_second_moment_that_travels_short_stays_at_least_zero(transport: str) -> None:
    before = {"optimizer/0/exp_avg_sq": np.random.default_rng(0).random(10_000).astype(np.float32) * 1e-9}
    gone = [{"optimizer/0/exp_avg_sq": before["optimizer/0/exp_avg_sq"] * np.float32(rest)} for rest in (0.0, 1e-6)]
    found = restored(merge([shortened(one, before, transport) for one in gone], [1, 3]), before)
    assert np.all(found["optimizer/0/exp_avg_sq"] >= 0)


def test_what_is_beyond_float16_travels_as_the_last_number_and_nan_as_nan() -> None:
    state = {"network/w": np.array([1e30, -1e30, 65519.0, -np.inf, np.nan, 1e-9, -1e-9], np.float32)}
    np.testing.assert_array_equal(
        restored(shortened(state, {}, "float16"), {})["network/w"], np.array([65504, -65504, 65504, -np.inf, np.nan, 0, 0], np.float32)
    )


@pytest.mark.parametrize(("rate", "momentum"), [(0.7, 0.9), (1.0, 0.5), (0.3, 0.0)])
def test_three_outer_steps_are_those_of_nesterovs_momentum_in_torch(rate: float, momentum: float) -> None:
    """What the workers' average lacks to the state before it is the gradient: DiLoCo, algorithm 1."""
    random = np.random.default_rng(0)
    state: State = {"network/w": random.normal(size=(4, 3)).astype(np.float32), "network/mean": np.zeros(3, np.float32)}
    parameter = torch.nn.Parameter(torch.tensor(state["network/w"]))
    optimizer = torch.optim.SGD([parameter], lr=rate, momentum=momentum, nesterov=momentum > 0)
    for step in range(1, 4):
        average = {
            "network/w": state["network/w"] + random.normal(size=(4, 3)).astype(np.float32),
            "network/mean": np.full(3, step, np.float32),
        }
        parameter.grad = torch.from_numpy(state["network/w"] - average["network/w"])
        optimizer.step()
        state = outer_step(state, average, ["w"], rate, momentum)
        np.testing.assert_allclose(state["network/w"], parameter.detach().numpy(), rtol=1e-5, atol=1e-6)  # float32: sums in another order
        assert np.array_equal(state["network/mean"], average["network/mean"])
    if momentum:
        np.testing.assert_allclose(state["outer/w"], optimizer.state[parameter]["momentum_buffer"].numpy(), rtol=1e-5, atol=1e-6)
