"""The catalog: models, versions, aliases and training rounds as Parquet tables of the Hive metastore, which any engine can read.

A version is one partition of `models`. Its files are written first, under names of their own, then ADD PARTITION commits it: the metastore
does that atomically and refuses a partition that exists, so the loser of a race takes the next number. What a crash leaves before the commit is
invisible, and `vacuum` removes it. No partition's files ever change: an alias, a comment or a round is a new file and one ALTER PARTITION.
"""

import dataclasses
import hashlib
import io
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from dlsql.bridge import Bridge
from dlsql.errors import did_you_mean, error
from dlsql.model import RoundInfo, Version
from dlsql.quoting import identifier
from dlsql.statements import Name

DEFAULT = "default"  # the alias that SET DEFAULT_VERSION pins

_TEXTS = pa.map_(pa.string(), pa.string())
_NUMBERS = pa.map_(pa.string(), pa.float64())
_MOMENT = pa.timestamp("us", "UTC")
_MODEL_ROW = pa.schema({
    "run": pa.string(), "status": pa.string(), "model_type": pa.string(), "task": pa.string(), "engine": pa.string(), "uri": pa.string(),
    "sha256": pa.string(), "bytes": pa.int64(), "parameters": pa.int64(), "inputs": pa.string(), "outputs": pa.string(), "options": _TEXTS,
    "statement": pa.string(), "query": pa.string(), "tables": pa.list_(pa.string()), "seed": pa.int64(), "rows_trained": pa.int64(),
    "loss": pa.float64(), "metrics": _NUMBERS, "seconds": pa.float64(), "libraries": _TEXTS, "owner": pa.string(), "created_at": _MOMENT,
    "comment": pa.string(), "properties": _TEXTS,
})  # fmt: skip
_ROUND_ROW = pa.schema({
    "round": pa.int32(), "epoch": pa.int32(), "rows": pa.int64(), "train_loss": pa.float64(), "eval_loss": pa.float64(), "metrics": _NUMBERS,
    "learning_rate": pa.float64(), "seconds": pa.float64(), "rows_per_second": pa.float64(), "at": _MOMENT,
})  # fmt: skip
_ALIAS_ROW = pa.schema({"version": pa.int32(), "owner": pa.string(), "at": _MOMENT})
_TABLES: dict[str, tuple[pa.Schema, str]] = {
    "models": (_MODEL_ROW, "namespace string, model string, version int"),
    "training_info": (_ROUND_ROW, "namespace string, model string, run string"),
    "aliases": (_ALIAS_ROW, "namespace string, model string, alias string"),
}
_SPARK_TYPES: dict[pa.DataType, str] = {
    pa.string(): "string", pa.int32(): "int", pa.int64(): "bigint", pa.float64(): "double", _MOMENT: "timestamp",
    _TEXTS: "map<string,string>", _NUMBERS: "map<string,double>", pa.list_(pa.string()): "array<string>",
}  # fmt: skip


