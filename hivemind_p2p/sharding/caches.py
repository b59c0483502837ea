"""The key-value caches of an engine: opened with the room that they may come to need, and given back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from hivemind_p2p.errors import BusyError
from hivemind_p2p.sharding.cache import MemoryPool

if TYPE_CHECKING:
    from hivemind_p2p.sharding.kv_cache import KeyValueCache


class Caches:
    """One cache a generation.

    Args:
        pool: Where their memory is set aside.
        bytes_per_token: What a token takes in one of them.
        layers: How many each has.
    """

    def __init__(self, pool: MemoryPool, bytes_per_token: int, layers: int) -> None:
        self.bytes_per_token = bytes_per_token
        self._pool = pool
        self._layers = layers
        self._open: dict[Hashable, KeyValueCache] = {}

    def __getitem__(self, key: Hashable) -> KeyValueCache:
        return self._open[key]

    def part(self, layers: int) -> Caches:
        """For some of the layers."""
        return Caches(self._pool, self.bytes_per_token * layers // self._layers, layers)

    def open(self, key: Hashable, room: int, prompt: Sequence[int] = ()) -> int:  # noqa: ARG002
        """See `engine.Engine.open`."""
        from hivemind_p2p.sharding.kv_cache import KeyValueCache

        self._reserve(key, room)
        self._open[key] = KeyValueCache(self._layers, room)
        return 0

    def fork(self, source: Hashable, key: Hashable, room: int) -> None:
        """See `engine.Engine.fork`."""
        if source not in self._open:
            raise BusyError("the generation to begin with is not open")
        self._reserve(key, room)
        cache = self._open[source]
        self._open[key] = cache.copy(min(cache.length, room), room)

    def _reserve(self, key: Hashable, room: int) -> None:
        self._pool.reserve((id(self), key), room * self.bytes_per_token, f"{room} tokens")

    def close(self, key: Hashable) -> None:
        """Forgets a generation."""
        self._open.pop(key, None)
        self._pool.release((id(self), key))

    def refusal(self, key: Hashable, position: int, rows: int) -> str | None:
        """Why a chunk cannot go into its cache; None if it can."""
        cache = self._open.get(key)
        if cache is None:
            return "the generation is not open"
        if not 0 <= position <= cache.length:
            return f"rows came for token {position} where {cache.length} tokens are known"
        if position + rows > cache.room:
            return f"token {position + rows} was not reserved for: there is room for {cache.room}"
        return None


__all__ = ["Caches"]
