"""The catalog's tables: their columns for Parquet and for Spark, the statements that make them, and rows as Parquet and back."""

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dlsql.quoting import identifier, literal

_TEXTS = pa.map_(pa.string(), pa.string())
_NUMBERS = pa.map_(pa.string(), pa.float64())
_MOMENT = pa.timestamp("us", "UTC")
MODELS = pa.schema({
    "run": pa.string(), "status": pa.string(), "model_type": pa.string(), "task": pa.string(), "engine": pa.string(), "uri": pa.string(),
    "sha256": pa.string(), "bytes": pa.int64(), "parameters": pa.int64(), "inputs": pa.string(), "outputs": pa.string(), "options": _TEXTS,
    "statement": pa.string(), "query": pa.string(), "tables": pa.list_(pa.string()), "seed": pa.int64(), "rows_trained": pa.int64(),
    "loss": pa.float64(), "metrics": _NUMBERS, "seconds": pa.float64(), "libraries": _TEXTS, "owner": pa.string(), "created_at": _MOMENT,
    "comment": pa.string(), "properties": _TEXTS,
})  # fmt: skip
ROUNDS = pa.schema({
    "round": pa.int32(), "epoch": pa.int32(), "rows": pa.int64(), "train_loss": pa.float64(), "eval_loss": pa.float64(),
    "metrics": _NUMBERS, "learning_rate": pa.float64(), "seconds": pa.float64(), "rows_per_second": pa.float64(), "at": _MOMENT,
    "group": pa.string(), "note": pa.string(),
})  # fmt: skip
ALIASES = pa.schema({"version": pa.int32(), "owner": pa.string(), "at": _MOMENT})
TABLES: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {
    "models": (MODELS, ("namespace string", "model string", "version int")),
    "training_info": (ROUNDS, ("namespace string", "model string", "run string")),
    "aliases": (ALIASES, ("namespace string", "model string", "alias string")),
}
_SPARK_TYPES: dict[pa.DataType, str] = {
    pa.string(): "string", pa.int32(): "int", pa.int64(): "bigint", pa.float64(): "double", _MOMENT: "timestamp",
    _TEXTS: "map<string,string>", _NUMBERS: "map<string,double>", pa.list_(pa.string()): "array<string>",
}  # fmt: skip


def creation(database: str, table: str, location: str, *, hive: bool) -> str:
    """The statement that makes one of the tables where it is not there: external in Hive, so that dropping it leaves the models' rows."""
    schema, partitions = TABLES[table]
    target, at = f"{identifier(database)}.{identifier(table)}", f"LOCATION {literal(location)}"
    columns = ", ".join(f"{identifier(one.name)} {_SPARK_TYPES[one.type]}" for one in schema)
    typed, keys = ", ".join(partitions), ", ".join(one.split()[0] for one in partitions)
    if hive:
        return f"CREATE EXTERNAL TABLE IF NOT EXISTS {target} ({columns}) PARTITIONED BY ({typed}) STORED AS PARQUET {at}"
    return f"CREATE TABLE IF NOT EXISTS {target} ({columns}, {typed}) USING parquet PARTITIONED BY ({keys}) {at}"


def to_parquet(schema: pa.Schema, rows: list[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file."""
    columns = {field.name: [_maps(row[field.name]) for row in rows] for field in schema}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink)
    return sink.getvalue()


def _maps(value: Any) -> Any:
    return list(value.items()) if isinstance(value, Mapping) else value


def from_parquet(data: bytes) -> list[dict[str, Any]]:
    """The rows of a Parquet file, maps as dicts."""
    table = pq.read_table(io.BytesIO(data))
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    return [{**row, **{name: dict(row[name]) for name in maps}} for row in table.to_pylist()]
