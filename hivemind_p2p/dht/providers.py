"""Who has what, as libp2p's standard knows it: a provider says under a key that it has what the key names.

Nothing is signed: a provider record counts because the authenticated provider itself has brought it, so it is kept
for that peer alone and is not handed on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hivemind_p2p.errors import RecordError
from hivemind_p2p.types import PeerId, PeerInfo

MAX_KEY = 80
"""Bytes of a provider's key, which is a multihash."""

LIFETIME = 48 * 3600.0
"""Seconds that a provider is named without renewing (the specification's expiration interval)."""

RENEW_AFTER = 22 * 3600.0
"""Seconds after which a provider renews (the specification's republish interval)."""

MOST_OF_KEY = 128
"""Providers of one key: more than any answer names."""

MOST_OF_PROVIDER = 2048
"""Keys of one provider."""

MOST = 32 * 1024
"""Entries in total: some 10 MiB."""

SWEEP_AGAIN_AFTER = 1.0
"""Seconds before a full store looks once more for what has expired, however many providers find no room."""


@dataclass(frozen=True, slots=True)
class _Entry:
    info: PeerInfo
    expires_at: float


class ProviderStore:
    """The providers of each key. `now` is in seconds since the epoch.

    Args:
        most_of_key: Providers of one key.
        most_of_provider: Keys of one provider.
        most: Entries in total.
    """

    def __init__(
        self, *, most_of_key: int = MOST_OF_KEY, most_of_provider: int = MOST_OF_PROVIDER, most: int = MOST
    ) -> None:
        self._most_of_key = most_of_key
        self._most_of_provider = most_of_provider
        self._most = most
        self._entries: dict[bytes, dict[PeerId, _Entry]] = {}
        self._of_provider: Counter[PeerId] = Counter()
        self._count = 0
        self._swept_at = float("-inf")

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, provider: PeerInfo, now: float, *, own: bool = False) -> None:
        """Notes a provider, anew or again; this peer itself (`own`) even if others have left no room.

        Raises:
            RecordError: The key is out of bounds, the provider cannot be dialled, or there is no room.
        """
        if not 0 < len(key) <= MAX_KEY:
            raise RecordError(f"a provider's key has 1 to {MAX_KEY} bytes, this has {len(key)}")
        if not provider.addresses:
            raise RecordError(f"provider {provider.peer_id} has no address that this version understands")
        if provider.peer_id not in self._entries.get(key, ()):
            if not own:
                self._make_room(key, provider.peer_id, now)
            self._of_provider[provider.peer_id] += 1
            self._count += 1
        self._entries.setdefault(key, {})[provider.peer_id] = _Entry(provider, now + LIFETIME)

    def get(self, key: bytes, now: float, most: int) -> tuple[PeerInfo, ...]:
        """The providers of a key, those that renewed last first."""
        living = [entry for entry in self._entries.get(key, {}).values() if entry.expires_at > now]
        living.sort(key=lambda entry: entry.expires_at, reverse=True)
        return tuple(entry.info for entry in living[:most])

    def remove(self, key: bytes, provider: PeerId) -> None:
        """Forgets a provider."""
        entries = self._entries.get(key, {})
        if entries.pop(provider, None) is None:
            return
        if not entries:
            del self._entries[key]
        self._count -= 1
        self._of_provider[provider] -= 1
        if not self._of_provider[provider]:
            del self._of_provider[provider]

    def expire(self, now: float) -> int:
        """Forgets what has expired; returns how many entries that were."""
        self._swept_at = now
        gone = [
            (key, peer)
            for key, entries in self._entries.items()
            for peer, entry in entries.items()
            if entry.expires_at <= now
        ]
        for key, peer in gone:
            self.remove(key, peer)
        return len(gone)

    def _make_room(self, key: bytes, provider: PeerId, now: float) -> None:
        obstacle = self._obstacle(key, provider)
        if obstacle is not None and abs(now - self._swept_at) >= SWEEP_AGAIN_AFTER:
            self.expire(now)
            obstacle = self._obstacle(key, provider)
        if obstacle is not None:
            raise RecordError(f"no room for provider {provider}: {obstacle}")

    def _obstacle(self, key: bytes, provider: PeerId) -> str | None:
        if len(self._entries.get(key, ())) >= self._most_of_key:
            return f"{self._most_of_key} providers of this key are known already"
        if self._of_provider[provider] >= self._most_of_provider:
            return f"it provides {self._most_of_provider} keys already"
        if len(self) >= self._most:
            return f"{self._most} providers are known already"
        return None
