"""Which layers a peer should host: decided by every peer for itself, from the same offers, without a master.

Each peer plays through what all others will do, in the order of their ids, and so finds its own part: peers that
decide at the same moment from the same offers take different spans.

1. As long as some layer has no host that is ready, those that host nothing go where all are best together
   (`arrangement.py`), and peers with memory left take one span more each. If that leaves gaps, those that have loaded
   already move as well: there is nothing to interrupt.
2. Where the model is served, a peer that hosts nothing takes the span that raises the weakest layers most.
3. When all is loaded and the placement makes less than `GOOD_ENOUGH` of what another one would, peers move: first
   those whose move alone is worth it, then those that it takes to come nearer to that other placement. No peer leaves
   a layer that nobody else hosts, unless it has room for both spans until the new one is ready.

A placement that is good enough is left alone, so peers that come and go cause few downloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hivemind_p2p.sharding.arrangement import arrange
from hivemind_p2p.sharding.layer_rates import LayerRates
from hivemind_p2p.sharding.layer_spans import Choices
from hivemind_p2p.sharding.throughput import ModelSizes, Server, tokens_per_second, uncovered
from hivemind_p2p.types import LayerSpan, PeerId

GOOD_ENOUGH = 0.9
"""The part of the reachable rate from which on nobody moves: each move costs a download."""

WORTH = 0.25
"""A move has to bring at least this part of what the peer's whole speed is worth to the model."""

MOST_MOVES = 8
"""Moves that are played through at once. More would rest on too much that has not happened yet."""


@dataclass(frozen=True, slots=True)
class Take:
    """Host this span; where `instead_of` is given, give that one up once this one is ready."""

    span: LayerSpan
    instead_of: LayerSpan | None = None


