"""Code of users: a name or a pickle -> what can be called."""

import os
import pickle
from functools import lru_cache
from importlib import import_module
from typing import Any

from udfs.errors import NetworkError
from udfs.spec import Code


@lru_cache(maxsize=32)
def load(code: Code) -> Any:
    """What the code names, the same object each time. It may be anything: whoever calls looks whether it is what was wanted.

    Raises:
        NetworkError: this process cannot import it.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")  # read when keras is imported, which the code may do
    try:
        if code.pickled:
            # Made by the driver of this very training from an object that its own user handed over; nothing else comes this way.
            return pickle.loads(code.pickled)
        module, _, function = code.name.partition(":")
        return getattr(import_module(module), function)
    except Exception as e:  # a module that is imported runs, and may raise anything
        problem = f"`{code.name}` cannot be imported: {type(e).__name__}: {e}. Install it for the driver and the workers."
        raise NetworkError(problem) from e
