"""The catalog: models, versions, aliases and training rounds as Parquet tables of the Hive metastore, which any engine can read.

A version is one partition of `models`. Its files are written first, under names of their own, then ADD PARTITION commits it: the
metastore does that atomically and refuses a partition that exists, so the loser of a race takes the next number. What a crash leaves
before the commit is invisible, and `vacuum` removes it. No partition's files ever change: an alias, a comment or a round is a new file
and one ALTER PARTITION.

A look-up at analysis asks the metastore one cheap thing, the catalog's revision, and trusts what it saw at that revision. Whoever
changes versions or aliases writes another revision after the change (a property of the database), so the next query of any
application looks anew.

A version's number is never given again while its model is there: the partition of the last version that is dropped stays, and points
to a file without rows. Models of a database that is dropped are forgotten by the application that drops it (Metastore.java); where
another engine dropped it, they are not shown, and `vacuum` takes them.
"""

import dataclasses
import hashlib
import logging
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from dlsql.bridge import Bridge
from dlsql.errors import StorageError, did_you_mean, error
from dlsql.model import RoundInfo, Version
from dlsql.quoting import identifier
from dlsql.statements import Name
from dlsql.tables import ALIASES, MODELS, ROUNDS, TABLES, creation, from_parquet, to_parquet

_LOG = logging.getLogger("dlsql")
_T = TypeVar("_T")

DEFAULT = "default"  # the alias that SET DEFAULT_VERSION pins
_SECONDS_TRUSTED = 5.0  # what was seen at a revision: for changes whose author died before writing another one, or wrote past this module
_MOST_LOOKS = 10  # of one look-up, where each file moved away before it was read
_LONGEST = 256  # characters of a partition's value in a metastore, and 767 of all of them with their keys, escaped
_LONGEST_PARTITION = 767
_DROPPED = "dropped-"  # begins the folder of a version that was dropped and whose number is kept; a run's begins with its year
_SHORTEST_RETENTION = 1.0  # hours; what is younger may belong to a training that runs


