"""What is kept of requests for later ones, apart by cache salt.

Drafts cannot change an output, but how fast it comes could tell what others were answered; so
salts share nothing, as in the prefix cache.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

MAX_SALTS: Final = 8

Memory = TypeVar("Memory")


class BySalt(Generic[Memory]):
    """One memory per salt, made by `make`; the least recently used is forgotten."""

    def __init__(self, make: Callable[[], Memory]) -> None:
        self._make = make
        self._memories: OrderedDict[str, Memory] = OrderedDict()

    def of(self, cache_salt: str) -> Memory:
        memory = self._memories.get(cache_salt)
        if memory is None:
            memory = self._memories[cache_salt] = self._make()
        self._memories.move_to_end(cache_salt)
        if len(self._memories) > MAX_SALTS:
            self._memories.popitem(last=False)
        return memory
