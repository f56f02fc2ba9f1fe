"""Learned preprocessing applied: Arrow columns in the features' order -> what the network takes. The same code trains and predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import tensors
from udfs.spec import Feature, Label, Preprocess

# A moment's phase in the day, the week and the year, as sine and cosine, so that 23:59 is near 00:00; beside its place on the
# scaled time line. Periods in seconds; a year is the mean Gregorian one. Dates have no time of day.
_DAY, _WEEK, _YEAR = tensors.DAY, 7 * tensors.DAY, 365.2425 * tensors.DAY


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch as the network takes it."""

    dense: npt.NDArray[np.float32]  # [rows, numbers]
    codes: npt.NDArray[np.int64]  # [rows, categories]
    absent: npt.NDArray[np.bool_]  # [rows]: the array that is the only input is NULL, or holds a NULL
    misfit: npt.NDArray[np.bool_]  # [rows]: an array has another length than the model's
    misfits: dict[int, str]  # of each feature the first such row -> what is wrong with it


def encode(learned: Preprocess, columns: Sequence[pa.Array]) -> Inputs:
    """Rows of columns to the network's inputs.

    A NULL number is imputed with the training mean, which is 0 after scaling; NaN and infinities go through as numbers.

    >>> age = Feature("age", "int", "number", means=(40.0,), scales=(10.0,))
    >>> city = Feature("city", "string", "category", vocabulary=("Ulm",))
    >>> inputs = encode(Preprocess((age, city), Label("y", "int")), [pa.array([50, None]), pa.array(["Ulm", "Rome"])])
    >>> inputs.dense.tolist(), inputs.codes.tolist()
    ([[1.0], [0.0]], [[2], [0]])
    """
    scales = [
        None if feature.size else _Scale(np.array(feature.means), np.array(feature.scales), learned.bound) for feature in learned.features
    ]

    def codes(place: int, column: pa.Array) -> npt.NDArray[np.int64]:
        feature = learned.features[place]
        return tensors.codes(column, _vocabulary(feature.vocabulary), feature.nulls_seen)

    return _encode(learned.features, scales, codes, columns)


def encode_each(learned: Sequence[Preprocess], which: npt.NDArray[np.int64], columns: Sequence[pa.Array]) -> Inputs:
    """As `encode`, each row by the preprocessing that `which` [rows] names, all of one `form`: in one go, however many they are."""
    if len(learned) == 1:
        return encode(learned[0], columns)
    features = learned[0].features
    bound = np.array([np.inf if one.bound is None else one.bound for one in learned])[which, None]
    scales = [
        _Scale(
            np.array([one.features[place].means for one in learned])[which],
            np.array([one.features[place].scales for one in learned])[which],
            bound,
        )
        for place in range(len(features))
    ]  # [rows, n]

    def codes(place: int, column: pa.Array) -> npt.NDArray[np.int64]:
        found = np.zeros(len(column), np.int64)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(len(learned) + 1))
        sorted_column = column.take(pa.array(order))
        for one, begin, end in zip(learned, ends[:-1], ends[1:], strict=True):
            feature = one.features[place]
            found[order[begin:end]] = tensors.codes(sorted_column[begin:end], _vocabulary(feature.vocabulary), feature.nulls_seen)
        return found

    return _encode(features, scales, codes, columns)


def form(learned: Preprocess) -> tuple[tuple[str, str, str, int], ...]:
    """What `encode_each` wants to be the same."""
    return tuple((feature.name, feature.type, feature.kind, len(feature.means)) for feature in learned.features)


@dataclass(frozen=True, slots=True)
class _Scale:
    """How a feature's numbers are scaled: the same in all rows [n], or each row by its own [rows, n]."""

    means: tensors.Floats
    scales: tensors.Floats
    bound: float | tensors.Floats | None  # [rows, 1]


