"""The trainings under way in this application, for who wants to see them, or to end one that nobody waits for any more."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyspark import SparkContext

from dlsql.errors import error
from dlsql.model import RoundInfo
from dlsql.statements import Name

_SECONDS_BETWEEN_CANCELS = 0.2


@dataclass(slots=True, eq=False)
class Running:
    """A training. Its own thread tells of the last round, any other may cancel it."""

    name: Name
    version: int  # that it will be, unless another client is faster
    run: str
    model_type: str
    owner: str
    epochs: int  # at most
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    last: RoundInfo | None = None  # none has ended yet
    cancelled: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def cancellable(self, context: SparkContext) -> Iterator[None]:
        """The jobs that this thread starts meanwhile end where the training is cancelled; those that clean up after it do not."""
        context.addJobTag(self._tag)
        try:
            yield
        finally:
            context.removeJobTag(self._tag)

    @property
    def _tag(self) -> str:
        return f"dlsql-training-{self.run}"

    def check(self) -> None:
        """Raises CancelledError where somebody cancelled it."""
        if self.cancelled:
            raise error("DLSQL_CANCELLED", name=self.name)

    def cancel(self, context: SparkContext) -> None:
        """Ends it, and returns when it is over. Between two of its jobs there is nothing that Spark could cancel."""
        self.cancelled = True
        while not self._over.is_set():
            context.cancelJobsWithTag(self._tag)
            self._over.wait(_SECONDS_BETWEEN_CANCELS)


_RUNNING: dict[str, Running] = {}


@contextmanager
def under_way(one: Running) -> Iterator[Running]:
    """Lets others find a training."""
    _RUNNING[one.run] = one
    try:
        yield one
    finally:
        del _RUNNING[one.run]
        one._over.set()


def running() -> list[Running]:
    """Those under way, in the order in which they began."""
    return list(_RUNNING.values())
