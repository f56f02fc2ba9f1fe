"""The Python process of a worker, which lives for many tasks."""

import gc
import sys

_settled = 0  # modules that were there when it last settled


def settle() -> None:
    """Leaves what is loaded by now out of garbage collection, where that is more than before.

    Spark collects a worker's garbage after each task. With ONNX Runtime in it that takes 20 ms, with torch 50 ms, and 400 ms once a first
    step of an optimiser has loaded torch's compiler.
    """
    global _settled
    if len(sys.modules) > _settled:
        gc.collect()
        gc.freeze()
        _settled = len(sys.modules)
