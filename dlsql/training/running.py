"""The trainings under way in this application, for who wants to see them, or to end one that nobody waits for any more."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from pyspark import SparkContext

from dlsql.errors import error
from dlsql.interrupts import end
from dlsql.model import RoundInfo
from dlsql.statements import Name


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
    _over: "Future[None]" = field(default_factory=Future)

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
        """Ends it, and returns when it is over."""
        self.cancelled = True
        end(self._over, partial(context.cancelJobsWithTag, self._tag))


_RUNNING: dict[str, Running] = {}


@contextmanager
def under_way(one: Running) -> Iterator[Running]:
    """Lets others find a training."""
    _RUNNING[one.run] = one
    try:
        yield one
    finally:
        del _RUNNING[one.run]
        one._over.set_result(None)


def running() -> list[Running]:
    """Those under way, in the order in which they began."""
    return list(_RUNNING.values())
