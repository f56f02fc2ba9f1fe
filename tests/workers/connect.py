"""A Spark Connect client without dlsql: statements in, answers out, in JSON, a line each."""

import importlib.abc
import json
import sys


class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dlsql", "udfs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Nowhere())

from pyspark.errors import PySparkException  # noqa: E402
from pyspark.sql import Row, SparkSession  # noqa: E402


def plain(value):
    if isinstance(value, Row):
        return {key: plain(one) for key, one in value.asDict().items()}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def answer(spark, sql):
    said = {"columns": [], "types": [], "rows": [], "error": None}
    try:
        frame = spark.sql(sql)
        said["columns"], said["types"] = frame.columns, [kind for _, kind in frame.dtypes]
        said["rows"] = [[plain(value) for value in row] for row in frame.collect()]
    except PySparkException as e:
        said["error"] = str(e)
    return said


spark = SparkSession.builder.remote(sys.argv[1]).create()
for line in sys.stdin:
    print(json.dumps(answer(spark, json.loads(line))), flush=True)
spark.stop()
