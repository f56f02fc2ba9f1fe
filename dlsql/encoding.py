"""Learned preprocessing and classes, and the tensors of imported graphs, as the JVM's Encoder, Labels and Tensors are told of them."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from udfs import graphs, preprocess, rows
from udfs.engines import AT_ONCE
from udfs.spec import Feature, Graph, Preprocess, Tensor


def told(
    learned: Preprocess,
    row: np.dtype[np.void],
    *,
    strict: bool,
    alone: bool = False,
    finite: bool = False,
    more: Sequence[dict[str, Any]] = (),
) -> str:
    """What makes an Encoder of rows of this type.

    Args:
        learned: the features.
        row: see `udfs.rows.row_type`.
        strict: whether an array of a wrong length is an error; else the row is NULL.
        alone: whether a row of nothing but a NULL array, or one with a NULL in it, is NULL.
        finite: whether a row with a number that is NaN or infinite is NULL; else such numbers are encoded as they are.
        more: parts after the features.
    """
    features = zip(learned.features, rows.places(learned, row), strict=True)
    parts = [_part(feature) | {"at": at, "bound": learned.bound} for feature, at in features]
    lonely = alone and len(parts) == 1 and parts[0]["kind"] in ("numbers", "bytes")
    said = {"bytes": row.itemsize, "alone": lonely, "strict": strict, "finite": finite, "parts": [*parts, *more]}
    return json.dumps(said, ensure_ascii=False)


def _part(feature: Feature) -> dict[str, Any]:
    part: dict[str, Any] = {"name": feature.name, "kind": feature.kind}
    if feature.kind == "category":
        return part | {"words": feature.vocabulary, "nulls": feature.nulls_seen, "first": 2}
    if feature.kind in ("numbers", "bytes"):
        part["size"] = feature.width
    if not feature.size:
        part |= {"means": feature.means, "scales": feature.scales}
    return part | ({"periods": preprocess.periods(feature)} if feature.kind == "time" else {})


def labels(learned: Preprocess) -> str:
    """What makes the Labels of a network's outputs: of each label its classes, or the number's mean and scale."""
    told = [
        {"mean": one.mean, "scale": one.scale} if one.classes is None else {"classes": texts(one.classes), "type": one.type}
        for one in learned.labels
    ]
    return json.dumps(told, ensure_ascii=False)


def tensors_in(graph: Graph, *, strict: bool) -> str:
    """What makes an Encoder of rows of a graph's tensors, see `udfs.rows.tensor_type`."""
    row = rows.tensor_type(graph)
    assert row.fields is not None
    parts = [_tensor(tensor) | {"at": at} for tensor, (_, at, *_) in zip(graph.inputs, row.fields.values(), strict=True)]
    most = max(1, AT_ONCE // max(graph.given_bytes, 1))  # rows whose outputs come back as one value
    return json.dumps({"bytes": row.itemsize, "most": most, "strict": strict, "parts": parts}, ensure_ascii=False)


def _tensor(tensor: Tensor) -> dict[str, Any]:
    said = {"name": tensor.name, "kind": "tensor", "dtype": tensor.dtype, "size": tensor.fixed, "shown": tensor.shown}
    return said | {"limits": "" if tensor.dtype == "bool" else graphs.limits(tensor)}


def tensors_out(graph: Graph, *, strict: bool) -> str:
    """What makes the Tensors that read what a graph gives, see `udfs.graphs.predict_tensors`."""
    outputs = [{"dtype": graphs.given_type(one), "depth": 0 if one.is_scalar else len(one.shape)} for one in graph.outputs]
    return json.dumps({"marked": not strict, "outputs": outputs})


def texts(classes: pa.Array) -> list[str]:
    """Each class as Spark's CAST reads it from a string; bytes in base64.

    >>> texts(pa.array([0.1, 2.0])), texts(pa.array([b"a"])), texts(pa.array([True]))
    (['0.1', '2.0'], ['YQ=='], ['true'])
    """
    kind = classes.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [base64.b64encode(value).decode() for value in classes.to_pylist()]
    if pa.types.is_timestamp(kind):
        classes = classes.cast(pa.timestamp("us", kind.tz))
        return [value.isoformat(sep=" ") for value in classes.to_pylist()]
    if pa.types.is_boolean(kind):
        return [str(value).lower() for value in classes.to_pylist()]
    return [str(value) for value in classes.to_pylist()]
