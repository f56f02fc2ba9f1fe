"""What a training carries from step to step, as named arrays, and how the states of several workers become one."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

State = dict[str, npt.NDArray[Any]]
"""Parameters and buffers as ``network/<name>``, the optimiser's tensors as ``optimizer/<index of the parameter>/<slot>``, and the outer
optimiser's velocity as ``outer/<name of the parameter>``."""

Vector = npt.NDArray[np.float32]


def average(vectors: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], weights: Sequence[float]) -> npt.NDArray[Any]:
    """The weighted average of arrays of one shape, in their order and in float64: equal ones average to themselves.

    >>> average([np.array([1.0]), np.array([3.0]), np.array([np.nan])], [1, 3, 0]).tolist()
    [2.5]
    """
    total = float(sum(weights))
    summed = np.zeros(np.shape(vectors[0]), dtype=np.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        if weight:  # who did nothing says nothing
            summed += np.multiply(vector, weight / total, dtype=np.float64)
    return summed.astype(vectors[0].dtype)


def is_averaged(key: str, value: npt.NDArray[Any]) -> bool:
    """Whether workers' values are averaged. Counters (steps, batches seen) are integers in meaning: of them the largest is kept."""
    return np.issubdtype(value.dtype, np.floating) and not key.endswith(("/step", "num_batches_tracked"))


def merge(states: Sequence[State], weights: Sequence[float]) -> State:
    """Parameters and the optimiser's moments, averaged by the rows that made them, in the states' order.

    Averaging local steps is local SGD (Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019); averaging the moments of
    adaptive optimisers as well follows Reddi et al., "Adaptive Federated Optimization", ICLR 2021, and keeps one state for all workers.

    >>> merge([{"network/w": np.array([1.0])}, {"network/w": np.array([3.0])}], [1, 3])["network/w"].tolist()
    [2.5]
    """
    if len(states) == 1:
        return states[0]
    merged: State = {}
    for key, first in states[0].items():
        values = [state[key] for state in states]
        merged[key] = average(values, weights) if is_averaged(key, first) else np.asarray(np.maximum.reduce(values))
    return merged


def outer_step(before: State, merged: State, parameters: Collection[str], rate: float, momentum: float) -> State:
    """A step from `before` towards the workers' average, by SGD with Nesterov momentum: what the average lacks is its gradient.

    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023, algorithm 1; with a rate of 1 and no
    momentum it is the average itself. `parameters` are the names to step on: a network's buffers are averaged only.

    >>> state = outer_step({"network/w": np.array([1.0])}, {"network/w": np.array([0.5])}, ["w"], 1.0, 0.5)
    >>> state["network/w"].tolist(), state["outer/w"].tolist()
    ([0.25], [0.5])
    """
    if rate == 1 and momentum == 0:
        return merged
    moved = dict(merged)
    for name in parameters:
        key = f"network/{name}"
        lacking = before[key] - merged[key]
        velocity = lacking + momentum * before.get(f"outer/{name}", np.zeros_like(lacking))
        moved[key] = (before[key] - rate * (lacking + momentum * velocity)).astype(merged[key].dtype)
        moved[f"outer/{name}"] = velocity.astype(merged[key].dtype)
    return moved
