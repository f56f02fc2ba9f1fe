"""PyTorch: the TorchScript program `model.pt` of an artefact."""

import io
import warnings
from collections.abc import Mapping
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
    module = torch.jit.load(program, map_location="cpu").eval()

    def outputs(feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        with torch.inference_mode():
            given = module(*(torch.from_numpy(np.array(array)) for array in feed.values()))
        return [one.numpy() for one in (given if isinstance(given, tuple | list) else (given,))]

    return outputs
