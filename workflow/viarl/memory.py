"""A bounded memory: what was used longest ago leaves first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Keeps values up to a number of bytes; a single value larger than that is kept until the next one comes."""

    def __init__(self, keep_bytes: int) -> None:
        self.keep_bytes = keep_bytes
        self._held: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> V | None:
        """Return the value and count it as used now; None if it is not (or no longer) held."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Hashable, value: V, size: int) -> None:
        """Hold a value of `size` bytes."""
        _, before = self._held.pop(key, (None, 0))
        self._held[key] = value, size
        self._bytes += size - before
        while self._bytes > self.keep_bytes and len(self._held) > 1:
            _, (_, gone) = self._held.popitem(last=False)
            self._bytes -= gone