@dataclass(frozen=True, slots=True)
class _Seen:
    """A model as the metastore showed it."""

    revision: str | None
    at: float
    numbers: dict[int, str]  # version -> location of its row, ascending
    aliases: dict[str, int]

    @property
    def default(self) -> int:
        """The version that the bare name means."""
        pinned = self.aliases.get(DEFAULT)
        return pinned if pinned in self.numbers else max(self.numbers)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the sessions of one application have seen of the metastore and read of the store."""

    rows: dict[str, Any] = field(default_factory=dict)  # by location, whose files never change
    models: dict[tuple[str, str, str], _Seen] = field(default_factory=dict)  # by database, namespace and model
    changing: threading.RLock = field(default_factory=threading.RLock)  # see Catalog._changing


class Catalog:
    """The catalog of one metastore, as one session sees it."""

    def __init__(self, bridge: Bridge, spark: SparkSession, memory: Memory, namespace: str | None = None) -> None:
        self._bridge, self._spark, self._memory, self._namespace = bridge, spark, memory, namespace
        self.database = spark.conf.get("spark.dlsql.catalog.database", "dlsql") or "dlsql"
        self._metastore = bridge.metastore(spark, self.database)
        self.files = bridge.files()

    # Names

    def qualified(self, name: Name) -> Name:
        """A name with its namespace: where none is given that of the view that holds the name, else the session's current database."""
        return dataclasses.replace(name, namespace=name.namespace or self._namespace or self._spark.catalog.currentDatabase())

    def check_name(self, name: Name) -> None:
        """Raises NotFoundError where a qualified name's database does not exist, StatementSyntaxError where the name is too long."""
        assert name.namespace is not None
        _check_fits({**_key(name), "run": new_run()})
        if not self._spark.catalog.databaseExists(identifier(name.namespace)):
            known = [database.name for database in self._spark.catalog.listDatabases()]
            raise error("DLSQL_NAMESPACE_NOT_FOUND", namespace=name.namespace, hint=did_you_mean(name.namespace, known))

    # Looking up: straight to the metastore, without a Spark job

    def numbers(self, name: Name) -> dict[int, str]:
        """The versions of a model, ascending, with the location of each one's row; empty for a model that is not registered."""
        return self._steadily(lambda: self._seen(name)).numbers

    def aliases(self, name: Name) -> dict[str, int]:
        """Alias -> version; `default` among them where a default version is pinned."""
        return self._steadily(lambda: self._seen(name)).aliases

    def find(self, name: Name) -> Version:
        """The version that a qualified name means.

        Raises:
            NotFoundError: no such model, version or alias.
        """
        return self._steadily(lambda: self._find(name))

    def _find(self, name: Name) -> Version:
        seen = self._seen(name)
        if not seen.numbers:
            raise self._not_found(name)
        number = name.version
        if number is None:
            if name.alias in (None, DEFAULT):
                number = seen.default
            elif name.alias in seen.aliases:
                number = seen.aliases[name.alias]
            else:
                hint = did_you_mean(name.alias, [alias for alias in seen.aliases if alias != DEFAULT])
                raise error("DLSQL_ALIAS_NOT_FOUND", name=_base(name), alias=name.alias, hint=hint)
        if number not in seen.numbers:
            raise error("DLSQL_VERSION_NOT_FOUND", name=_base(name), version=number, versions=", ".join(map(str, seen.numbers)))
        return self._version(name, number, seen.numbers[number])

    def versions(self, name: Name) -> list[Version]:
        """All versions of a model, ascending. Raises NotFoundError for a model that is not registered."""

        def read() -> list[Version]:
            numbers = self.numbers(name)
            if not numbers:
                raise self._not_found(name)
            return [self._version(name, number, location) for number, location in numbers.items()]

        return self._steadily(read)

    def models(self, namespace: str | None = None) -> list[Version]:
        """The default version of every model, by name."""

        def read() -> list[Version]:
            key = {} if namespace is None else {"namespace": namespace}
            seen = self._look(key).items()
            return [self._version(name, one.default, one.numbers[one.default]) for name, one in seen if one.numbers]

        return self._steadily(read)

    def _seen(self, name: Name) -> _Seen:
        """A model as it stands: from memory, where the catalog has not changed since."""
        key, revision = (self.database, str(name.namespace), name.model), self._metastore.revision()
        seen = self._memory.models.get(key)
        if seen is None or seen.revision != revision or time.monotonic() - seen.at > _SECONDS_TRUSTED:
            seen = self._look(_key(name), revision)[_named(_key(name))]
            if seen.numbers:
                self._memory.models[key] = seen
        return seen

    def _look(self, key: Mapping[str, str], revision: str | None = None) -> dict[Name, _Seen]:
        """The models that agree with `key`, by name. The revision was read before: a change in between is seen twice rather than never."""
        found: dict[Name, _Seen] = defaultdict(lambda: _Seen(revision, time.monotonic(), {}, {}))
        aliases = self._present(self._metastore.partitions("aliases", key))  # first: what an alias points to was there before it
        versions = self._present(self._metastore.partitions("models", key))
        for row in sorted(filter(_is_version, versions), key=lambda row: (row["namespace"], row["model"], int(row["version"]))):
            found[_named(row)].numbers[int(row["version"])] = row[""]
        for row in aliases:
            found[_named(row)].aliases[row["alias"]] = int(self._row(row[""])["version"])
        return found

    def _present(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """Those of some partitions whose namespace is there: other engines drop databases, and do not know of models in them."""
        there = {namespace: self._metastore.has_database(namespace) for namespace in {row["namespace"] for row in rows}}
        return [row for row in rows if there[row["namespace"]]]

    def _steadily(self, read: Callable[[], _T]) -> _T:
        """What `read` gives, which looks and then reads: where an alias moves or a version goes in between, so does its file."""
        said = ""
        for _ in range(_MOST_LOOKS - 1):
            try:
                return read()
            except StorageError as e:
                # Otherwise the metastore's own trouble, whose client has tried again; and what fails twice did not move.
                if e.condition != "DLSQL_STORAGE" or e.text == said:
                    raise
                said = e.text
                self._memory.models.clear()
        return read()

    def _not_found(self, name: Name) -> Exception:
        known = sorted({_base(_named(row)) for row in self._present(self._metastore.names("models", {}))})
        return error("DLSQL_MODEL_NOT_FOUND", name=_base(name), hint=did_you_mean(_base(name), known))

    def _version(self, name: Name, number: int, location: str) -> Version:
        return Version(namespace=str(name.namespace), model=name.model, version=number, **self._row(location))

    def _row(self, location: str) -> dict[str, Any]:
        if location not in self._memory.rows:
            row = from_parquet(self.files.read(f"{location}/{_ROWS}"))[0]
            if "tables" in row:
                row["tables"] = tuple(row["tables"])
            self._memory.rows[location] = row
        return dict(self._memory.rows[location])

    # Writing

    def prepare(self) -> None:
        """Makes the database and its tables where they are not there yet."""
        if all(self._metastore.exists(table) for table in TABLES):
            return
        self._make(f"CREATE DATABASE IF NOT EXISTS {identifier(self.database)}")
        hive = self._spark.conf.get("spark.sql.catalogImplementation") == "hive"
        for table in TABLES:
            self._make(creation(self.database, table, f"{self._root()}/{table}", hive=hive))

    def _make(self, statement: str) -> None:
        try:
            self._spark.sql(statement)
        except (AnalysisException, Py4JJavaError) as e:
            if "already exists" not in str(e).lower():  # else another client made it in the meantime
                reason = str(e).split("\n")[0]
                raise error("DLSQL_CATALOG", problem=f"Could not make the catalog tables in database `{self.database}`: {reason}") from e

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Round every change of versions or aliases, one at a time in an application, with what it looks at first: writes another revision
        after it, also where it failed half-way.
        """
        with self._memory.changing:
            self._memory.models.clear()
            try:
                yield
            finally:
                self._memory.models.clear()
                try:
                    self._metastore.revise(_new_id())
                except StorageError as e:  # the change itself is made
                    _LOG.warning("Other applications may see this change %s seconds late: %s", _SECONDS_TRUSTED, e)

    def register(self, version: Version, *, new: bool = False) -> Version:
        """Commits a version under the next number that none of the model had, which it gives back.

        Raises:
            ExistsError: the model is to be `new`, and somebody made it in the meantime.
            NotFoundError: its database was dropped in the meantime.
        """
        name = version.name
        location = self._store("models", name, version.run, MODELS, [_without_key(version)])
        with self._changing():
            try:
                self.check_name(name)
                number = self.next_number(name)
                # After the number: who commits between the two is seen here, who commits later takes the number.
                if new and any(map(_is_version, self._metastore.partitions("models", _key(name)))):
                    raise error("DLSQL_MODEL_EXISTS", name=_base(name))
                while not self._commit(name, number, location):
                    if new:
                        raise error("DLSQL_MODEL_EXISTS", name=_base(name))
                    number += 1
            except BaseException:
                with suppress(StorageError):  # an answer that was lost may have been a yes
                    if not self.is_registered(name, version.run):
                        self.files.delete(location)
                raise
        return dataclasses.replace(version, version=number)

    def _commit(self, name: Name, number: int, location: str) -> bool:
        key = {**_key(name), "version": str(number)}
        # A metastore's client that lost the answer asks again, and is told that the partition is there: it may be our own.
        return self._metastore.add("models", key, location) or [row[""] for row in self._metastore.partitions("models", key)] == [location]

    def next_number(self, name: Name) -> int:
        """The number that the next version gets, unless another client is faster: no number is given twice."""
        return max((int(row["version"]) for row in self._metastore.names("models", _key(name))), default=0) + 1

    def is_registered(self, name: Name, run: str) -> bool:
        """Whether a run became a version."""
        rows = filter(_is_version, self._metastore.partitions("models", _key(name)))
        return any(self._row(row[""])["run"] == run for row in rows)

    def amend(self, name: Name, change: Callable[[Version], Mapping[str, Any]]) -> Version:
        """Gives the version that a name means another comment or other properties: `change` of what it has."""
        with self._changing():
            version = self.find(name)
            amended = dataclasses.replace(version, **change(version))
            location = self._store("models", version.name, f"{version.run}-{_new_id()}", MODELS, [_without_key(amended)])
            self._metastore.move("models", {**_key(version.name), "version": str(version.version)}, location)
        return amended

    def set_alias(self, name: Name, alias: str, version: int) -> None:
        """Points an alias to a version. Raises NotFoundError where that is not there, or goes meanwhile."""
        key, target = {**_key(name), "alias": alias}, dataclasses.replace(name, version=version, alias=None)
        row = {"version": version, "owner": self.user(), "at": datetime.now(UTC)}
        with self._changing():
            self.find(target)
            _check_fits(key)
            self._point("aliases", key, self._store("aliases", name, _new_id(), ALIASES, [row]))
            if not any(map(_is_version, self._metastore.partitions("models", {**_key(name), "version": str(version)}))):
                self._take("aliases", key)  # another application dropped the version, and may have looked for aliases before
                self._memory.models.clear()
                self.find(target)

    def _point(self, table: str, key: Mapping[str, str], location: str) -> None:
        """Points a partition, which may be new, to a location; what it pointed to goes."""
        for left in reversed(range(_MOST_LOOKS)):
            before = self._metastore.partitions(table, key)
            if not before and self._metastore.add(table, key, location):
                return
            try:
                self._metastore.move(table, key, location)
            except StorageError:
                if not left or self._metastore.names(table, key):
                    raise
                continue  # another application took it away
            self._discard(row[""] for row in before)
            return

    def _discard(self, paths: Iterable[str]) -> None:
        """Deletes what nothing points to any more; `vacuum` takes what stays."""
        for path in paths:
            with suppress(StorageError):
                self.files.delete(path)

    def _take(self, table: str, key: Mapping[str, str]) -> None:
        """Takes a partition away, if it is there, and then its files."""
        for row in self._metastore.partitions(table, key):
            self._metastore.drop(table, key)
            self._discard([row[""]])

    def unset_alias(self, name: Name, alias: str) -> None:
        """Removes an alias, if it is there."""
        if alias in self.aliases(name):
            with self._changing():
                self._take("aliases", {**_key(name), "alias": alias})

    def drop(self, name: Name, version: int | None = None) -> None:
        """Drops a model, or one version of it with the aliases that point there: the partitions first, then what they held.

        The last version's partition stays and points to no row: another version under its number would answer in views that name it.
        """
        with self._changing():
            gone = self.versions(name) if version is None else [self.find(dataclasses.replace(name, version=version, alias=None))]
            numbers = self.numbers(name)
            kept = self._metastore.partitions("models", _key(name))
            last = max((int(row["version"]) for row in kept), default=0)
            self._drop_aliases(name, version)
            for one in gone:
                key = {**_key(name), "version": str(one.version)}
                if version == last:
                    self._metastore.move("models", key, self._store("models", name, f"{_DROPPED}{_new_id()}", MODELS, []))
                else:
                    self._metastore.drop("models", key)
            if version is None:
                for row in kept:
                    if not _is_version(row):
                        self._take("models", _partition(row))
            self._drop_aliases(name, version)  # that another application set meanwhile
        for one in gone:
            left = {row[""] for row in self._metastore.partitions("models", {"version": str(one.version)})}
            if numbers[one.version] in left:  # a rename died half-way: another name holds the same files
                self._metastore.drop("training_info", {**_key(name), "run": one.run})
            else:
                self.drop_run(name, one.run)
                self._discard([numbers[one.version], one.uri])

    def _drop_aliases(self, name: Name, version: int | None) -> None:
        """Drops the aliases of a model that point to a version, or all of them."""
        for row in self._metastore.partitions("aliases", _key(name)):
            if version is None or self._row(row[""])["version"] == version:
                self._take("aliases", _partition(row))

    def rename(self, name: Name, new: Name) -> None:
        """Registers every version under the new name, then takes the old one away; the files stay where they are."""
        with self._changing():
            self.find(name)
            added: list[dict[str, str]] = []
            for row in self._metastore.partitions("models", _key(new)):
                if not _is_version(row):
                    self._take("models", _partition(row))
            versions = self._metastore.partitions("models", _key(name))
            for row in versions:
                added.append({**_partition(row), **_key(new)})
                if not self._metastore.add("models", added[-1], row[""]):  # somebody took the name in the meantime
                    for key in added[:-1]:
                        self._metastore.drop("models", key)
                    raise error("DLSQL_MODEL_EXISTS", name=_base(new))
            beside = [(table, row) for table in ("aliases", "training_info") for row in self._metastore.partitions(table, _key(name))]
            for table, row in beside:
                self._metastore.add(table, {**_partition(row), **_key(new)}, row[""])
            for table, row in (*(("models", row) for row in versions), *beside):  # no version that came under the old name meanwhile
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
        self.files.write(f"{location}/{_ROWS}", to_parquet(schema, rows))
        return location

    def user(self) -> str:
        """Who runs this session."""
        return self._bridge.user()

    # Training rounds

    def write_rounds(self, name: Name, run: str, rounds: Iterable[RoundInfo]) -> None:
        """Shows a run's rounds so far to every session."""
        rows = [dataclasses.asdict(one) for one in rounds]
        location = self._store("training_info", name, f"{run}-{_new_id()}", ROUNDS, rows)
        self._point("training_info", {**_key(name), "run": run}, location)

    def rounds(self, name: Name) -> list[tuple[int, list[RoundInfo]]]:
        """Version -> its rounds, ascending; the newest run that is no version yet stands under the number it is to get."""
        return self._steadily(lambda: self._rounds(name))

    def _rounds(self, name: Name) -> list[tuple[int, list[RoundInfo]]]:
        runs = {row["run"]: row[""] for row in self._present(self._metastore.partitions("training_info", _key(name)))}
        numbers = self.numbers(name)
        named = {str(self._row(location)["run"]): number for number, location in numbers.items()}
        open_runs = sorted(run for run in runs if run not in named)[-1:]  # a run's id begins with its start
        wanted = {**{run: self.next_number(name) for run in open_runs}, **named}
        shown = [(number, self._read_rounds(runs[run])) for run, number in wanted.items() if run in runs]
        if not shown and not numbers:
            raise self._not_found(name)
        return sorted((one for one in shown if name.version in (None, one[0])), key=lambda one: one[0])

    def _read_rounds(self, location: str) -> list[RoundInfo]:
        return [RoundInfo(**row) for row in from_parquet(self.files.read(f"{location}/{_ROWS}"))]

    def drop_run(self, name: Name, run: str) -> None:
        """Takes a run's rounds away."""
        self._take("training_info", {**_key(name), "run": run})

    # What crashes left

    def vacuum(self, retain_hours: float) -> list[str]:
        """Removes files that no partition points to and runs that became no version, all older than `retain_hours`; gives what went.

        Raises:
            OptionError: less than an hour, in which a training that runs may have written what it is about to commit.
        """
        if not retain_hours >= _SHORTEST_RETENTION:
            expected = f"it takes a number of at least {_SHORTEST_RETENTION:g}: younger files may belong to a training that runs."
            raise error("DLSQL_OPTION_VALUE", option="retain_hours", value=f"{retain_hours:g}", expected=expected)
        self._forget_lost_databases()
        before = time.time() - retain_hours * 3600
        root, kept, runs = self._root(), set[str](), set[str]()
        for row in self._metastore.partitions("models", {}):
            if not _is_version(row):
                kept.add(_bare(row[""]))
                continue
            version = self._row(row[""])
            kept |= {_bare(row[""]), _bare(version["uri"])}
            runs.add(version["run"])
        kept |= {_bare(row[""]) for row in self._metastore.partitions("aliases", {})}
        for row in self._metastore.partitions("training_info", {}):
            if row["run"] in runs or self._modified(row[""]) >= before:
                kept.add(_bare(row[""]))
            else:
                self._metastore.drop("training_info", _partition(row))
        rooms = [
            model
            for room in (*TABLES, "artifacts")
            for space, _ in self.files.list(f"{root}/{room}")
            for model, _ in self.files.list(space)
        ]
        found = [path for room in (*rooms, f"{root}/checkpoints") for path, _ in self.files.list(room)]
        gone = [path for path in found if _bare(path) not in kept and self._modified(path) < before]
        for path in gone:
            self.files.delete(path)
        return gone

    def _forget_lost_databases(self) -> None:
        """Takes away what is registered in databases that are not there any more; the files are then nobody's."""
        found = {table: self._metastore.partitions(table, {}) for table in TABLES}
        there = {row["namespace"] for row in self._present([row for rows in found.values() for row in rows])}
        lost = [(table, row) for table, rows in found.items() for row in rows if row["namespace"] not in there]
        if lost:
            with self._changing():
                for table, row in lost:
                    self._metastore.drop(table, _partition(row))

    def _modified(self, folder: str) -> float:
        """The second its youngest file was written: not every store has times for folders."""
        return max((at for _, at in self.files.list(folder)), default=0.0)


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


def _named(row: Mapping[str, str]) -> Name:
    return Name(row["namespace"], row["model"])


def _check_fits(key: Mapping[str, str]) -> None:
    """Raises StatementSyntaxError for names that are longer than the columns of a Hive metastore's own tables."""
    for value in key.values():
        if len(value) > _LONGEST:
            raise error("DLSQL_NAME_TOO_LONG", name=f"{value[:40]}...", length=len(value), most=_LONGEST)
    partition = "/".join(f"{column}={_ESCAPED_BY_HIVE.sub('%xx', value)}" for column, value in key.items())
    if len(partition) > _LONGEST_PARTITION:
        raise error("DLSQL_NAME_TOO_LONG", name=f"{partition[:40]}...", length=len(partition), most=_LONGEST_PARTITION)


_ESCAPED_BY_HIVE = re.compile(r"""[\x00-\x1f\x7f"#%'*/:=?\\{\[\]^]""")


def _is_version(row: Mapping[str, str]) -> bool:
    """Whether a partition of `models` holds a version, and not only keeps the number of one that was dropped."""
    return not row[""].rstrip("/").rsplit("/", 1)[-1].startswith(_DROPPED)


def _partition(row: Mapping[str, str]) -> dict[str, str]:
    return {column: value for column, value in row.items() if column}


def _without_key(version: Version) -> dict[str, Any]:
    return {name: getattr(version, name) for name in MODELS.names}


def _folder(name: str) -> str:
    """A name as a folder that any file system takes, and that no other name has.

    >>> _folder("churn"), _folder("my model")
    ('churn', 'my_model-76eeb051')
    """
    plain = re.sub(r"[^a-z0-9_]", "_", name)
    return plain if plain == name else f"{plain[:64]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _bare(path: str) -> str:
    """A path without the ways to write its scheme.

    >>> _bare("file:///x/y") == _bare("file:/x/y") == _bare("/x/y")
    True
    """
    return re.sub(r"^file:/*", "/", path)