def _encode(
    features: Sequence[Feature],
    scales: Sequence[_Scale | None],
    coded: Callable[[int, pa.Array], npt.NDArray[np.int64]],
    columns: Sequence[pa.Array],
) -> Inputs:
    rows = len(columns[0])
    dense: list[npt.NDArray[np.float32]] = []
    codes: list[npt.NDArray[np.int64]] = []
    absent, misfit = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
    misfits: dict[int, str] = {}
    for place, (feature, scale, column) in enumerate(zip(features, scales, columns, strict=True)):
        if feature.kind == "category":
            codes.append(coded(place, column))
        elif feature.kind in _MATRICES:
            values, missing, wrong = _MATRICES[feature.kind](column, feature.width)
            dense.append(_scaled(scale, values, missing))
            if len(features) == 1:
                absent |= missing.any(axis=1) & ~wrong
            if wrong.any():
                misfit |= wrong
                row = int(wrong.argmax())
                misfits[row] = _misfit(feature, len(column[row].as_py()))
        else:
            dense.append(_DENSE[feature.kind](feature, column, scale))
    return Inputs(
        np.concatenate(dense, axis=1) if dense else np.zeros((rows, 0), np.float32),
        np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int64),
        absent,
        misfit,
        misfits,
    )


def encode_label(label: Label, column: pa.Array) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """Classes by their place, int64 [rows]; numbers scaled, float32 [rows].

    >>> encode_label(Label("y", "string", pa.array(["no", "yes"])), pa.array(["yes", "no"])).tolist()
    [1, 0]
    """
    if label.classes is None:
        return ((tensors.numbers(column)[0] - label.mean) / label.scale).astype(np.float32)
    places: npt.NDArray[np.int64] = np.asarray(pc.index_in(column, value_set=label.classes.cast(column.type)), dtype=np.int64)
    return places


def dense_width(features: Sequence[Feature]) -> int:
    """How many numbers a row becomes."""
    return sum(width(feature) for feature in features)


def width(feature: Feature) -> int:
    """How many numbers a feature becomes."""
    if feature.kind == "time":
        return 1 + 2 * len(periods(feature))
    return 0 if feature.kind == "category" else feature.width


def _misfit(feature: Feature, length: int) -> str:
    if feature.kind == "bytes":
        return f"`{feature.name}` holds {length} bytes a row; the model takes {4 * feature.width}, {feature.width} float32 numbers."
    return f"`{feature.name}` holds {length} numbers a row; the model takes {feature.width}."


def _scaled(scale: _Scale | None, values: npt.NDArray[Any], missing: tensors.Mask) -> npt.NDArray[np.float32]:
    """values [rows, n] in deviations from their mean; as they are without a scale. One wild outlier would drown the rows beside it in a
    deep network: on the diamonds, R2 on held-out rows was 0.96 with two mistyped ones among 54,000 and 0.98 with the bound. A linear model
    goes on in its line.
    """
    scaled = values if scale is None else (values - scale.means) / scale.scales
    if scale is not None and scale.bound is not None:
        np.clip(scaled, -scale.bound, scale.bound, out=scaled)
    scaled[missing] = 0.0
    narrow: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
    return narrow


def _number(feature: Feature, column: pa.Array, scale: _Scale | None) -> npt.NDArray[np.float32]:
    values, missing = tensors.numbers(column)
    return _scaled(scale, values[:, None], missing[:, None])  # [rows, 1]


def _time(feature: Feature, column: pa.Array, scale: _Scale | None) -> npt.NDArray[np.float32]:
    seconds, missing = tensors.numbers(column)
    place = _scaled(scale, seconds[:, None], missing[:, None])
    angles = [2 * np.pi * (seconds / period % 1.0) for period in periods(feature)]
    phases = np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    phases[missing] = 0.0
    return np.concatenate([place, phases.astype(np.float32)], axis=1)  # [rows, 1 + 2 * periods]


def periods(feature: Feature) -> tuple[float, ...]:
    """In which cycles a date or a timestamp has its phases, in seconds."""
    return (_WEEK, _YEAR) if feature.type == "date" else (_DAY, _WEEK, _YEAR)


_MATRICES: dict[str, Callable[[pa.Array, int], tuple[npt.NDArray[Any], tensors.Mask, tensors.Mask]]] = {
    "numbers": tensors.lists,
    "bytes": tensors.packed,
}
_DENSE: dict[str, Callable[[Feature, pa.Array, _Scale | None], npt.NDArray[np.float32]]] = {"number": _number, "time": _time}


@lru_cache(maxsize=1024)
def _vocabulary(words: tuple[str, ...]) -> pa.Array:
    return pa.array(words, pa.string())