class Catalog:
    """The catalog of one metastore, as one session sees it."""

    def __init__(self, bridge: Bridge, spark: SparkSession, rows: dict[str, Any]) -> None:
        self._bridge, self._spark = bridge, spark
        self.database = spark.conf.get("spark.dlsql.catalog.database", "dlsql") or "dlsql"
        self._metastore = bridge.metastore(spark, self.database)
        self.files = bridge.files()
        self._rows = rows  # what was read, by location, whose files never change; shared by all sessions

    # Names

    def qualified(self, name: Name) -> Name:
        """A name with its namespace: the session's current database where none is given."""
        return dataclasses.replace(name, namespace=name.namespace or self._spark.catalog.currentDatabase())

    def check_namespace(self, name: Name) -> None:
        """Raises NotFoundError where a qualified name's database does not exist."""
        assert name.namespace is not None
        if not self._spark.catalog.databaseExists(identifier(name.namespace)):
            known = [database.name for database in self._spark.catalog.listDatabases()]
            raise error("DLSQL_NAMESPACE_NOT_FOUND", namespace=name.namespace, hint=did_you_mean(name.namespace, known))

    # Looking up: straight to the metastore, without a Spark job

    def numbers(self, name: Name) -> dict[int, str]:
        """The versions of a model, ascending, with the location of each one's row; empty for a model that is not registered."""
        found = self._metastore.list("models", _key(name))
        return dict(sorted((int(row["version"]), row[""]) for row in found))

    def aliases(self, name: Name) -> dict[str, int]:
        """Alias -> version; `default` among them where a default version is pinned."""
        return {row["alias"]: int(self._row(row[""])["version"]) for row in self._metastore.list("aliases", _key(name))}

    def find(self, name: Name) -> Version:
        """The version that a qualified name means.

        Raises:
            NotFoundError: no such model, version or alias.
        """
        numbers = self.numbers(name)
        if not numbers:
            raise self._not_found(name)
        number = name.version
        if number is None:
            aliases = self.aliases(name)
            if name.alias in (None, DEFAULT):
                number = aliases.get(DEFAULT, max(numbers))
            elif name.alias in aliases:
                number = aliases[name.alias]
            else:
                hint = did_you_mean(name.alias, [alias for alias in aliases if alias != DEFAULT])
                raise error("DLSQL_ALIAS_NOT_FOUND", name=_base(name), alias=name.alias, hint=hint)
        if number not in numbers:
            raise error("DLSQL_VERSION_NOT_FOUND", name=_base(name), version=number, versions=", ".join(map(str, numbers)))
        return self._version(name, number, numbers[number])

    def versions(self, name: Name) -> list[Version]:
        """All versions of a model, ascending. Raises NotFoundError for a model that is not registered."""
        numbers = self.numbers(name)
        if not numbers:
            raise self._not_found(name)
        return [self._version(name, number, location) for number, location in numbers.items()]

    def models(self, namespace: str | None = None) -> list[Version]:
        """The default version of every model, by name."""
        found = self._metastore.list("models", {} if namespace is None else {"namespace": namespace})
        return [self.find(Name(*one)) for one in sorted({(row["namespace"], row["model"]) for row in found})]

    def _not_found(self, name: Name) -> Exception:
        known = sorted({f"{row['namespace']}.{row['model']}" for row in self._metastore.list("models", {})})
        return error("DLSQL_MODEL_NOT_FOUND", name=_base(name), hint=did_you_mean(_base(name), known))

    def _version(self, name: Name, number: int, location: str) -> Version:
        return Version(namespace=str(name.namespace), model=name.model, version=number, **self._row(location))

    def _row(self, location: str) -> dict[str, Any]:
        if location not in self._rows:
            row = _from_parquet(self.files.read(f"{location}/{_ROWS}"))[0]
            if "tables" in row:
                row["tables"] = tuple(row["tables"])
            self._rows[location] = row
        return dict(self._rows[location])

    # Writing

    def prepare(self) -> None:
        """Makes the database and its tables where they are not there yet."""
        hive = self._spark.conf.get("spark.sql.catalogImplementation") == "hive"
        try:
            self._spark.sql(f"CREATE DATABASE IF NOT EXISTS {identifier(self.database)}")
            for table, (schema, partitions) in _TABLES.items():
                columns = ", ".join(f"{identifier(field.name)} {_SPARK_TYPES[field.type]}" for field in schema)
                keys = [part.split() for part in partitions.split(", ")]
                partitioned = ", ".join(f"{identifier(key)} {type}" for key, type in keys)
                names = ", ".join(identifier(key) for key, _ in keys)
                at = f"LOCATION '{self._root()}/{table}'"  # external: dropping the table leaves the models' rows
                self._spark.sql(
                    f"CREATE EXTERNAL TABLE IF NOT EXISTS {identifier(self.database)}.{table} ({columns}) PARTITIONED BY ({partitioned}) STORED AS PARQUET {at}"
                    if hive
                    else f"CREATE TABLE IF NOT EXISTS {identifier(self.database)}.{table} ({columns}, {partitioned}) USING parquet PARTITIONED BY ({names}) {at}"
                )
        except AnalysisException as e:
            if "already exists" not in str(e).lower():  # another client made it in the meantime
                reason = str(e).split("\n")[0]
                raise error("DLSQL_CATALOG", problem=f"Could not make the catalog tables in database `{self.database}`: {reason}") from e

    def register(self, version: Version) -> Version:
        """Commits a version under the next free number, which it gives back."""
        name = Name(version.namespace, version.model)
        location = self._store("models", name, version.run, _MODEL_ROW, [_without_key(version)])
        number = max(self.numbers(name), default=0) + 1
        while not self._metastore.add("models", {**_key(name), "version": str(number)}, location):
            number += 1
        return dataclasses.replace(version, version=number)

    def amend(self, version: Version, **changes: Any) -> Version:
        """A version with another comment or other properties."""
        amended = dataclasses.replace(version, **changes)
        location = self._store("models", version.name, f"{version.run}-{_new_id()}", _MODEL_ROW, [_without_key(amended)])
        self._metastore.move("models", {**_key(version.name), "version": str(version.version)}, location)
        return amended

    def set_alias(self, name: Name, alias: str, version: int) -> None:
        """Points an alias to a version, which must be there."""
        row = {"version": version, "owner": self.user(), "at": datetime.now(UTC)}
        location = self._store("aliases", name, _new_id(), _ALIAS_ROW, [row])
        self._point("aliases", {**_key(name), "alias": alias}, location)

    def _point(self, table: str, key: Mapping[str, str], location: str) -> None:
        """Points a partition, which may be new, to a location; what it pointed to goes."""
        before = self._metastore.list(table, key)
        if not before and self._metastore.add(table, key, location):
            return
        self._metastore.move(table, key, location)
        for row in before:
            self.files.delete(row[""])

    def unset_alias(self, name: Name, alias: str) -> bool:
        """Removes an alias; False if there is none."""
        return self._metastore.drop("aliases", {**_key(name), "alias": alias})

    def drop(self, name: Name, version: int | None = None) -> None:
        """Drops a model, or one version of it with the aliases that point there: the partitions first, then what they held."""
        for one in self.versions(name) if version is None else [self.find(dataclasses.replace(name, version=version, alias=None))]:
            for alias, target in self.aliases(name).items():
                if target == one.version:
                    self.unset_alias(name, alias)
            location = self.numbers(name)[one.version]
            self._metastore.drop("models", {**_key(name), "version": str(one.version)})
            self.drop_run(name, one.run)
            self.files.delete(location)
            self.files.delete(one.uri)

    def rename(self, name: Name, new: Name) -> None:
        """Registers every version under the new name, then takes the old one away; the files stay where they are."""
        for number, location in self.numbers(name).items():
            if not self._metastore.add("models", {**_key(new), "version": str(number)}, location):
                raise error("DLSQL_MODEL_EXISTS", name=_base(new))
        for table in ("aliases", "training_info"):
            for row in self._metastore.list(table, _key(name)):
                self._metastore.add(table, {**_partition(row), **_key(new)}, row[""])
        for table in ("models", "aliases", "training_info"):
            for row in self._metastore.list(table, _key(name)):
                self._metastore.drop(table, _partition(row))

    def artefact_uri(self, name: Name, run: str) -> str:
        """Where a run keeps its files."""
        return f"{self._root()}/artifacts/{_folder(str(name.namespace))}/{_folder(name.model)}/{run}"

    def checkpoint_uri(self, fingerprint: str) -> str:
        """Where an unfinished training keeps its state."""
        return f"{self._root()}/checkpoints/{fingerprint}"

    def _root(self) -> str:
        return self._bridge.database_location(self._spark, self.database)

    def _store(self, table: str, name: Name, id: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> str:
        """Rows in a folder of their own; its location."""
        location = f"{self._root()}/{table}/{_folder(str(name.namespace))}/{_folder(name.model)}/{id}"
        self.files.write(f"{location}/{_ROWS}", _to_parquet(schema, rows))
        return location

    def user(self) -> str:
        """Who runs this session."""
        return str(self._spark.sparkContext.sparkUser())

    # Training rounds

    def write_rounds(self, name: Name, run: str, rounds: Iterable[RoundInfo]) -> None:
        """Shows a run's rounds so far to every session."""
        rows = [dataclasses.asdict(one) for one in rounds]
        location = self._store("training_info", name, f"{run}-{_new_id()}", _ROUND_ROW, rows)
        self._point("training_info", {**_key(name), "run": run}, location)

    def rounds(self, name: Name) -> list[tuple[int, list[RoundInfo]]]:
        """Version -> its rounds, ascending; the newest run that is no version yet stands under the number it is to get."""
        runs = {row["run"]: row[""] for row in self._metastore.list("training_info", _key(name))}
        numbers = self.numbers(name)
        named = {str(self._row(location)["run"]): number for number, location in numbers.items()}
        open_runs = sorted(run for run in runs if run not in named)[-1:]  # a run's id begins with its start
        wanted = {**{run: max(numbers, default=0) + 1 for run in open_runs}, **named}
        shown = [(number, self._read_rounds(runs[run])) for run, number in wanted.items() if run in runs]
        if not shown and not numbers:
            raise self._not_found(name)
        return sorted((one for one in shown if name.version in (None, one[0])), key=lambda one: one[0])

    def _read_rounds(self, location: str) -> list[RoundInfo]:
        return [RoundInfo(**row) for row in _from_parquet(self.files.read(f"{location}/{_ROWS}"))]

    def drop_run(self, name: Name, run: str) -> None:
        """Takes a run's rounds away."""
        key = {**_key(name), "run": run}
        for row in self._metastore.list("training_info", key):
            self._metastore.drop("training_info", key)
            self.files.delete(row[""])

    # What crashes left

    def vacuum(self, retain_hours: float) -> list[str]:
        """Removes files that no partition points to and runs that became no version, all older than `retain_hours`; gives what went."""
        before = time.time() - retain_hours * 3600
        root, kept, runs = self._root(), set[str](), set[str]()
        for row in self._metastore.list("models", {}):
            version = self._row(row[""])
            kept |= {row[""], version["uri"]}
            runs.add(version["run"])
        kept |= {row[""] for row in self._metastore.list("aliases", {})}
        for row in self._metastore.list("training_info", {}):
            if row["run"] in runs or self._modified(row[""]) >= before:
                kept.add(row[""])
            else:
                self._metastore.drop("training_info", _partition(row))
        gone = []
        for room in (*_TABLES, "artifacts"):
            for namespace, _ in self.files.list(f"{root}/{room}"):
                for model, _ in self.files.list(namespace):
                    gone += [path for path, modified in self.files.list(model) if modified < before and not _among(path, kept)]
        gone += [path for path, modified in self.files.list(f"{root}/checkpoints") if modified < before]
        for path in gone:
            self.files.delete(path)
        return gone

    def _modified(self, location: str) -> float:
        return max((at for _, at in self.files.list(location)), default=0.0)


_ROWS = "rows.parquet"


def new_run() -> str:
    """An id for a training: its start in UTC, so that ids sort by age, and a random part."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{_new_id()}"


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _base(name: Name) -> str:
    return f"{name.namespace}.{name.model}"


def _key(name: Name) -> dict[str, str]:
    return {"namespace": str(name.namespace), "model": name.model}


def _partition(row: Mapping[str, str]) -> dict[str, str]:
    return {column: value for column, value in row.items() if column}


def _without_key(version: Version) -> dict[str, Any]:
    return {name: getattr(version, name) for name in _MODEL_ROW.names}


def _folder(name: str) -> str:
    """A name as a folder that any file system takes, and that no other name has.

    >>> _folder("churn"), _folder("my model")
    ('churn', 'my_model-76eeb051')
    """
    plain = re.sub(r"[^a-z0-9_]", "_", name)
    return plain if plain == name else f"{plain[:64]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _among(path: str, kept: set[str]) -> bool:
    """Whether a path is one of these, however its scheme is written (file:/x, file:///x, /x)."""
    bare = re.sub(r"^file:/*", "/", path)
    return any(re.sub(r"^file:/*", "/", one) == bare for one in kept)


def _to_parquet(schema: pa.Schema, rows: list[dict[str, Any]]) -> bytes:
    columns = {field.name: [_maps(row[field.name]) for row in rows] for field in schema}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink)
    return sink.getvalue()


def _maps(value: Any) -> Any:
    return list(value.items()) if isinstance(value, Mapping) else value


def _from_parquet(data: bytes) -> list[dict[str, Any]]:
    table = pq.read_table(io.BytesIO(data))
    maps = [field.name for field in table.schema if pa.types.is_map(field.type)]
    return [{**row, **{name: dict(row[name]) for name in maps}} for row in table.to_pylist()]
