"""The Python process of a worker, which lives for many tasks."""

import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

ROOM = 256 << 20  # bytes of models that a process keeps, of each kind

_settled = 0  # modules that were there when it last settled


def settle() -> None:
    """Leaves what is loaded by now out of garbage collection, where that is more than before.

    Spark collects a worker's garbage after each task. With ONNX Runtime in it that takes 20 ms, with torch 50 ms, and 400 ms once a first
    step of an optimiser has loaded torch's compiler.
    """
    global _settled
    if len(sys.modules) > _settled:
        gc.collect()
        gc.freeze()
        _settled = len(sys.modules)


class Kept(Generic[T]):
    """What a process keeps from one batch and query to the next, by its content: so much of it, and in any case so many.

    What was not used for longest goes first. One that a query uses and that goes before its next batch is loaded for each batch, so that
    `least` is for what few queries use more of, however large they are.
    """

    def __init__(self, most: int, size: Callable[[T], int] = lambda _: 1, least: int = 1) -> None:
        self._most, self._size, self._least, self._held = most, size, least, 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was kept under this key, or is made now.

        >>> kept = Kept[str](2)
        >>> [kept.get(key, lambda: made) for key, made in [(1, "a"), (2, "b"), (1, "c"), (3, "d"), (2, "e")]]
        ['a', 'b', 'a', 'd', 'e']
        >>> large = Kept[str](2, len, least=2)
        >>> [large.get(key, lambda: made) for key, made in [(1, "aaa"), (2, "bbb"), (1, "c"), (3, "ddd"), (2, "e")]]
        ['aaa', 'bbb', 'aaa', 'ddd', 'e']
        """
        if key not in self._values:
            self._values[key] = make()
            self._held += self._size(self._values[key])
            while len(self._values) > self._least and self._held > self._most:
                self._held -= self._size(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]
