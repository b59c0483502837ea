"""What the caller of a generation decides: which route to take, what to feed it, when to give it up for another.

Pure: events and `now` go in, actions come out. The text so far lives here and nowhere else, so a route can be lost at
any moment: the next one is fed the prompt and the tokens so far, and goes on where the other stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hivemind_p2p.errors import GenerationError, HivemindError
from hivemind_p2p.types import PeerId

AVOID_SECONDS = 20.0
"""How long a peer that failed is kept out of routes. Its offer is forgotten within 30 s if it is dead; if it is not
(a broken link between two others, a moment of overload) it may be the only host of its layers."""

MOST_ROUTES = 12
"""Routes that one generation may use up: enough for any real run of bad luck, an end to a hive that is broken."""


@dataclass(frozen=True, slots=True)
class TakeRoute:
    """Choose and open a route without these peers, then say `opened` or `lost`."""

    attempt: int
    avoid: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class Feed:
    """Let the current route go on from the text so far, of so many tokens."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Show a token to the reader."""

    token: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The text is complete."""


@dataclass(frozen=True, slots=True)
class Fail:
    """No way is left to go on."""

    error: HivemindError


Action: TypeAlias = TakeRoute | Feed | Emit | Finish | Fail


@dataclass
class Detours:
    """Which routes were lost, and who was to blame.

    Attributes:
        attempt: Which route is taken now; 0 before the first.
    """

    attempt: int = 0
    _avoid_until: dict[PeerId, float] = field(default_factory=dict)

    def avoid(self, now: float) -> frozenset[PeerId]:
        """Who is kept out of routes now."""
        return frozenset(peer for peer, until in self._avoid_until.items() if until > now)

    def next(self) -> int:
        """Another route is taken; which one."""
        self.attempt += 1
        return self.attempt

    def lost(self, peers: Collection[PeerId], error: HivemindError, now: float) -> None:
        """The present route is lost.

        Raises:
            GenerationError: It was the last one that is tried.
        """
        self._avoid_until |= dict.fromkeys(peers, now + AVOID_SECONDS)
        if self.attempt >= MOST_ROUTES:
            message = f"{MOST_ROUTES} routes were lost, the last one because {error.message}"
            raise GenerationError(message, hint=error.hint)


@dataclass
class GenerationState:
    """One text in the making.

    Args:
        prompt: Token ids, at least one.
        max_new_tokens: After how many new tokens it ends.
        ends: Token ids that end it; the one that came is part of the text.

    Attributes:
        written: The new tokens so far.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    ends: Collection[int] = ()
    written: list[int] = field(default_factory=list)
    _detours: Detours = field(default_factory=Detours)
    _over: bool = False

    @property
    def room(self) -> int:
        """Tokens that the text may come to."""
        return len(self.prompt) + self.max_new_tokens

    @property
    def attempt(self) -> int:
        """Which route is taken now."""
        return self._detours.attempt

    @property
    def text(self) -> list[int]:
        """Prompt and new tokens."""
        return [*self.prompt, *self.written]

    @property
    def position(self) -> int:
        """Where the next token stands."""
        return len(self.prompt) + len(self.written)

    def avoid(self, now: float) -> frozenset[PeerId]:
        """Who is kept out of routes now."""
        return self._detours.avoid(now)

    def start(self, now: float) -> list[Action]:
        """Called once, before anything else."""
        if self.max_new_tokens <= 0:
            self._over = True
            return [Finish()]
        return [self._take_route(now)]

    def opened(self, attempt: int) -> list[Action]:
        """All stages of the route of this attempt are ready."""
        if attempt != self.attempt or self._over:
            return []
        return [Feed(self.position)]

    def tokens(self, attempt: int, source: PeerId, position: int, tokens: Sequence[int], now: float) -> list[Action]:
        """The last stage, `source`, sent tokens. Those of a route that was given up are passed over."""
        if attempt != self.attempt or self._over:
            return []
        if position != self.position:
            error = GenerationError(f"peer {source} sent the token at {position} where {self.position} was due")
            return self.lost(attempt, [source], error, now)
        if not tokens:
            error = GenerationError(f"peer {source} sent no tokens at {position}")
            return self.lost(attempt, [source], error, now)
        actions: list[Action] = []
        for token in tokens:
            self.written.append(token)
            actions.append(Emit(token))
            if token in self.ends or len(self.written) == self.max_new_tokens:
                self._over = True
                return [*actions, Finish()]
        return actions

    def lost(self, attempt: int, peers: Collection[PeerId], error: HivemindError, now: float) -> list[Action]:
        """The route of this attempt failed; `peers` are to blame."""
        if attempt != self.attempt or self._over:
            return []
        try:
            self._detours.lost(peers, error, now)
        except GenerationError as last:
            self._over = True
            return [Fail(last)]
        return [self._take_route(now)]

    def _take_route(self, now: float) -> TakeRoute:
        return TakeRoute(self._detours.next(), self.avoid(now))
