"""PyTorch: the TorchScript program `model.pt` of an artefact."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from udfs.engines import Runner

warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated")  # models are passed on in this format, not in its newer one


def run(files: Mapping[str, bytes], threads: int, folder: Path | None = None) -> Runner:
    """The program on `threads` threads; tensors enter in their order, as its forward takes them."""
    torch.set_num_threads(threads)
    program = io.BytesIO(files["model.pt"]) if folder is None else str(folder / "model.pt")
    return _Program(torch.jit.load(program, map_location="cpu").eval())


@dataclass(frozen=True, slots=True)
class _Program:
    module: Any
    row_bytes: int = 0  # it does not say

    def __call__(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        with torch.inference_mode():
            given = self.module(*(torch.from_numpy(np.array(array)) for array in feed.values()))
        return [one.numpy() for one in (given if isinstance(given, tuple | list) else (given,))]
