"""What the workers counted on the rows held out -> the metrics of an evaluation, under the names that ML_EVALUATE gives them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from udfs.spec import Label


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a worker counts on the rows held out. Sums, so that workers' counts add up."""

    worker: int
    rows: int
    weight: float
    loss: float
    sums: npt.NDArray[np.float64]  # of each label: [(true positives, predicted, actual), classes] and log loss, or see losses._errors


def metrics(parts: Sequence[Evaluated], labels: Sequence[Label]) -> dict[str, float]:
    """The metrics of all parts together; none for no rows. Of several labels each under the label's name: kind_accuracy."""
    if not parts:
        return {}
    ordered = sorted(parts, key=lambda part: part.worker)
    rows = sum(part.rows for part in ordered)
    sums = np.sum([part.sums for part in ordered], axis=0)
    found: dict[str, float] = {}
    for label in labels:
        count = 5 if label.classes is None else 3 * label.outputs + 1
        own, sums = sums[:count], sums[count:]
        of_label = _regression(own, rows, label.scale) if label.classes is None else _classified(own, rows)
        found |= of_label if len(labels) == 1 else {f"{label.name}_{name}": value for name, value in of_label.items()}
    return found


def _classified(sums: npt.NDArray[np.float64], rows: int) -> dict[str, float]:
    return classification(sums[:-1].reshape(3, -1), float(sums[-1]) / rows)


def loss(parts: Sequence[Evaluated]) -> float | None:
    """The weighted mean loss; None for no rows."""
    ordered = sorted(parts, key=lambda part: part.worker)
    weight = sum(part.weight for part in ordered)
    return sum(part.loss for part in ordered) / weight if weight else None


def classification(counts: npt.NDArray[np.float64], log_loss: float) -> dict[str, float]:
    """Counts [3, classes] of true positives, predictions and actual rows -> accuracy, and precision, recall and F1 averaged over the
    classes that occur (macro averages, as BigQuery ML gives for several classes).

    >>> classification(np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0]]), 0.5)
    {'accuracy': 0.6666666666666666, 'precision': 0.75, 'recall': 0.75, 'f1_score': 0.6666666666666666, 'log_loss': 0.5}
    """
    right, guessed, actual = counts
    seen = actual > 0
    precision = np.divide(right, guessed, out=np.zeros_like(right), where=guessed > 0)
    recall = np.divide(right, actual, out=np.zeros_like(right), where=seen)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(right), where=both > 0)
    return {
        "accuracy": float(right.sum() / actual.sum()),
        "precision": float(precision[seen].mean()),
        "recall": float(recall[seen].mean()),
        "f1_score": float(f1[seen].mean()),
        "log_loss": log_loss,
    }


def _regression(sums: npt.NDArray[np.float64], rows: int, scale: float) -> dict[str, float]:
    """Sums of |e|, e^2, e, y, y^2 of the scaled label -> errors in the label's own unit."""
    absolute, squared, error, label, label_squared = (float(value) / rows for value in sums)
    variance = label_squared - label**2
    return {
        "mean_absolute_error": absolute * scale,
        "mean_squared_error": squared * scale**2,
        "root_mean_squared_error": squared**0.5 * scale,
        "r2_score": 1 - squared / variance if variance > 0 else 0.0,
        "explained_variance": 1 - (squared - error**2) / variance if variance > 0 else 0.0,
    }
