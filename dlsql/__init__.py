"""Deep learning for people who live in SQL: CREATE MODEL trains a network on Spark where the data is, PREDICT runs it.

The way of a statement, through the files of this package in order:

    SQL text ── session ── bridge ──┬─ parser ── statements ── commands ──┬─ catalog (Hive metastore tables)
    (any client)                    │                                     ├─ training (driver)  ⇄  udfs.train   (executors)
                                    │                                     └─ formats (import, export)
                                    └─ functions (PREDICT ... at analysis) ── inference (driver) ── udfs.predict (executors)
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlsql.frame import ml_predict, models, predict, predict_proba, predict_udf, train, try_predict
    from dlsql.session import attach, session

__all__ = ["attach", "ml_predict", "models", "predict", "predict_proba", "predict_udf", "session", "train", "try_predict"]
__version__ = "0.1.0"


class _Package(ModuleType):
    """Loads Spark when a name is first asked for: the command line answers --help without it."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'dlsql' has no attribute {name!r}")
        return getattr(import_module("dlsql.session" if name in ("attach", "session") else "dlsql.frame"), name)

    def __setattr__(self, name: str, value: object) -> None:
        if name != "session" or not isinstance(value, ModuleType):  # the import of dlsql/session.py would hide the function of that name
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
