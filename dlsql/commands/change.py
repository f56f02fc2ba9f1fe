"""ALTER, DROP and their kin: what happens to models, and to trainings, that are there."""

import json
from dataclasses import replace

import pyarrow as pa
from pyspark.sql import DataFrame

from dlsql.catalog import DEFAULT
from dlsql.commands.client import DONE, Client, done
from dlsql.errors import did_you_mean, error
from dlsql.functions import local
from dlsql.statements import (
    CancelTraining,
    DropModel,
    ExportModel,
    RenameModel,
    SetAlias,
    SetComment,
    SetDefaultVersion,
    SetProperties,
    UnsetAlias,
    Vacuum,
)
from dlsql.training.running import running


def set_default(client: Client, statement: SetDefaultVersion) -> DataFrame:
    """ALTER MODEL name SET DEFAULT_VERSION = n."""
    name = client.catalog.qualified(statement.name)
    client.catalog.set_alias(name, DEFAULT, statement.version)
    return done(client, name, statement.version, "is the default version")


def set_alias(client: Client, statement: SetAlias) -> DataFrame:
    """ALTER MODEL name VERSION n SET ALIAS = a."""
    name = client.catalog.qualified(statement.name)
    client.catalog.set_alias(name, statement.alias, statement.version)
    return done(client, name, statement.version, f"is @{statement.alias}")


def unset_alias(client: Client, statement: UnsetAlias) -> DataFrame:
    """ALTER MODEL name UNSET ALIAS = a."""
    name = client.catalog.qualified(statement.name)
    version = client.catalog.find(replace(name, alias=statement.alias))
    client.catalog.unset_alias(name, statement.alias)
    return done(client, name, version.version, f"is no longer @{statement.alias}")


def set_comment(client: Client, statement: SetComment) -> DataFrame:
    """ALTER MODEL name SET COMMENT 's'."""
    version = client.catalog.amend(client.catalog.qualified(statement.name), lambda _: {"comment": statement.comment})
    return done(client, version.name, version.version, "has a new comment")


def set_properties(client: Client, statement: SetProperties) -> DataFrame:
    """ALTER MODEL name SET TBLPROPERTIES (k = v, ...), beside those that it has."""
    given = {key: value if isinstance(value, str) else json.dumps(value) for key, value in statement.properties}
    version = client.catalog.amend(client.catalog.qualified(statement.name), lambda old: {"properties": {**old.properties, **given}})
    return done(client, version.name, version.version, f"has the properties {', '.join(given)}")


def rename(client: Client, statement: RenameModel) -> DataFrame:
    """ALTER MODEL name RENAME TO new_name, with all versions."""
    catalog = client.catalog
    name = catalog.qualified(statement.name)
    new = replace(statement.new_name, namespace=statement.new_name.namespace or name.namespace)
    catalog.find(name)
    catalog.check_name(new)
    if catalog.numbers(new):
        raise error("DLSQL_MODEL_EXISTS", name=f"{new.namespace}.{new.model}")
    catalog.rename(name, new)
    return done(client, new, None, f"was `{name.namespace}.{name.model}`")


def drop(client: Client, statement: DropModel) -> DataFrame:
    """DROP MODEL [IF EXISTS] name [VERSION n]."""
    catalog = client.catalog
    name = catalog.qualified(statement.name)
    there = catalog.numbers(name)
    if statement.if_exists and (not there or (statement.version is not None and statement.version not in there)):
        return done(client, name, statement.version, "was not there")
    catalog.drop(name, statement.version)
    return done(client, name, statement.version, "is dropped")


def cancel_training(client: Client, statement: CancelTraining) -> DataFrame:
    """CANCEL TRAINING name: ends what trains under it, whoever started that."""
    name = client.catalog.qualified(statement.name)
    found = [one for one in running() if one.name == name]
    if not found:
        raise error("DLSQL_TRAINING_NOT_FOUND", name=name, hint=did_you_mean(str(name), {str(one.name) for one in running()}))
    for one in found:
        one.cancel(client.spark.sparkContext)
    ended = [(one.version, "was trained before" if client.catalog.is_registered(name, one.run) else "is cancelled") for one in found]
    return local(client.spark, DONE, [{"model": str(name), "version": version, "action": action} for version, action in ended])


def export(client: Client, statement: ExportModel) -> DataFrame:
    """EXPORT MODEL name OPTIONS (...), which is refused."""
    client.catalog.find(client.catalog.qualified(statement.name))
    raise error("DLSQL_UNSUPPORTED", feature="EXPORT MODEL")


def vacuum(client: Client, statement: Vacuum) -> DataFrame:
    """CALL ml.vacuum(): what crashes left goes, and its paths are told."""
    return local(
        client.spark, pa.schema([("removed", pa.string())]), [{"removed": path} for path in client.catalog.vacuum(statement.retain_hours)]
    )
