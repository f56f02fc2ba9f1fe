"""Writes that a training need not wait for: the round after goes on while the one before is stored."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from dlsql.errors import StorageError

_LOG = logging.getLogger("dlsql")

Behind = Callable[[str, Callable[[], None]], None]
"""Told what a write is called and how it is done."""


@contextmanager
def behind() -> Iterator[Behind]:
    """Runs writes one after the other on a thread of their own, at most one ahead; the block ends when all are done.

    A write that the store refuses is no reason to end a training that may have run for hours: what must not be lost, the version itself,
    is written in the foreground. The log tells of it once, and again where it happens after a write that went well.
    """
    last: Future[None] | None = None
    refused: set[str] = set()

    def attempt(what: str, write: Callable[[], None]) -> None:
        try:
            write()
            refused.discard(what)
        except StorageError as e:
            if what not in refused:
                _LOG.warning("%s was not written, the training goes on: %s", what, e)
            refused.add(what)

    with ThreadPoolExecutor(1, thread_name_prefix="dlsql-writes") as thread:

        def run(what: str, write: Callable[[], None]) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = thread.submit(attempt, what, write)

        yield run
        if last is not None:
            last.result()
