"""A peer that did what is beyond doubt wrong in one service is trusted less in the others, and the hive hears of it.

The swarm bans who sent wrong bytes, for that content. Here that becomes known to the rest of the peer: it gives who did
it no tasks for a while, and complains at the bootstrap, which counts the complaint of an account that has paid that
peer for something (`hivemind_bootstrap.reputation` says why not of others).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hivemind_p2p.types import PeerId

LONGEST_REASON: Final = 64
"""Characters of what is complained of: what the bootstrap takes."""

Told = Callable[[PeerId, str], None]
"""Is told who did something, and what."""


class Misbehaviour:
    """Hands on what a service finds out, to whoever is there by then.

    Args:
        told: Whoever wants to know besides.
    """

    def __init__(self, told: Told | None = None) -> None:
        self._told = told
        self._mistrust: Told | None = None

    def mistrusted_by(self, mistrust: Told) -> None:
        """From now on this is told, too: services that are made later than the one that finds out."""
        self._mistrust = mistrust

    def __call__(self, peer: PeerId, what: str) -> None:
        """A peer did something."""
        if self._mistrust is not None:
            self._mistrust(peer, "".join(character for character in what if character.isprintable())[:LONGEST_REASON])
        if self._told is not None:
            self._told(peer, what)
