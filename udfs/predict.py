"""One batch: the columns of a batch -> its answers. Bound by the driver with functools.partial to a Scoring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from udfs import engines, preprocess, rows, tensors
from udfs.errors import ScoringError
from udfs.placing import held, placed_files
from udfs.spec import Label, Preprocess, Scoring
from udfs.worker import ROOM, Kept, settle


@dataclass(frozen=True, slots=True)
class _Loaded:
    preprocess: Preprocess
    network: engines.Predictor
    row: np.dtype[np.void]
    bytes: int


_LOADED = Kept[_Loaded](ROOM, lambda one: one.bytes, least=8)


def predict_rows(scoring: Scoring, packed: pa.Array) -> pa.Array:
    """Scores rows that the JVM packed.

    Args:
        scoring: the model.
        packed: BINARY, each value any number of rows one after the other, see `udfs.rows`.

    Returns:
        BINARY: for each value the network's outputs for its rows, float32 [rows, outputs]; NULL where the value is.
    """
    model = _load(scoring)
    taken = rows.records(packed, model.row)
    outputs = model.network(np.ascontiguousarray(taken["dense"]), taken["codes"].astype(np.int64))
    return rows.results(packed, model.row, outputs)


def predict(scoring: Scoring, *columns: pa.Array) -> pa.Array:
    """Scores a batch of columns as they are, for who calls the function of a model by itself.

    Args:
        scoring: the model, and how to score.
        columns: one array for each feature, in the model's order.

    Returns:
        DOUBLE for a regression; STRUCT<label, probability, probabilities> for a classification.

    Raises:
        ScoringError: an array has another length than the model's, and scoring is strict; the columns are not as many as the features.
    """
    model = _load(scoring)
    features = [feature.name for feature in model.preprocess.features]
    if len(columns) != len(features):
        raise ScoringError(f"Got {len(columns)} columns; the model takes {len(features)}: {', '.join(features)}.")
    inputs = preprocess.encode(model.preprocess, columns)
    if scoring.strict and inputs.misfit.any():
        raise ScoringError(next(iter(inputs.misfits.values())))
    scored = ~inputs.absent & ~inputs.misfit
    answer = _ANSWERS[str(scoring.task)]
    if scored.all():
        return answer(model.preprocess.label, model.network(inputs.dense, inputs.codes))
    answers = answer(model.preprocess.label, model.network(inputs.dense[scored], inputs.codes[scored]))
    places = np.cumsum(scored) - 1
    return answers.take(pa.array(places, mask=~scored))  # a NULL place takes NULL


def predict_label(scoring: Scoring, *columns: pa.Array) -> pa.Array:
    """Scores a batch with a classification, and gives the labels alone; see `predict`."""
    return pc.struct_field(predict(scoring, *columns), "label")  # NULL where the struct is


def _load(scoring: Scoring) -> _Loaded:
    def load() -> _Loaded:
        files, folder = placed_files(scoring)
        learned = Preprocess.from_json(files["preprocess.json"].decode())
        network = engines.load(scoring.engine, files, scoring.threads, folder)
        loaded = _Loaded(learned, network, rows.row_type(learned), held(files, folder))
        settle()
        return loaded

    return _LOADED.get(scoring.sha256, load)


def _value(label: Label, outputs: npt.NDArray[np.float32]) -> pa.Array:
    return tensors.floats_to_arrow(outputs[:, 0].astype(np.float64) * label.scale + label.mean)


def classification(label: Label, outputs: npt.NDArray[np.float32]) -> pa.Array:
    """Logits [rows, classes] -> label, its probability, and all of them, the most probable first."""
    assert label.classes is not None
    rows, classes = outputs.shape
    probabilities = softmax(outputs)
    order = np.argsort(-probabilities, axis=1, kind="stable")  # [rows, classes]
    ranked = np.take_along_axis(probabilities, order, axis=1)
    labels = label.classes.take(pa.array(order.ravel()))
    entries = pa.StructArray.from_arrays([labels, pa.array(ranked.ravel())], names=["label", "probability"])
    offsets = pa.array(np.arange(0, rows * classes + 1, max(classes, 1), dtype=np.int32))
    best: Sequence[pa.Array] = [
        label.classes.take(pa.array(order[:, 0])),
        pa.array(ranked[:, 0]),
        pa.ListArray.from_arrays(offsets, entries),
    ]
    return pa.StructArray.from_arrays(best, names=["label", "probability", "probabilities"])


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Rows of logits -> rows that sum to 1, in float64, shifted by the row's largest so that none overflows.

    >>> softmax(np.array([[0.0, 0.0]], dtype=np.float32)).tolist()
    [[0.5, 0.5]]
    """
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN and infinite inputs are scored as numbers: NaN comes out
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


_ANSWERS: dict[str, Callable[[Label, npt.NDArray[np.float32]], pa.Array]] = {"regression": _value, "classification": classification}
