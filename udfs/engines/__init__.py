"""The engines that run a network, one module each, with the same function: load(files, threads, folder) -> Predictor."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Predictor(Protocol):
    """A loaded network."""

    def __call__(self, dense: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """dense [rows, numbers] and codes [rows, categories] -> outputs [rows, outputs]."""
        ...


_MODULES = {"onnx": "udfs.engines.onnx"}


def load(engine: str, files: Mapping[str, bytes], threads: int, folder: Path | None = None) -> Predictor:
    """The network of an artefact, ready to score on this many threads; of a large one `folder` holds the files, too."""
    loader: Callable[[Mapping[str, bytes], int, Path | None], Any] = import_module(_MODULES[engine]).load
    predictor: Predictor = loader(files, threads, folder)
    return predictor
