"""ONNX Runtime: the graph `model.onnx` of an artefact."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; without it ONNX Runtime 1.29+ writes to the home and phones home
import onnxruntime

from udfs.engines import AT_ONCE, Predictor, Runner
from udfs.spec import ROW_BYTES, TENSORS


def load(files: Mapping[str, bytes], threads: int, folder: Path | None = None) -> Predictor:
    """As `run`, of a graph whose inputs are among `dense` and `codes`; an input of no columns is left out of it."""
    session = _session(files, threads, folder)
    names = {given.name for given in session.get_inputs()}
    most = max(1, AT_ONCE // max(_row_bytes(session), 1))

    def predict(dense: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if not len(dense):  # a batch of nothing but NULLs: operators divide by the number of rows, and end the process
            return predict(np.zeros((1, dense.shape[1]), np.float32), np.zeros((1, codes.shape[1]), np.int64))[:0]
        if len(dense) > most:
            return np.concatenate([predict(dense[at : at + most], codes[at : at + most]) for at in range(0, len(dense), most)])
        feed = {name: array for name, array in (("dense", dense), ("codes", codes)) if name in names}
        outputs: npt.NDArray[np.float32] = session.run(None, feed)[0]
        return outputs

    return predict


def run(files: Mapping[str, bytes], threads: int, folder: Path | None = None) -> Runner:
    """A session on `threads` threads."""
    session = _session(files, threads, folder)
    return _Graph(session, _row_bytes(session))


@dataclass(frozen=True, slots=True)
class _Graph:
    session: onnxruntime.InferenceSession
    row_bytes: int

    def __call__(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        return list(self.session.run(None, dict(feed)))


def _row_bytes(session: onnxruntime.InferenceSession) -> int:
    return int(session.get_modelmeta().custom_metadata_map.get(ROW_BYTES, 0))


def _session(files: Mapping[str, bytes], threads: int, folder: Path | None) -> onnxruntime.InferenceSession:
    """A session on `threads` threads.

    Tensors in a folder are mapped, and processes share their pages. They stay as they are: what ONNX Runtime would make of the weights of
    a layer to multiply them faster, each process would keep for itself. That of a convolution's filters each keeps: else it took up to 1.5
    times as long.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are about the machine, not the model
    # A spinning pool of threads takes the cores that Spark's other tasks on this host need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if folder is not None and (folder / TENSORS).exists():
        options.add_session_config_entry("session.disable_prepacking", "1")
    elif TENSORS in files:
        options.add_external_initializers_from_files_in_memory([TENSORS], [files[TENSORS]], [len(files[TENSORS])])
    graph = files["model.onnx"] if folder is None else str(folder / "model.onnx")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
