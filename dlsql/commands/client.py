"""Who asks, and what a statement says that changed something."""

from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from dlsql.bridge import Bridge
from dlsql.catalog import Catalog
from dlsql.functions import local
from dlsql.statements import Name


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: a session, its view of the catalog, and the bridge that serves both."""

    spark: SparkSession
    catalog: Catalog
    bridge: Bridge


DONE = pa.schema([("model", pa.string()), ("version", pa.int32()), ("action", pa.string())])


def done(client: Client, name: Name, version: int | None, action: str) -> DataFrame:
    """The row of a statement that changed something."""
    return local(client.spark, DONE, [{"model": f"{name.namespace}.{name.model}", "version": version, "action": action}])
