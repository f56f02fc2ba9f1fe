"""Learned preprocessing applied: Arrow columns in the features' order -> what the network takes. The same code trains and predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from udfs import tensors
from udfs.spec import Feature, Preprocess

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

    >>> from udfs.spec import Label
    >>> age = Feature("age", "int", "number", means=(40.0,), scales=(10.0,))
    >>> city = Feature("city", "string", "category", vocabulary=("Ulm",))
    >>> inputs = encode(Preprocess((age, city), Label("y", "int")), [pa.array([50, None]), pa.array(["Ulm", "Rome"])])
    >>> inputs.dense.tolist(), inputs.codes.tolist()
    ([[1.0], [0.0]], [[2], [0]])
    """
    rows = len(columns[0])
    dense: list[npt.NDArray[np.float32]] = []
    codes: list[npt.NDArray[np.int64]] = []
    absent, misfit = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
    misfits: dict[int, str] = {}
    for feature, column in zip(learned.features, columns, strict=True):
        if feature.kind == "category":
            codes.append(tensors.codes(column, _vocabulary(feature.vocabulary), feature.nulls_seen))
        elif feature.kind in _MATRICES:
            values, missing, wrong = _MATRICES[feature.kind](column, feature.width)
            dense.append(_scaled(feature, values, missing, learned.bound))
            if len(learned.features) == 1:
                absent |= missing.any(axis=1) & ~wrong
            if wrong.any():
                misfit |= wrong
                row = int(wrong.argmax())
                misfits[row] = _misfit(feature, len(column[row].as_py()))
        else:
            dense.append(_DENSE[feature.kind](feature, column, learned.bound))
    return Inputs(
        np.concatenate(dense, axis=1) if dense else np.zeros((rows, 0), np.float32),
        np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int64),
        absent,
        misfit,
        misfits,
    )


def dense_width(features: Sequence[Feature]) -> int:
    """How many numbers a row becomes."""
    return sum(_width(feature) for feature in features)


def _width(feature: Feature) -> int:
    if feature.kind == "time":
        return 1 + 2 * len(_periods(feature))
    return 0 if feature.kind == "category" else feature.width


def _misfit(feature: Feature, length: int) -> str:
    if feature.kind == "bytes":
        return f"`{feature.name}` holds {length} bytes a row; the model takes {4 * feature.width}, {feature.width} float32 numbers."
    return f"`{feature.name}` holds {length} numbers a row; the model takes {feature.width}."


def _scaled(feature: Feature, values: npt.NDArray[Any], missing: tensors.Mask, bound: float | None) -> npt.NDArray[np.float32]:
    """values [rows, n] in deviations from their mean. One wild outlier would drown the rows beside it in a deep network: on the diamonds,
    R2 on held-out rows was 0.96 with two mistyped ones among 54,000 and 0.98 with the bound. A linear model goes on in its line.
    """
    scaled = values if feature.size else (values - np.array(feature.means)) / np.array(feature.scales)
    if bound is not None and not feature.size:
        np.clip(scaled, -bound, bound, out=scaled)
    scaled[missing] = 0.0
    narrow: npt.NDArray[np.float32] = scaled.astype(np.float32, copy=False)
    return narrow


def _number(feature: Feature, column: pa.Array, bound: float | None) -> npt.NDArray[np.float32]:
    values, missing = tensors.numbers(column)
    return _scaled(feature, values[:, None], missing[:, None], bound)  # [rows, 1]


def _time(feature: Feature, column: pa.Array, bound: float | None) -> npt.NDArray[np.float32]:
    seconds, missing = tensors.numbers(column)
    place = _scaled(feature, seconds[:, None], missing[:, None], bound)
    angles = [2 * np.pi * (seconds / period % 1.0) for period in _periods(feature)]
    phases = np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    phases[missing] = 0.0
    return np.concatenate([place, phases.astype(np.float32)], axis=1)  # [rows, 1 + 2 * periods]


def _periods(feature: Feature) -> tuple[float, ...]:
    return (_WEEK, _YEAR) if feature.type == "date" else (_DAY, _WEEK, _YEAR)


_MATRICES: dict[str, Callable[[pa.Array, int], tuple[npt.NDArray[Any], tensors.Mask, tensors.Mask]]] = {
    "numbers": tensors.lists,
    "bytes": tensors.packed,
}
_DENSE: dict[str, Callable[[Feature, pa.Array, float | None], npt.NDArray[np.float32]]] = {"number": _number, "time": _time}


@lru_cache(maxsize=1024)
def _vocabulary(words: tuple[str, ...]) -> pa.Array:
    return pa.array(words, pa.string())
