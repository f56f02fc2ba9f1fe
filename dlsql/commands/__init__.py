"""Statements run: one small function for each, from a client and its Statement to the rows that it gives."""

from collections.abc import Callable
from typing import Any

from pyspark.sql import DataFrame

from dlsql import statements
from dlsql.commands import change, create, explain, show
from dlsql.commands.client import Client

__all__ = ["Client", "run"]


def run(client: Client, statement: statements.Statement) -> DataFrame:
    """Runs a statement and gives its rows, which are on the driver already."""
    command: Callable[[Client, Any], DataFrame] = _COMMANDS[type(statement)]
    return command(client, statement)


_COMMANDS: dict[type, Callable[[Client, Any], DataFrame]] = {
    statements.CreateModel: create.create,
    statements.ExplainCreateModel: explain.explain,
    statements.SetDefaultVersion: change.set_default,
    statements.SetAlias: change.set_alias,
    statements.UnsetAlias: change.unset_alias,
    statements.SetComment: change.set_comment,
    statements.SetProperties: change.set_properties,
    statements.RenameModel: change.rename,
    statements.DropModel: change.drop,
    statements.ShowModels: show.show_models,
    statements.ShowVersions: show.show_versions,
    statements.ShowCreateModel: show.show_create,
    statements.DescribeModel: show.describe,
    statements.ExportModel: change.export,
    statements.ShowTrainings: show.show_trainings,
    statements.CancelTraining: change.cancel_training,
    statements.Vacuum: change.vacuum,
}
