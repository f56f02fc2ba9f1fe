"""Waiting for what happens by itself."""

import time
from collections.abc import Callable


def until(true: Callable[[], object], seconds: float = 100) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
