r"""A trained network as one BINARY value, and back: data alone, never code, so that bytes from anywhere may be read.

The bytes, all numbers little-endian:

    8   b"dlsql-1\n"         what it is, and the version of this form
    4   CRC-32 of the rest
    4   length of the header
    .   header, JSON in UTF-8: what training learned of the columns, the network's shape, its tensors' names, types and
        shapes, what was measured
    .   the tensors' numbers one after the other
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from udfs.errors import ScoringError
from udfs.spec import NetworkSpec, Preprocess

_MAGIC = b"dlsql-1\n"
_FAMILY = b"dlsql-"
_HEAD = struct.Struct("<II")
_TYPES = ("<f4", "<f8", "<i8")


@dataclass(frozen=True, slots=True)
class Value:
    """A trained network with what it learned of the columns."""

    learned: Preprocess
    network: NetworkSpec
    tensors: Mapping[str, npt.NDArray[Any]]  # name -> array, as the network's module names them
    measured: Mapping[str, Any]  # rows, skipped, epochs, loss, metrics

    @property
    def task(self) -> str:
        """classification or regression."""
        return "regression" if self.learned.label.classes is None else "classification"


def write(value: Value) -> bytes:
    """The bytes of a value: the same for the same value.

    >>> from udfs.spec import Feature, Label
    >>> learned = Preprocess((Feature("a", "int", "number", (1.0,), (2.0,)),), Label("y", "int"))
    >>> value = Value(learned, NetworkSpec(1, (), 1), {"w": np.ones((1, 1), np.float32)}, {"rows": 3})
    >>> read(write(value)).learned == learned, read(write(value)).measured["rows"], len(write(value)) < 500
    (True, 3, True)
    """
    arrays = {name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for name, array in value.tensors.items()}
    header = {
        "learned": json.loads(value.learned.to_json()),
        "network": {
            "dense": value.network.dense,
            "codes": value.network.codes,
            "outputs": value.network.outputs,
            "arguments": dict(value.network.arguments),
        },
        "tensors": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
        "measured": dict(value.measured),
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    rest = b"".join([text, *(array.tobytes() for array in arrays.values())])
    return b"".join([_MAGIC, _HEAD.pack(zlib.crc32(rest), len(text)), rest])


def read(data: bytes | memoryview) -> Value:
    """The inverse of `write`; the tensors are views of the bytes.

    Raises:
        ScoringError: these are no bytes of a network, or damaged ones, or of a newer form.
    """
    view = memoryview(data)
    start = len(_MAGIC) + _HEAD.size
    if len(view) < start or bytes(view[: len(_FAMILY)]) != _FAMILY:
        raise ScoringError(f"A value of {len(view)} bytes is no network; PREDICT takes the BINARY that TRAIN gives, or a model's name.")
    if bytes(view[: len(_MAGIC)]) != _MAGIC:
        form = bytes(view[len(_FAMILY) : len(_MAGIC)]).decode("ascii", "replace").strip()
        raise ScoringError(f"A network is stored in form {form}, which this version of dlsql does not read; train it again.")
    checksum, length = _HEAD.unpack_from(view, len(_MAGIC))
    if zlib.crc32(view[start:]) != checksum:
        raise ScoringError(f"A network of {len(view)} bytes is damaged: its checksum is wrong. Was it cut off, or kept as text?")
    header = json.loads(bytes(view[start : start + length]))
    tensors: dict[str, npt.NDArray[Any]] = {}
    at = start + length
    for name, kind, sizes in header["tensors"]:
        count = int(np.prod(sizes, dtype=np.int64))
        if kind not in _TYPES or at + count * np.dtype(kind).itemsize > len(view):
            raise ScoringError(f"A network of {len(view)} bytes is damaged: tensor `{name}` does not fit.")
        tensors[name] = np.frombuffer(view, kind, count, at).reshape(sizes)
        at += tensors[name].nbytes
    shape = header["network"]  # always of the perceptron: bytes from anywhere name no code
    arguments = tuple((name, tuple(one) if isinstance(one, list) else one) for name, one in shape["arguments"].items())
    network = NetworkSpec(shape["dense"], tuple(shape["codes"]), shape["outputs"], arguments=arguments)
    return Value(Preprocess.from_dict(header["learned"]), network, tensors, header["measured"])
