"""Three stages of a model in one process, on links that take 25 ms one way: the ring, with guesses and without.

The links are the memory network's: no kernel has to shape traffic. Everything else is what a hive runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio

LATENCY = 0.025
STAGES = 3
CONTEXT = 1024


@dataclass(frozen=True)
class Written:
    """One text: new ids, tokens a second after the first, right guesses, for how long the loop was busy (p99.9)."""

    ids: list[int]
    rate: float
    guessed: int
    loop_stall: float = 0.0


class Nowhere:
    """A directory and contents in which nothing is."""

    async def lookup(self, _key: str) -> tuple[()]:
        """Nothing."""
        return ()

    async def offers(self, **_: Any) -> tuple[()]:
        """Nothing."""
        return ()

    async def set_stages(self, *_: Any, **__: Any) -> None:
        """Nobody asks."""


class FixedOffers:
    """What the hosts offer."""

    def __init__(self, found: list[Any]) -> None:
        self._offers = tuple(found)

    async def offers(self, **_: Any) -> tuple[Any, ...]:
        """All."""
        return self._offers


def compare(folder: Path, prompt: list[int], count: int, drafts: int) -> tuple[Written, Written]:
    """The same text over the ring step by step, and with guesses."""
    return trio.run(_compare, folder, prompt, count, drafts)


async def _compare(folder: Path, prompt: list[int], count: int, drafts: int) -> tuple[Written, Written]:
    from hivemind_p2p.net.memory import MemoryNetwork
    from hivemind_p2p.sharding import checkpoint as checkpoints
    from hivemind_p2p.types import LayerSpan

    opened = checkpoints.open_folder(folder)
    cuts = [round(opened.layer_count * part / STAGES) for part in range(STAGES + 1)]
    spans = [LayerSpan(start, stop) for start, stop in pairwise(cuts)]
    links = MemoryNetwork(latency=LATENCY)
    async with trio.open_nursery() as nursery:
        hosts = [await _host(nursery, links, number, folder, opened, span) for number, span in enumerate(spans)]
        offers = [offer for _, _, offer in hosts]
        for network, _, _ in hosts:
            _introduce(network, offers)
        for each in (0, drafts):  # warms up
            await _write(nursery, links, opened, offers, prompt, 4, each)
        plain = await _write(nursery, links, opened, offers, prompt, count, 0)
        guessing = await _write(nursery, links, opened, offers, prompt, count, drafts)
        guessing = replace(guessing, loop_stall=max(service.statistics().loop_stall for _, service, _ in hosts))
        nursery.cancel_scope.cancel()
    return plain, guessing


async def _host(nursery: trio.Nursery, links: Any, number: int, folder: Path, opened: Any, span: Any) -> Any:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.sharding.engine import Engine
    from hivemind_p2p.sharding.hosting import Loaded
    from hivemind_p2p.sharding.service import StageService
    from hivemind_p2p.types import Link, Offer, PeerInfo, Prices, StageOffer

    network: Any = Router(links.join(Identity(bytes([number + 1]) * 32)), nursery)
    nowhere: Any = Nowhere()
    service = StageService(network, nowhere, nowhere, nowhere, None, memory_bytes=2**28)
    service.host.stages[Link("model"), span] = Loaded(Engine.load(folder, opened, span))
    await nursery.start(service.run)
    offer = Offer(
        peer=PeerInfo(network.peer_id, tuple(network.addresses)),
        serves_models=False,
        prices=Prices(),
        stages=(StageOffer(Link("model"), span, ready=True),),
    )
    return network, service, offer


def _introduce(network: Any, offers: list[Any]) -> None:
    for offer in offers:
        if offer.peer.peer_id != network.peer_id:
            network.learn(offer.peer)


async def _write(
    nursery: trio.Nursery, links: Any, opened: Any, offers: list[Any], prompt: list[int], count: int, drafts: int
) -> Written:
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.net.router import Router
    from hivemind_p2p.sharding.caller import Extras, GenerationRun, Model, Patience
    from hivemind_p2p.sharding.generation import GenerationState
    from hivemind_p2p.sharding.sampling import SamplingOptions
    from hivemind_p2p.types import Link

    network: Any = Router(links.join(Identity.generate()), nursery)
    _introduce(network, offers)
    run = GenerationRun(
        network,
        FixedOffers(offers),  # type: ignore[arg-type]
        None,
        Model(Link("model"), opened.layer_count, CONTEXT, frozenset()),
        GenerationState(prompt, count),
        SamplingOptions(),
        Patience(),
        Extras(drafts=drafts),
    )
    ids: list[int] = []
    times: list[float] = []

    async def read(token: int) -> bool:
        ids.append(token)
        times.append(time.perf_counter())
        return True

    await run.run(read)
    return Written(ids, (len(times) - 1) / (times[-1] - times[0]), run.guessed)
