"""What a host believes, what it survives, and what it takes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from hivemind_p2p.errors import BusyError, HivemindError, MissingLayersError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import hosting, market, placement, wire
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.engine import Engine
from hivemind_p2p.types import LayerSpan, Link, PeerId
from tests.sharding import fakes, ringside, tiny


async def ask(hive: fakes.Hive, host: fakes.Peer, link: Link, lost: list[str]) -> None:
    """Asks a host to consider a model, and waits until it has."""
    channel = await hive.caller.network.open(host.id, wire.PROTOCOL)
    await channel.send(pb.ToStage(host=pb.Host(link=link, lost=lost)))
    with trio.fail_after(10):
        while True:
            try:
                await channel.receive(pb.FromStage)
            except HivemindError:
                return


async def test_a_living_peer_that_is_called_dead_keeps_its_layers(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path, hosts=2) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        await client.load(link, timeout=30)
        first, second = hive.hosts
        await ask(hive, first, link, [second.id, "nobody"])
        assert len(first.service.host.stages) == 1


async def test_a_dead_peer_that_is_called_dead_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "PING_DEADLINE", 0.1)
    async with fakes.hive(tmp_path, hosts=2) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        await client.load(link, timeout=30)
        first, second = hive.hosts
        hive.world.kill(second.id)
        await ask(hive, first, link, [])
        assert len(first.service.host.stages) == 1, "its offer still stands"
        await ask(hive, first, link, [second.id])
        assert len(first.service.host.stages) == 2


async def test_a_checkpoint_that_breaks_the_library_does_not_end_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Engine:
        raise ZeroDivisionError("inside the library")

    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "load", broken)
            with pytest.raises(MissingLayersError, match="inside the library"):
                await client.load(link, timeout=0.5)
        assert hive.world.offers[hive.hosts[0].id].stages == ()
        assert hive.hosts[0].service.statistics().memory_used == 0
        model = await client.load(link, timeout=30)
        assert await model.generate([5, 6], max_new_tokens=3) == tiny.expected("llama", [5, 6], 3)


async def test_all_who_ask_watch_one_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = 0
    original = Engine.load

    def counted(*arguments: object, **options: object) -> Engine:
        nonlocal loads
        loads += 1
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "load", counted)
    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.load, link)
    assert loads == 1


def test_memory_is_reserved_once_and_given_back() -> None:
    pool = MemoryPool(100, PeerId("me"))
    pool.reserve("weights", 70, "the weights")
    with pytest.raises(BusyError, match=r"no room for a cache: it takes 31 bytes, 30 are free"):
        pool.reserve("a", 31, "a cache")
    pool.reserve("a", 30, "a cache")
    with pytest.raises(BusyError):
        pool.reserve("a", 0, "a cache")
    pool.release("weights")
    pool.release("never")
    assert pool.used == 30


async def test_a_move_waits_until_it_has_looked_right_for_a_while_and_gives_the_old_span_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = LayerSpan(0, 3)
    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        await client.load(link, timeout=30)
        (host,) = hive.hosts
        used = host.service.statistics().memory_used

        def moves(*_: object) -> placement.Take | None:
            held = set(host.service.host.stages)
            return None if (link, new) in held else placement.Take(new, instead_of=fakes.ALL)

        monkeypatch.setattr(market, "decide", moves)
        await ask(hive, host, link, [])
        assert set(host.service.host.stages) == {(link, fakes.ALL)}, "it may be needed where it is in a moment"
        monkeypatch.setattr(hosting, "MOVE_AFTER", 0.0)
        await ask(hive, host, link, [])
        assert set(host.service.host.stages) == {(link, new)}
        assert [stage.span for stage in hive.world.offers[host.id].stages] == [new]
        assert host.service.statistics().memory_used < used


async def test_a_peer_says_how_fast_it_is_once_it_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.speed.measure", lambda threads: 12345)
    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        await client.load(await client.publish(tiny.save("llama", tmp_path / "llama")), timeout=30)
        (host,) = hive.hosts
        await ringside.until(lambda: hive.world.offers[host.id].weight_bytes_per_second == 12345)
        assert 0 < hive.world.offers[host.id].weight_bytes_free < market.weight_bytes(fakes.MEMORY)
