"""The engines that run a network, one module each: load(...) -> Predictor of a network that was trained here, run(...) -> Runner of any."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

AT_ONCE = 64 << 20  # bytes of a tensor that a run makes at most, of which several are there at once: rows go through a network in portions


class Predictor(Protocol):
    """A loaded network."""

    def __call__(self, dense: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """dense [rows, numbers] and codes [rows, categories] -> outputs [rows, outputs]."""
        ...


class Runner(Protocol):
    """A loaded graph of any tensors."""

    @property
    def row_bytes(self) -> int:
        """Of the largest tensor that it makes of a row; 0 where that is not known."""
        ...

    def __call__(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Tensors by their names, in the graph's order -> its outputs in theirs."""
        ...


def runner(engine: str, files: Mapping[str, bytes], threads: int, folder: Path | None = None) -> Runner:
    """The graph of an artefact that was imported, see `load`."""
    loader: Callable[[Mapping[str, bytes], int, Path | None], Any] = import_module(_RUNNERS[engine]).run
    made: Runner = loader(files, threads, folder)
    return made


_RUNNERS = {"onnxruntime": "udfs.engines.onnx", "torch": "udfs.engines.torchscript"}
_MODULES = {"onnx": "udfs.engines.onnx"}


def load(engine: str, files: Mapping[str, bytes], threads: int, folder: Path | None = None) -> Predictor:
    """The network of an artefact, ready to score on this many threads; of a large one `folder` holds the files, too."""
    loader: Callable[[Mapping[str, bytes], int, Path | None], Any] = import_module(_MODULES[engine]).load
    predictor: Predictor = loader(files, threads, folder)
    return predictor
