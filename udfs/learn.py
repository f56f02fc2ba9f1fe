"""What training learns of columns: the rules, which the driver's aggregations share, and the columns of one group, learned here."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import tensors
from udfs.errors import GroupError
from udfs.spec import Feature, Label, Preprocess

MAX_CLASSES = 10_000
MAX_WORDS = 50_000  # of a string column; rarer ones share the unknown bucket
BOUND = 10.0  # deviations from the mean: farther numbers count as this far, for a deep network (udfs.preprocess)
_AUTO_SMALL, _AUTO_LARGE, _AUTO_HELD_OUT = 500, 50_000, 10_000  # rows: BigQuery ML's AUTO_SPLIT


def steady(value: float | None, otherwise: float) -> float:
    """A statistic to six digits: its last ones depend on the order in which Spark's tasks ended, and the weights must not."""
    return otherwise if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def scale(value: float | None, mean: float) -> float:
    """A deviation to divide by; 1 for a column that is constant but for rounding."""
    rounded = steady(value, 0.0)
    return rounded if rounded > 1e-9 * max(abs(mean), 1e-30) else 1.0


def held_out_share(method: str, fraction: float, rows: int) -> float:
    """The share of the rows that `auto_split`, `random` and `seq` hold out.

    >>> held_out_share("auto_split", 0.3, 400), held_out_share("auto_split", 0.3, 1_000), held_out_share("random", 0.3, 400)
    (0.0, 0.2, 0.3)
    """
    if method == "auto_split":
        return 0.0 if rows < _AUTO_SMALL else 0.2 if rows <= _AUTO_LARGE else _AUTO_HELD_OUT / rows
    return fraction if method in ("random", "seq") else 0.0


def learn(features: Sequence[Feature], columns: Sequence[pa.Array], label: Label, labels: pa.Array, *, task: str, deep: bool) -> Preprocess:
    """Learns the columns of one group, as `dlsql.training.profile` learns those of a table. The rows are usable ones in a fixed order.

    Args:
        features: name, type and kind of each column; the rest is learned.
        columns: their rows.
        label: name and type.
        labels: its rows.
        task: classification or regression.
        deep: bound the numbers, see `BOUND`.

    Raises:
        GroupError: one class, too many, or arrays of several lengths.
    """
    learned = tuple(_LEARNED[feature.kind](feature, column) for feature, column in zip(features, columns, strict=True))
    return Preprocess(learned, _LABELS[task](label, labels), BOUND if deep else None)


def _number(feature: Feature, column: pa.Array) -> Feature:
    values, missing = tensors.numbers(column)
    mean, deviation = _statistics(values, missing)
    return Feature(feature.name, feature.type, feature.kind, (mean,), (deviation,))


def _statistics(values: tensors.Floats, missing: tensors.Mask) -> tuple[float, float]:
    """The mean and population deviation of what is there, to six digits."""
    there = values[~missing] if missing.any() else values
    if not len(there):
        return 0.0, 1.0
    mean = steady(float(there.mean()), 0.0)
    return mean, scale(float(there.std()), mean)


def _category(feature: Feature, column: pa.Array) -> Feature:
    """The words, most frequent first, then by their bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    counted = pc.value_counts(column.drop_null())
    ranked = pa.table({"word": counted.field(0), "count": counted.field(1)}).sort_by([("count", "descending"), ("word", "ascending")])
    words = tuple(ranked.column("word").slice(0, MAX_WORDS).to_pylist())
    return Feature(feature.name, feature.type, feature.kind, vocabulary=words, nulls_seen=column.null_count > 0)


def _numbers(feature: Feature, column: pa.Array) -> Feature:
    lengths = pc.min_max(pc.list_value_length(column))
    short, long = lengths["min"].as_py(), lengths["max"].as_py()
    if not long:
        raise GroupError(f"Column `{feature.name}` holds no array with a number in it.")
    if short != long:
        raise GroupError(f"Column `{feature.name}` holds arrays of {short} to {long} numbers; a network takes arrays of one length.")
    values, missing, _ = tensors.lists(column, long)
    found = [_statistics(values[:, place], missing[:, place]) for place in range(long)]
    return Feature(feature.name, feature.type, feature.kind, tuple(mean for mean, _ in found), tuple(deviation for _, deviation in found))


_LEARNED = {"number": _number, "time": _number, "category": _category, "numbers": _numbers}


def _value(label: Label, column: pa.Array) -> Label:
    return Label(label.name, label.type, None, *_statistics(*tensors.numbers(column)))


def _classes(label: Label, column: pa.Array) -> Label:
    values = pc.unique(column)
    values = values.take(pc.sort_indices(values))
    if len(values) < 2:
        raise GroupError(f"Label `{label.name}` is {values[0].as_py()!r} in every row; a classifier needs at least 2 classes.")
    if len(values) > MAX_CLASSES:
        raise GroupError(f"Label `{label.name}` has more than {MAX_CLASSES} classes.")
    return Label(label.name, label.type, values)


_LABELS = {"regression": _value, "classification": _classes}


def label_shares(codes: npt.NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """The weight of each class that balances them: n / (classes * count), scikit-learn's rule for class_weight='balanced'.

    >>> label_shares(np.array([0, 0, 0, 1]), 2)
    (0.6666666666666666, 2.0)
    """
    counts = np.bincount(codes, minlength=classes)
    return tuple(float(len(codes) / (classes * max(count, 1))) for count in counts)
