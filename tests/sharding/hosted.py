"""Hosts with the real engine at fixed, uneven spans of a tiny model, over the memory network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from hivemind_p2p.model import AsyncModel
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding.engine import Engine
from hivemind_p2p.sharding.hosting import Loaded
from hivemind_p2p.sharding.remote import RemoteModel
from hivemind_p2p.types import LayerSpan, Link, StageOffer
from tests.sharding import fakes, ringside

UNEVEN = ((0, 1), (1, 4), (4, 5))


@dataclass
class Hosted:
    """A model with hosts.

    Attributes:
        model: As a trio program sees it.
        remote: As the library sees it.
    """

    hive: fakes.Hive
    link: Link
    model: AsyncModel
    remote: RemoteModel

    async def idle(self) -> None:
        """Waits until no generation is left anywhere."""
        await ringside.until(lambda: not any(host.statistics().sessions for host in self.hive.living()))


@asynccontextmanager
async def hosted(
    folder: Path, spans: Sequence[tuple[int, int]] = UNEVEN, *, paid: bool = False, **loading: Any
) -> AsyncIterator[Hosted]:
    """A checkpoint folder, a host for each span; the same span twice for a spare.

    Args:
        folder: The checkpoint.
        spans: What each host holds.
        paid: Whether hosts are paid.
        **loading: How each engine is loaded.
    """
    opened = checkpoints.open_folder(folder)
    engines = [
        await trio.to_thread.run_sync(lambda at=span: Engine.load(folder, opened, LayerSpan(*at), **loading))
        for span in spans
    ]
    async with fakes.hive(folder.parent, hosts=len(spans), paid=paid) as hive:
        link = await hive.caller.content.share(folder)
        for host, engine in zip(hive.hosts, engines, strict=True):
            assert host.service is not None
            host.service.host.stages[link, engine.span] = Loaded(engine)
            hive.world.offers[host.id] = replace(
                hive.world.offers[host.id], stages=(StageOffer(link, engine.span, ready=True),), serves_models=False
            )
        remote = await hive.caller.client(stall=0.5, wait_for_hosts=0.2).load(link, timeout=5)
        async with trio.open_nursery() as nursery:
            yield Hosted(hive, link, AsyncModel(remote, nursery), remote)
            nursery.cancel_scope.cancel()
