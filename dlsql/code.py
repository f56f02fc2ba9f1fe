"""Code of users in a statement: which names a server runs, and Python objects under the text that stands for them in SQL."""

import hashlib
import sys
import sysconfig
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from pyspark import cloudpickle

from dlsql.errors import error
from udfs.spec import Code

ALLOWED = "spark.dlsql.allowed_modules"  # static: read from the SparkConf, which no SET changes
_HANDED = "python:"
_PICKLES: dict[str, list[bytes]] = defaultdict(list)  # by the text that stands for them, one for each statement that runs with it
_HANDING = threading.Lock()


@contextmanager
def handed(option: str, given: Any) -> Iterator[str]:
    """The text that stands for a Python object in a statement; it means the object as long as the context lasts.

    Raises:
        OptionError: the object cannot be sent to the workers.
    """
    pickled = _pickled(option, given)
    name = getattr(given, "__qualname__", type(given).__name__)
    text = f"{_HANDED}{given.__module__}.{name}#{hashlib.sha256(pickled).hexdigest()[:16]}"
    with _HANDING:
        _PICKLES[text].append(pickled)
    try:
        yield text
    finally:
        with _HANDING:
            _PICKLES[text].pop()
            if not _PICKLES[text]:
                del _PICKLES[text]


def find(option: str, text: str, allowed: str | None) -> Code:
    """What the text of an option stands for. Nothing is imported: whoever started the server says what may be.

    Raises:
        OptionError: the text is no name of code, or of code that may not run here.
    """

    def refuse(expected: str) -> None:
        raise error("DLSQL_OPTION_VALUE", option=option, value=repr(text), expected=expected)

    if text.startswith(_HANDED):
        if not _PICKLES.get(text):
            refuse(f"it stands for a Python object, which is gone. Hand it over again: dlsql.train(df, ..., {option}=...).")
        return Code(text.partition("#")[0], _PICKLES[text][-1])
    module, _, function = text.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        refuse("it takes 'package.module:function'.")
    if not is_allowed(module, allowed):
        have = f"has {allowed}" if allowed else "is not set"
        refuse(f"`{module}` may not run here. {ALLOWED}, a setting for whoever starts the server, {have}.")
    return Code(text)


def is_allowed(module: str, allowed: str | None) -> bool:
    """Whether one of the comma-separated prefixes is of the module.

    >>> is_allowed("nets.vision", "nets, other.loss"), is_allowed("nets2", "nets"), is_allowed("nets", None)
    (True, False, False)
    """
    prefixes = [one.strip() for one in (allowed or "").split(",") if one.strip()]
    return any(module == one or module.startswith(f"{one}.") for one in prefixes)


def _pickled(option: str, given: Any) -> bytes:
    """By value where the workers may not have the module that the object is of: they have what is installed, not the user's own files."""
    home = str(getattr(given, "func", given).__module__)  # of a functools.partial, where its function is from
    package = sys.modules.get(home.split(".")[0]) or sys.modules.get(home)
    by_value = package is not None and package.__name__ not in ("__main__", "udfs") and not _is_installed(package)
    with _HANDING:  # cloudpickle keeps one list of such modules for all threads
        if by_value:
            cloudpickle.register_pickle_by_value(package)  # type: ignore[no-untyped-call]
        try:
            return bytes(cloudpickle.dumps(given))  # type: ignore[no-untyped-call]
        except Exception as e:
            expected = f"it cannot be sent to the workers: {type(e).__name__}: {str(e)[:300]}"
            raise error("DLSQL_OPTION_VALUE", option=option, value=repr(given)[:200], expected=expected) from e
        finally:
            if by_value:
                cloudpickle.unregister_pickle_by_value(package)  # type: ignore[no-untyped-call]


def _is_installed(package: ModuleType) -> bool:
    place = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", [])), "")
    return not place or place.startswith(tuple(sysconfig.get_paths()[one] for one in ("stdlib", "platstdlib", "purelib", "platlib")))
