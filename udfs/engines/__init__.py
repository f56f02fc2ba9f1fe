"""The engines that run a network, one module each, with the same function: load(bundle, threads) -> Predictor."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from udfs.spec import Bundle


class Predictor(Protocol):
    """A loaded network."""

    def __call__(self, dense: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """dense [rows, numbers] and codes [rows, categories] -> outputs [rows, outputs]."""
        ...


_MODULES = {"onnx": "udfs.engines.onnx"}


def load(engine: str, bundle: Bundle, threads: int) -> Predictor:
    """The network of an artefact, ready to score on this many threads."""
    loader: Callable[[Bundle, int], Any] = import_module(_MODULES[engine]).load
    predictor: Predictor = loader(bundle, threads)
    return predictor
