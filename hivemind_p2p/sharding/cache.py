"""The memory that a host lends to models: the weights of its stages and the key-value caches of its generations.

Each generation reserves the whole cache that it may come to need when it is opened, so a generation that was admitted
never runs out of room half way; one that does not fit is told so at once, and its caller takes another route.
"""

from __future__ import annotations

from collections.abc import Hashable

from hivemind_p2p.errors import BusyError
from hivemind_p2p.types import PeerId


class MemoryPool:
    """Bytes, reserved and given back by whoever uses them.

    Args:
        capacity: Bytes in all.
        owner: Named in the error.
    """

    def __init__(self, capacity: int, owner: PeerId) -> None:
        self.capacity = capacity
        self._owner = owner
        self._reserved: dict[Hashable, int] = {}

    @property
    def used(self) -> int:
        """Bytes reserved now."""
        return sum(self._reserved.values())

    def reserve(self, key: Hashable, size: int, what: str) -> None:
        """Sets `size` bytes aside under a key that holds none yet.

        Raises:
            BusyError: They are not there.
        """
        if key in self._reserved:
            raise BusyError(f"peer {self._owner} holds memory for {what} already")
        if self.used + size > self.capacity:
            free = self.capacity - self.used
            raise BusyError(
                f"peer {self._owner} has no room for {what}: it takes {size} bytes, {free} are free",
                hint="Try again in a moment, or let the peer lend more with --memory.",
            )
        self._reserved[key] = size

    def release(self, key: Hashable) -> None:
        """Gives the bytes of a key back, if it holds any."""
        self._reserved.pop(key, None)
