"""Placing by hand, and serving some models only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_p2p.errors import ConfigurationError, MissingLayersError
from hivemind_p2p.sharding import market
from hivemind_p2p.sharding.by_hand import spans_of
from hivemind_p2p.types import LayerSpan, Link, Offer, PeerId, PeerInfo
from tests.sharding import fakes, tiny

LINK, OTHER = Link("magnet:a"), Link("magnet:b")
OFFERS = [Offer(peer=PeerInfo(PeerId(f"id-{name}")), name=name, serves_models=True) for name in "ab"]


def test_peers_are_known_by_id_or_name() -> None:
    found = spans_of({"a": (0, 2), PeerId("id-b"): LayerSpan(2, 6)}, OFFERS, LINK, 6)
    assert found == {"id-a": LayerSpan(0, 2), "id-b": LayerSpan(2, 6)}


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"a": (0, 6), "z": (0, 1)}, "no peer is called 'z'"),
        ({"a": (0, 7)}, r"cannot host layers \[0, 7\) of 6"),
        ({"a": (3, 3)}, "cannot host"),
        ({"a": (-1, 6)}, "cannot host"),
        ({"a": (0, 2), "b": (3, 6)}, "leaves out layer 2"),
        ({}, "leaves out layer 0"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(placement: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        spans_of(placement, OFFERS, LINK, 6)


def test_a_name_that_two_peers_have_is_no_name() -> None:
    with pytest.raises(ConfigurationError, match="2 peers are called 'a'"):
        spans_of({"a": (0, 6)}, [*OFFERS, replace(OFFERS[0], peer=PeerInfo(PeerId("id-c")))], LINK, 6)


def test_a_peer_that_serves_other_models_takes_no_part() -> None:
    picky = replace(OFFERS[0], served_links=(OTHER,))
    assert market.serves(picky, OTHER)
    assert not market.serves(picky, LINK)
    with pytest.raises(ConfigurationError, match="does not serve this model"):
        spans_of({"a": (0, 6)}, [picky], LINK, 6)


async def test_peers_host_what_they_were_placed_on_and_nothing_else(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path, hosts=2) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"), placed_by_hand=True)
        first, second = (host.id for host in hive.hosts)
        with pytest.raises(MissingLayersError, match="layers 0-4"):
            await client.load(link, timeout=0.5)
        model = await client.load(link, placement={first: (0, 4), second: (4, 5)}, timeout=30)
        held = {name: [stage.span for stage in hive.world.offers[name].stages] for name in (first, second)}
        assert held == {first: [LayerSpan(0, 4)], second: [LayerSpan(4, 5)]}
        assert await model.generate([5, 6], max_new_tokens=3) == tiny.expected("llama", [5, 6], 3)


async def test_who_serves_one_model_hosts_no_other(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        host = hive.hosts[0].id
        hive.world.offers[host] = replace(hive.world.offers[host], served_links=(OTHER,))
        with pytest.raises(MissingLayersError, match="layers 0-4"):
            await client.load(link, timeout=0.5)
        hive.world.offers[host] = replace(hive.world.offers[host], served_links=(OTHER, link))
        await client.load(link, timeout=30)
