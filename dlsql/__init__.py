"""Deep learning for people who live in SQL: CREATE MODEL trains a network on Spark where the data is, PREDICT runs it.

The way of a statement, through the files of this package in order:

    SQL text ── session ── bridge ──┬─ parser ── statements ── commands ──┬─ catalog (Hive metastore tables)
    (any client)                    │                                     ├─ training (driver)  ⇄  udfs.train   (executors)
                                    │                                     └─ formats (import, export)
                                    └─ functions (PREDICT ... at analysis) ── inference (driver) ── udfs.predict (executors)
"""

from dlsql.frame import ml_predict, models, predict, predict_proba, predict_udf, train, try_predict
from dlsql.session import attach, session

__all__ = ["attach", "ml_predict", "models", "predict", "predict_proba", "predict_udf", "session", "train", "try_predict"]
__version__ = "0.1.0"
