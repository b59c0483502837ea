"""Models for their callers: publish a checkpoint, wait until every layer has a host.

Participants: a publisher, which shares the bytes and announces the model under the key ``models``; a caller, which
fetches config and tokenizer (never the weights) and asks the willing peers to host.

Goals: what comes out equals what the whole model in one process writes; a caller needs neither torch nor
transformers unless it gives tensors.

Non-goals: hosting (`service.py`); what is done with a model that has hosts (`remote.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import trio

from hivemind_p2p import defaults
from hivemind_p2p.errors import ConfigurationError, MissingLayersError
from hivemind_p2p.interfaces import Content, Directory, Network, OfferBook, Payer
from hivemind_p2p.sharding import asking, by_hand, caller, checkpoint, wire
from hivemind_p2p.sharding.description import Description
from hivemind_p2p.sharding.loading import Loading, LoadProgress
from hivemind_p2p.sharding.remote import Hosts, RemoteModel
from hivemind_p2p.types import LayerSpan, Link, PeerId

Placement: TypeAlias = "Mapping[PeerId | str, LayerSpan | tuple[int, int]]"
"""For peers, by id or name, the layers that each is to host."""

CONFIG_DEADLINE = 60.0
"""Seconds for fetching config and tokenizer, some MB."""


class ModelClient:
    """Publishes and loads models.

    Args:
        network: Speaks to the hosts.
        content: Shares and fetches checkpoints.
        offers: Where hosts are found.
        directory: Where models are announced.
        payer: Pays hosts; None in a hive without payment.
        patience: What generations wait for, and how long.
    """

    def __init__(
        self,
        network: Network,
        content: Content,
        offers: OfferBook,
        directory: Directory,
        payer: Payer | None = None,
        *,
        patience: caller.Patience | None = None,
    ) -> None:
        self.network = network
        self.offers = offers
        self.payer = payer
        self.patience = patience or caller.Patience()
        self._content = content
        self._directory = directory
        self._published: dict[Link, wire.ModelRecord] = {}

    async def publish(self, folder: Path, *, stages: int | None = None, placed_by_hand: bool = False) -> Link:
        """Shares a checkpoint folder and announces it to the hive.

        Args:
            folder: A Hugging Face model folder.
            stages: Into how many spans it is cut at least; by default as many as peers serve models now.
            placed_by_hand: Whether peers host nothing of it by themselves, only what `load` asks them to.

        Raises:
            CheckpointError: It is no complete checkpoint; the message names what is missing.
        """
        found = await trio.to_thread.run_sync(checkpoint.open_folder, folder)
        if stages is None:
            stages = len(asking.willing(await self.offers.offers(fresh=True)))
        if len(self._published) >= wire.MAX_MODELS:
            raise ConfigurationError(f"one peer announces at most {wire.MAX_MODELS} models")
        link = await self._content.share(folder)
        self._published[link] = wire.ModelRecord(
            link=link,
            name=folder.name,
            layer_count=found.layer_count,
            stages_wanted=max(1, min(stages, found.layer_count)),
            architecture=found.architecture,
            by_hand=placed_by_hand,
            **_sizes(found),
        )
        value = wire.encode_models(self._published.values())
        await self._directory.publish(defaults.MODELS_KEY, value, lifetime=defaults.CONTENT_LIFETIME)
        return link

    async def load(
        self,
        link: Link,
        *,
        placement: Placement | None = None,
        progress: Callable[[LoadProgress], None] | None = None,
        timeout: float = 120.0,
    ) -> RemoteModel:
        """Waits until every layer of a model has a host.

        Args:
            link: What `publish` gave.
            placement: Which layers whom to ask for: for a peer's id or name, the first layer and the one behind the
                last. By default the peers decide.
            progress: Called whenever something changes.
            timeout: Seconds.

        Raises:
            MissingLayersError: Some layers had no host in time; the message names them.
            CheckpointError: The link holds no checkpoint.
            ConfigurationError: The placement names a peer that is not there, or leaves layers out.
        """
        model = await self._read(link, min(timeout, CONFIG_DEADLINE))
        chosen = None
        if placement is not None:
            chosen = by_hand.spans_of(placement, await self.offers.offers(fresh=True), link, model.layer_count)
        loading = Loading(self.network, self.offers, link, model.layer_count, progress, chosen)
        await loading.run(timeout)
        return model

    async def _read(self, link: Link, deadline: float) -> RemoteModel:
        try:
            with trio.fail_after(deadline):
                files = await self._content.files(link)
                folder = await self._content.fetch(link, wanted=checkpoint.small_files(files))
        except trio.TooSlowError as error:
            raise MissingLayersError(
                f"config and tokenizer of {link} did not arrive within {deadline:g} s",
                hint="Keep the peer running that published it.",
            ) from error
        described = await trio.to_thread.run_sync(Description, link, folder)
        return RemoteModel(Hosts(self.network, self.offers, self.payer, self.patience), described)


def _sizes(found: checkpoint.Checkpoint) -> dict[str, int]:
    """What a layer and the two ends of a model take in memory, for peers that look for their place."""
    layers = found.layer_count
    layer = found.weight_bytes(LayerSpan(layers // 2, layers // 2 + 1))
    return {
        "layer_bytes": layer,
        "embedding_bytes": max(0, found.weight_bytes(LayerSpan(0, 1)) - layer),
        "head_bytes": max(0, found.weight_bytes(LayerSpan(layers - 1, layers)) - layer),
    }


__all__ = ["LoadProgress", "ModelClient", "RemoteModel"]
