"""Statements run: one small function for each, from a client and its Statement to the rows that it gives."""

from collections.abc import Callable
from typing import Any

from pyspark.sql import DataFrame

from dlsql.commands import change, create, explain, show
from dlsql.commands.client import Client
from dlsql.statements import (
    CancelTraining,
    CreateModel,
    DescribeModel,
    DropModel,
    ExplainCreateModel,
    ExportModel,
    RenameModel,
    SetAlias,
    SetComment,
    SetDefaultVersion,
    SetProperties,
    ShowCreateModel,
    ShowModels,
    ShowTrainings,
    ShowVersions,
    Statement,
    UnsetAlias,
    Vacuum,
)

__all__ = ["Client", "run"]


def run(client: Client, statement: Statement) -> DataFrame:
    """Runs a statement and gives its rows, which are on the driver already."""
    command: Callable[[Client, Any], DataFrame] = _COMMANDS[type(statement)]
    return command(client, statement)


_COMMANDS: dict[type, Callable[[Client, Any], DataFrame]] = {
    CreateModel: create.create,
    ExplainCreateModel: explain.explain,
    SetDefaultVersion: change.set_default,
    SetAlias: change.set_alias,
    UnsetAlias: change.unset_alias,
    SetComment: change.set_comment,
    SetProperties: change.set_properties,
    RenameModel: change.rename,
    DropModel: change.drop,
    ShowModels: show.show_models,
    ShowVersions: show.show_versions,
    ShowCreateModel: show.show_create,
    DescribeModel: show.describe,
    ExportModel: change.export,
    ShowTrainings: show.show_trainings,
    CancelTraining: change.cancel_training,
    Vacuum: change.vacuum,
}