class _Play:
    """Plays through what the servers do, one after another."""

    def __init__(self, servers: Sequence[Server], sizes: ModelSizes, most_layers: int) -> None:
        self._servers = {server.peer: server for server in sorted(servers, key=lambda server: server.peer)}
        self._sizes = sizes
        self._choices = Choices(sizes, most_layers)
        self._serving = {server.peer: _ready(server).spans for server in servers}

    def steps(self) -> Iterator[tuple[PeerId, Take]]:
        """Who does what, in order."""
        if uncovered(map(_ready, self._servers.values()), self._sizes):
            yield from self._begin()
            return
        yield from self._join()
        if any(server.loading for server in self._servers.values()):
            return
        wanted = self._wanted()
        if tokens_per_second(self._all(), self._sizes) < GOOD_ENOUGH * tokens_per_second(wanted, self._sizes):
            yield from self._rearrange(wanted)

    # -- before the model is served ----------------------------------------------------------------------------------

    def _begin(self) -> list[tuple[PeerId, Take]]:
        """Newcomers go where all are best together; if that leaves gaps, those that have loaded go elsewhere, too."""
        before = dict(self._servers)
        tried = []
        for hosts_move in (False, True):
            self._servers = dict(before)
            tried.append([*self._place(hosts_move=hosts_move), *self._join(), *self._help()])
            if not self._gaps():
                return tried[-1]
        return tried[0]

    def _place(self, *, hosts_move: bool) -> Iterator[tuple[PeerId, Take]]:
        free = [server for server in self._all() if not server.spans]
        if hosts_move:
            free += self._movable()
        names = {server.peer for server in free}
        fixed = [server for server in self._all() if server.peer not in names]
        wanted = arrange(fixed, free, self._choices)
        for server in free:
            span = wanted.get(server.peer)
            if span is not None and span not in server.spans:
                yield self._moved(server, span)

    def _help(self) -> Iterator[tuple[PeerId, Take]]:
        """Those with memory left take layers that nobody hosts."""
        for server in sorted(self._all(), key=lambda server: (len(server.spans), server.peer)):
            gaps = self._gaps()
            if not gaps:
                return
            memory = server.memory - sum(map(self._sizes.memory_of, server.spans))
            spans = list(self._choices.within(gaps, memory)) if server.spans else []
            if spans:
                span = max(spans, key=lambda span: (len(span), -span.start))
                self._servers[server.peer] = replace(server, spans=(*server.spans, span))
                yield server.peer, Take(span)

    def _join(self) -> Iterator[tuple[PeerId, Take]]:
        """Those that host nothing take the spans that help most."""
        rates = LayerRates(self._all(), self._sizes)
        for server in self._all():
            found = None if server.spans else rates.best(server.speed, self._choices.spans(server.memory))
            if found is not None:
                rates.add(found[0], server.speed)
                yield self._moved(server, found[0])

    # -- while it is served ------------------------------------------------------------------------------------------

    def _wanted(self) -> list[Server]:
        """The servers as they would be if they could start anew."""
        fixed = [server for server in self._all() if len(server.spans) > 1]
        free = [server for server in self._all() if len(server.spans) < 2]
        spans = arrange(fixed, free, self._choices)
        moved = (replace(server, spans=(spans[server.peer],)) if server.peer in spans else server for server in free)
        return [*fixed, *moved]

    def _rearrange(self, wanted: Sequence[Server]) -> Iterator[tuple[PeerId, Take]]:
        """One after another, the moves that bring most by themselves; if there are none, those towards `wanted`.

        Whoever has come to its place in `wanted` stays there, so that this ends.
        """
        targets = {server.peer: server.spans[0] for server in wanted if len(server.spans) == 1}
        moves = 0
        while moves < MOST_MOVES and (found := self._best_move(targets)) is not None:
            moves += 1
            yield self._moved(*found)
        if not moves:
            yield from self._approach(targets)

    def _best_move(self, targets: Mapping[PeerId, LayerSpan]) -> tuple[Server, LayerSpan] | None:
        rates = LayerRates(self._all(), self._sizes)
        before = rates.value()
        whole = sum(server.speed for server in self._all())
        best: tuple[float, Server, LayerSpan] | None = None
        for server in self._movable():
            if server.spans[0] == targets.get(server.peer):
                continue
            after, span = self._tried(rates, server)
            share = 1 + WORTH * server.speed / whole
            if rates.as_rate(after) < rates.as_rate(before) * share or span == server.spans[0]:
                continue
            if (best is None or after > best[0]) and self._leaves_no_gap(server, span):
                best = after, server, span
        return None if best is None else best[1:]

    def _tried(self, rates: LayerRates, server: Server) -> tuple[float, LayerSpan]:
        """Where a server would go, and the value of the placement then."""
        old = server.spans[0]
        rates.add(old, -server.speed)
        without = rates.value()
        found = rates.best(server.speed, self._choices.spans(server.memory))
        rates.add(old, server.speed)
        return (without + found[1], found[0]) if found is not None else (rates.value(), old)

    def _approach(self, targets: Mapping[PeerId, LayerSpan]) -> Iterator[tuple[PeerId, Take]]:
        """Those moves towards a better placement that leave no layer alone on their way."""
        for server in list(self._movable()):
            span = targets.get(server.peer, server.spans[0])
            if span != server.spans[0] and self._leaves_no_gap(server, span):
                yield self._moved(server, span)

    def _leaves_no_gap(self, server: Server, new: LayerSpan) -> bool:
        """Whether each layer that a peer leaves is served by others, who stay, while it loads and after it."""
        old = server.spans[0]
        served = _count(self._serving.values(), self._sizes.layers)
        leaves = set(_layers(old)) - set(_layers(new)) if self._has_room_for_both(server, new) else _layers(old)
        return all(served[layer] > 1 for layer in leaves)

    def _has_room_for_both(self, server: Server, new: LayerSpan) -> bool:
        return self._sizes.memory_of(server.spans[0]) + self._sizes.memory_of(new) <= server.memory

    # -- the servers as they are played ------------------------------------------------------------------------------

    def _all(self) -> list[Server]:
        return list(self._servers.values())

    def _movable(self) -> Iterator[Server]:
        return (server for server in self._all() if len(server.spans) == 1 and not server.loading)

    def _moved(self, server: Server, span: LayerSpan) -> tuple[PeerId, Take]:
        """Notes where a server goes. It counts as loading from now on, so it moves once."""
        kept = server.spans if server.spans and self._has_room_for_both(server, span) else ()
        # What it leaves is served by it only until it has loaded: nobody else may count on it.
        self._serving[server.peer] = tuple(old for old in kept if set(_layers(old)) <= set(_layers(span)))
        self._servers[server.peer] = replace(server, spans=(span,), loading=(span,))
        return server.peer, Take(span, instead_of=next(iter(server.spans), None))

    def _gaps(self) -> list[int]:
        hosts = _count((server.spans for server in self._all()), self._sizes.layers)
        return [layer for layer, number in enumerate(hosts) if not number]


def _count(spans: Iterable[Sequence[LayerSpan]], layers: int) -> list[int]:
    """How many peers have each layer."""
    hosts = [0] * layers
    for held in spans:
        for layer in {layer for span in held for layer in _layers(span)}:
            hosts[layer] += 1
    return hosts


def _layers(span: LayerSpan) -> range:
    return range(span.start, span.stop)


def _ready(server: Server) -> Server:
    return replace(server, spans=tuple(span for span in server.spans if span not in server.loading))


def decide(me: PeerId, servers: Sequence[Server], sizes: ModelSizes, *, most_layers: int) -> Take | None:
    """What this peer should host besides what it hosts, or instead; None if nothing is left for it to do.

    Args:
        me: Who decides.
        servers: Everybody who hosts layers of the model or would, oneself among them. Claims count as hosted.
        sizes: What the model's layers cost.
        most_layers: The longest span, by the publisher's wish.
    """
    for peer, take in _Play(servers, sizes, most_layers).steps():
        if peer == me:
            return take
    return None


def plan(servers: Sequence[Server], sizes: ModelSizes, *, most_layers: int) -> Mapping[PeerId, Take]:
    """What every peer decides at this moment: the first thing that each does."""
    found: dict[PeerId, Take] = {}
    for peer, take in _Play(servers, sizes, most_layers).steps():
        found.setdefault(peer, take)
    return found


__all__ = ["GOOD_ENOUGH", "Take", "decide", "plan"]
