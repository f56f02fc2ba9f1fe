"""Work that Ctrl-C, or a notebook's stop button, ends: it has a thread of its own, and the one that was interrupted ends it.

In the middle of an answer of the JVM a thread can ask it for nothing else, neither to cancel a job.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from pyspark import InheritableThread, SparkContext

T = TypeVar("T")

_SECONDS_BETWEEN_CANCELS = 0.3
_HERE = threading.local()


def interruptible(action: Callable[[], T], cancel: Callable[[], object]) -> T:
    """What the action gives; the thread that waits for it may be interrupted.

    Args:
        action: runs in another thread, with the local properties of this one's jobs.
        cancel: ends the jobs of the action that run, see `end`.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and what ran has ended.
    """
    future: Future[T] = Future()

    def work() -> None:
        _HERE.awaited = True
        try:
            future.set_result(action())
        except BaseException as e:
            future.set_exception(e)

    kind = threading.Thread if SparkContext._active_spark_context is None else InheritableThread  # a client of a server has no jobs here
    kind(target=work, daemon=True).start()
    try:
        return future.result()
    except KeyboardInterrupt:
        end(future, cancel)
        raise


def end(work: "Future[Any]", cancel: Callable[[], object]) -> None:
    """Cancels the jobs of some work until it is over: between two jobs there is nothing to cancel."""
    while not work.done():
        cancel()
        wait([work], _SECONDS_BETWEEN_CANCELS)


def is_awaited() -> bool:
    """Whether somebody waits at this process's terminal for what this thread does; no client of a server does."""
    return threading.current_thread() is threading.main_thread() or getattr(_HERE, "awaited", False)
