"""What a training carries from step to step, as named arrays, and how the states of several workers become one."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.spec import Shared

State = dict[str, npt.NDArray[Any]]
"""Parameters and buffers as ``network/<name>``, the optimiser's tensors as ``optimizer/<index of the parameter>/<slot>``, and the outer
optimiser's velocity as ``outer/<name of the parameter>``."""

PIECE = 32 << 20
"""Bytes of a state that travel at once: Spark holds a broadcast, or a task's result, several times and whole in a JVM's heap."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a state that travels by itself: a run of its numbers, one array after the other, each flat."""

    number: int  # its place among the state's pieces
    worker: int = 0  # whose state it is of,
    weight: float = 1.0  # and what that weighs in the average
    parts: State = field(default_factory=dict)
    first: int = 0  # where in its array the first part begins; the others begin with theirs
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the whole arrays

    def copy(self) -> "Piece":
        """The same numbers, whatever becomes of the state."""
        return replace(self, parts={key: part.copy() for key, part in self.parts.items()})


def cut(state: State, size: int = PIECE, worker: int = 0, weight: float = 1.0) -> Iterator[Piece]:
    """A state in pieces of at most `size` bytes, as views of it.

    >>> [(piece.first, list(piece.parts)) for piece in cut({"a": np.zeros((2, 3)), "b": np.zeros(())}, 32)]
    [(0, ['a']), (4, ['a', 'b'])]
    """
    piece, room = Piece(0, worker, weight), size
    for key, value in state.items():
        flat, at = value.reshape(-1), 0
        while at < flat.size or not at:
            if room < value.itemsize:
                yield piece
                piece, room = Piece(piece.number + 1, worker, weight, first=at), size
            part = flat[at : at + room // value.itemsize]
            piece.parts[key], piece.shapes[key] = part, value.shape
            at, room = at + max(part.size, 1), room - part.nbytes
    yield piece


def joined(pieces: Iterable[Piece]) -> State:
    """The inverse of `cut`, whatever the order of the pieces; of a state in one piece views of it."""
    whole: State = {}
    places: dict[str, tuple[int, int]] = {}  # where an array begins: the state keeps its order
    for piece in pieces:
        first = piece.first
        for place, (key, part) in enumerate(piece.parts.items()):
            shape = piece.shapes[key]
            if part.size == math.prod(shape):
                whole[key] = part.reshape(shape)
            else:
                if key not in whole:
                    whole[key] = np.empty(shape, part.dtype)
                whole[key].reshape(-1)[first : first + part.size] = part
            places[key] = min(places.get(key, (piece.number, place)), (piece.number, place))
            first = 0
    return {key: whole[key] for key in sorted(whole, key=places.__getitem__)}


def merged(found: Iterable[Any]) -> Iterator[Any]:
    """The same pieces of several workers as one, in the workers' order; what is no piece stays what it is."""
    pieces: dict[int, list[Piece]] = {}
    for one in found:
        if isinstance(one, Piece):
            pieces.setdefault(one.number, []).append(one)
        else:
            yield one
    for number in sorted(pieces):
        same = sorted(pieces.pop(number), key=lambda piece: piece.worker)
        yield replace(same[0], parts=merge([piece.parts for piece in same], [piece.weight for piece in same]))


def numbered(one: Any) -> tuple[int, Any]:
    """A piece under its number, by which Spark brings the same ones together; what is no piece beside the first."""
    return (one.number if isinstance(one, Piece) else 0), one


@dataclass(frozen=True, slots=True)
class Shares:
    """A state that every executor fetches once, piece by piece."""

    pieces: tuple[Shared, ...]

    @property
    def value(self) -> State:
        """The state, which is whoever asks for it's own only where it came in many pieces."""
        return joined(piece.value for piece in self.pieces)


_AT_ONCE = 1 << 14  # numbers that are averaged at once, within a core's cache: all at once took 4 % of a short epoch, so it is 1 %


def average(vectors: Sequence[npt.NDArray[Any]] | npt.NDArray[Any], weights: Sequence[float]) -> npt.NDArray[Any]:
    """The weighted average of arrays of one shape, in their order and in float64: equal ones average to themselves.

    >>> average([np.array([1.0]), np.array([3.0]), np.array([np.nan])], [1, 3, 0]).tolist()
    [2.5]
    """
    if vectors[0].dtype in (np.uint16, np.float16):  # of `shortened`
        cut_off = _upper if vectors[0].dtype == np.uint16 else _towards_zero
        return cut_off(average([_lengthened(vector) for vector in vectors], weights))
    total = float(sum(weights))
    shares = [weight / total if weight else 0.0 for weight in weights]
    flat = [np.reshape(vector, -1) for vector in vectors]
    found = np.empty_like(flat[0])
    for at in range(0, len(found), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        summed = np.zeros(len(found[part]), dtype=np.float64)
        for vector, share in zip(flat, shares, strict=True):
            if share:  # who did nothing says nothing
                summed += np.multiply(vector[part], share, dtype=np.float64)
        found[part] = summed
    return found.reshape(np.shape(vectors[0]))


def is_averaged(key: str, value: npt.NDArray[Any]) -> bool:
    """Whether workers' values are averaged. Counters (steps, batches seen) are integers in meaning: of them the largest is kept."""
    if key.startswith(_SHORT):
        return True
    return np.issubdtype(value.dtype, np.floating) and not key.endswith(("/step", "num_batches_tracked"))


_SHORT = "short/"


def shortened(state: State, before: State, transport: str) -> State:
    """What travels of a state where two bytes a number shall do: by how much each float32 differs from the one before, as bfloat16 or
    float16. As float32 the state itself does.

    A number is cut off, as BigDL cut it off after its upper half, and not rounded: a difference so never grows, and a moment that must not
    be negative does not become so.

    >>> [*shortened({"network/w": np.array([1.01], np.float32)}, {"network/w": np.array([1.0], np.float32)}, "bfloat16").items()]
    [('short/network/w', array([15395], dtype=uint16))]
    """
    if transport == "float32":
        return state
    cut_off = _CUT_OFF[transport]
    return {
        f"{_SHORT}{key}" if _is_long(key, value) else key: cut_off(value - before.get(key, np.float32(0)))
        if _is_long(key, value)
        else value
        for key, value in state.items()
    }


def restored(state: State, before: State) -> State:
    """The inverse of `shortened`, but for what was cut off; of any other state itself."""
    found: State = {}
    for key, value in state.items():
        own = key.removeprefix(_SHORT)
        found[own] = value if own == key else np.asarray(before.get(own, np.float32(0)) + _lengthened(value))
    return found


def _is_long(key: str, value: npt.NDArray[Any]) -> bool:
    return value.dtype == np.float32 and is_averaged(key, value)


def _upper(vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return (np.ascontiguousarray(vector, np.float32).view(np.uint32) >> 16).astype(np.uint16).reshape(np.shape(vector))


def _towards_zero(vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As float16, and what is beyond its numbers as the last of them."""
    with np.errstate(over="ignore"):
        near = np.asarray(vector, np.float16)
    return np.where(np.abs(near.astype(np.float32)) > np.abs(vector), np.nextafter(near, np.float16(0)), near)


_CUT_OFF = {"bfloat16": _upper, "float16": _towards_zero}


def _lengthened(vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return vector.astype(np.float32) if vector.dtype == np.float16 else (vector.astype(np.uint32) << 16).view(np.float32)


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
