"""What comes off the wire is believed only after it was checked: a raw peer sends a host all kinds of nonsense."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import (
    GenerationError,
    HivemindError,
    MissingLayersError,
    PromptTooLongError,
    ProtocolError,
    StreamClosedError,
)
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import requests, ring, wire
from hivemind_p2p.sharding.hosting import Loaded
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Link, PeerId
from tests.sharding import fakes, ringside

FIRST, MIDDLE, LAST = LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 6)
ROW = ringside.WIDTH * 4
GOOD = pb.Activations(position=0, tokens=2, dtype="float32", last=True)


class Raw:
    """A host that holds all three stages, and a neighbour of it, and caller, without manners."""

    def __init__(self, hive: fakes.Hive) -> None:
        self.hive = hive
        self.me, self.host = hive.caller, hive.hosts[0]
        self.passed_on: list[tuple[pb.Entry, bytes]] = []
        self.news = trio.Event()
        self.me.network.serve(ring.PROTOCOL, self._sink)

    async def _sink(self, channel: Channel) -> None:
        while True:
            frame, payload = await channel.receive(pb.Frame, max_payload=2**20)
            for entry in frame.entries:
                self.passed_on.append((entry, bytes(payload[: entry.payload])))
                payload = payload[entry.payload :]
            self.news.set()

    def request(self, span: LayerSpan = MIDDLE, **changed: object) -> requests.OpenRequest:
        index = (FIRST, MIDDLE, LAST).index(span) if span in {FIRST, MIDDLE, LAST} else 0
        values: dict[str, object] = {
            "generation_id": os.urandom(16),
            "link": ringside.LINK,
            "span": span,
            "index": index,
            "stages": 3,
            "previous": self.me.id,
            "next": self.me.id,
            "room": 20,
            "sampling": SamplingOptions(),
            "ends": frozenset(),
        }
        return requests.OpenRequest(**(values | changed))  # type: ignore[arg-type]

    async def call(self, message: pb.ToStage, payload: bytes = b"") -> Channel:
        channel = await self.me.network.open(self.host.id, wire.PROTOCOL)
        await channel.send(message, payload)
        return channel

    async def answer(self, message: pb.ToStage, payload: bytes = b"") -> pb.FromStage:
        return await self.heard(await self.call(message, payload))

    async def heard(self, channel: Channel) -> pb.FromStage:
        with trio.fail_after(5):
            answer, _ = await channel.receive(pb.FromStage, max_payload=2**20)
        return answer

    async def open(self, span: LayerSpan = MIDDLE, **changed: object) -> tuple[Channel, requests.OpenRequest]:
        request = self.request(span, **changed)
        channel = await self.call(*requests.encode_open(request))
        assert (await self.heard(channel)).HasField("opened")
        return channel, request

    async def attach(self) -> Channel:
        return await self.me.network.open(self.host.id, ring.PROTOCOL)

    async def send(self, channel: Channel, request: requests.OpenRequest, size: int = 0, **kind: object) -> None:
        """One entry in one frame."""
        entry = pb.Entry(generation_id=request.generation_id, index=request.index, payload=size, **kind)  # type: ignore[arg-type]
        await channel.send(pb.Frame(entries=[entry]), bytes(size))

    async def lost(self, control: Channel) -> pb.Lost:
        answer = await self.heard(control)
        assert answer.HasField("lost"), answer
        return answer.lost


@asynccontextmanager
async def raw(tmp_path: Path) -> AsyncIterator[Raw]:
    async with ringside.ringside(tmp_path, (0, 6)) as world:
        host = world.hive.hosts[0]
        for span in (FIRST, MIDDLE, LAST):
            engine = ringside.ToyEngine(span)
            host.service.host.stages[ringside.LINK, span] = Loaded(engine)  # type: ignore[union-attr]
        yield Raw(world.hive)


async def test_what_cannot_be_opened(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        wrong: list[tuple[dict[str, object], type[HivemindError]]] = [
            ({"link": Link("magnet:other")}, MissingLayersError),
            ({"span": LayerSpan(1, 9)}, MissingLayersError),
            ({"index": 0}, ProtocolError),
            ({"index": 2}, ProtocolError),
            ({"room": ringside.CONTEXT + 1}, PromptTooLongError),
            ({"activations": "float8"}, ProtocolError),
            ({"span": FIRST, "text": [1, ringside.VOCABULARY]}, ProtocolError),
        ]
        for changed, error in wrong:
            with pytest.raises(error):
                await world.answer(*requests.encode_open(world.request(**changed)))
        assert world.host.service.statistics().sessions == 0


async def test_a_conversation_that_begins_in_the_middle(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        for message in [
            pb.ToStage(),
            pb.ToStage(close=pb.Close()),
            pb.ToStage(feed=pb.Feed(tokens=[1])),
            pb.ToStage(host=pb.Host(link="m" * 600)),
            pb.ToStage(host=pb.Host(link=ringside.LINK, lost=["x"] * 17)),
        ]:
            with pytest.raises(ProtocolError):
                await world.answer(message)


async def test_a_model_that_nobody_announces(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        channel = await world.call(pb.ToStage(host=pb.Host(link="magnet:other")))
        await world.heard(channel)
        with pytest.raises(MissingLayersError, match="nobody announces"):
            await world.heard(channel)


async def test_a_generation_of_the_same_name(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        _, request = await world.open()
        with pytest.raises(GenerationError):
            await world.answer(*requests.encode_open(request))


@pytest.mark.parametrize(
    "feed",
    [
        pb.Feed(tokens=[], last=True),
        pb.Feed(tokens=[1] * 21, last=True),
        pb.Feed(tokens=[97], last=True),
        pb.Feed(tokens=[1], last=True, position=1),
        pb.Feed(tokens=[1], rows=2),
        pb.Feed(position=7),
    ],
)
async def test_what_cannot_be_fed(feed: pb.Feed, tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, _ = await world.open(FIRST)
        await control.send(pb.ToStage(feed=feed))
        with pytest.raises(ProtocolError):
            await world.heard(control)


async def test_only_the_first_stage_is_fed(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, _ = await world.open(MIDDLE)
        await control.send(pb.ToStage(feed=pb.Feed(tokens=[1], last=True)))
        with pytest.raises(ProtocolError, match="feed"):
            await world.heard(control)


async def test_a_budget_is_kept(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, _ = await world.open(FIRST, mode=pb.LOGITS, budget=5)
        for _ in range(2):
            await control.send(pb.ToStage(feed=pb.Feed(tokens=[1, 2, 3])))
        with pytest.raises(ProtocolError, match="agreed on"):
            await world.heard(control)


async def test_only_the_neighbour_is_listened_to(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open(previous=PeerId("somebody"))
        _, other = await world.open()
        channel = await world.attach()
        await channel.send(pb.Frame())
        await world.send(channel, other, 2 * ROW, activations=GOOD)
        await world.send(channel, request, 2 * ROW, activations=GOOD)
        assert "neighbour" in (await world.lost(control)).message


async def test_a_channel_may_be_older_than_its_generation(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        channel = await world.attach()
        await channel.send(pb.Frame())
        await trio.testing.wait_all_tasks_blocked()
        _, request = await world.open()
        await world.send(channel, request, 2 * ROW, activations=GOOD)
        with trio.fail_after(5):
            await world.news.wait()
        assert len(world.passed_on) == 1


async def test_who_takes_part_in_nothing_sends_no_payload(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        channel = await world.attach()
        await world.send(channel, world.request(), 8, activations=GOOD)
        with pytest.raises(ProtocolError, match="payload"), trio.fail_after(5):
            await channel.receive(pb.Frame)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (pb.Activations(position=0, tokens=2, dtype="float64"), 2 * ROW * 2),
        (pb.Activations(position=0, tokens=2, dtype=""), 2 * ROW),
        (pb.Activations(position=0, tokens=3, dtype="float32"), 2 * ROW),
        (pb.Activations(position=0, tokens=2, dtype="bfloat16"), 2 * ROW),
        (pb.Activations(position=0, tokens=0, dtype="float32"), 0),
        (pb.Activations(position=1, tokens=2, dtype="float32"), 2 * ROW),
        (pb.Activations(position=0, tokens=21, dtype="float32"), 21 * ROW),
        (pb.Activations(position=0, tokens=600, dtype="float32"), 600 * ROW),
        (pb.Activations(position=0, tokens=2, dtype="float32", drafts=[1, 2, 3]), 2 * ROW),
        (pb.Activations(position=0, tokens=2, dtype="float32", rows=3), 2 * ROW),
    ],
)
async def test_activations_of_the_wrong_shape(header: pb.Activations, size: int, tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        await world.send(await world.attach(), request, size, activations=header)
        lost = await world.lost(control)
        assert (lost.peer, lost.code) == (world.me.id, "protocol")


async def test_activations_that_are_no_numbers(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        channel = await world.attach()
        entry = pb.Entry(generation_id=request.generation_id, index=1, payload=2 * ROW, activations=GOOD)
        await channel.send(pb.Frame(entries=[entry]), b"\xff" * (2 * ROW))
        lost = await world.lost(control)
        assert (lost.peer, lost.code) == (world.me.id, "generation")
        assert "no numbers" in lost.message


async def test_what_has_no_meaning_on_the_ring(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        channel = await world.attach()
        for span, kind in [
            (MIDDLE, {"token": pb.Token(position=0, tokens=[1])}),
            (FIRST, {"token": pb.Token(position=5, tokens=[1])}),
            (FIRST, {"token": pb.Token(position=1, tokens=[])}),
            (FIRST, {"token": pb.Token(position=1, tokens=[1] * 40)}),
            (FIRST, {"activations": GOOD}),
            (MIDDLE, {}),
            (LAST, {"taken": pb.Taken(rows=1)}),
        ]:
            control, request = await world.open(span)
            await world.send(channel, request, **kind)  # type: ignore[arg-type]
            assert (await world.lost(control)).code == "protocol"


async def test_one_bad_entry_of_a_frame_costs_one_generation(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        bad_control, bad = await world.open()
        _, good = await world.open()
        entries = [
            pb.Entry(generation_id=os.urandom(16), index=1, activations=GOOD, payload=ROW),
            pb.Entry(generation_id=bad.generation_id, index=1, activations=GOOD, payload=ROW),
            pb.Entry(generation_id=good.generation_id, index=1, activations=GOOD, payload=2 * ROW),
        ]
        channel = await world.attach()
        await channel.send(pb.Frame(entries=entries), bytes(4 * ROW))
        assert (await world.lost(bad_control)).code == "protocol"
        with trio.fail_after(5):
            await world.news.wait()
        assert [entry.generation_id for entry, _ in world.passed_on] == [good.generation_id]


async def test_a_frame_that_is_not_its_entries(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        channel = await world.attach()
        entry = pb.Entry(generation_id=request.generation_id, index=1, activations=GOOD, payload=3 * ROW)
        await channel.send(pb.Frame(entries=[entry]), bytes(2 * ROW))
        lost = await world.lost(control)
        assert (lost.peer, lost.code) == (world.me.id, "protocol")


async def test_more_rows_than_a_window(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        for engine in (hosted.engine for hosted in world.host.service.host.stages.values()):
            engine.gate.clear()
        control, request = await world.open(room=4000)
        channel = await world.attach()
        for number in range(6):
            header = pb.Activations(position=512 * number, tokens=512, dtype="float32")
            await world.send(channel, request, 512 * ROW, activations=header)
        assert "before any of them" in (await world.lost(control)).message
        for engine in (hosted.engine for hosted in world.host.service.host.stages.values()):
            engine.gate.set()


async def test_a_caller_that_takes_no_rows_is_not_computed_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = 100
    monkeypatch.setattr("hivemind_p2p.sharding.pieces.ROWS_BYTES", 4 * ringside.VOCABULARY * window)
    async with raw(tmp_path) as world:
        engine = world.host.service.host.stages[ringside.LINK, LAST].engine
        _, request = await world.open(LAST, mode=pb.LOGITS, room=4000, budget=4000)
        channel = await world.attach()
        for start in range(0, 2500, window):
            header = pb.Activations(position=start, tokens=window, dtype="float32", rows=window)
            await world.send(channel, request, window * ROW, activations=header)
        await ringside.until(lambda: len(engine.steps) >= 2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        computed = sum(count for step in engine.steps for _, count in step)
        assert computed < 1500, "what the network holds of rows that nobody reads, and one window"


async def test_a_neighbour_that_leaves_is_named(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        channel = await world.attach()
        await world.send(channel, request, 2 * ROW, activations=GOOD)
        await channel.aclose()
        assert (await world.lost(control)).peer == world.me.id


async def test_a_position_below_cuts_the_text_back(tmp_path: Path) -> None:
    right, wrong = torch.rand(5, ringside.WIDTH), torch.rand(5, ringside.WIDTH)
    async with raw(tmp_path) as world:
        control, request = await world.open(LAST, mode=pb.LOGITS, room=20)
        channel = await world.attach()
        places: list[tuple[int, int, int]] = []
        values: list[torch.Tensor] = []
        for rows, start, stop in ((right, 0, 4), (wrong, 2, 4), (wrong, 4, 5), (right, 2, 4)):
            header = pb.Activations(position=start, tokens=stop - start, dtype="float32", rows=1)
            entry = pb.Entry(generation_id=request.generation_id, index=2, activations=header)
            entry.payload = (stop - start) * ROW
            await channel.send(pb.Frame(entries=[entry]), rows[start:stop].numpy().tobytes())
            with trio.fail_after(5):
                message, payload = await control.receive(pb.FromStage, max_payload=2**20)
            places.append((message.rows.position, message.rows.count, message.rows.width))
            values.append(torch.frombuffer(payload, dtype=torch.float32))
        assert places == [(at, 1, ringside.VOCABULARY) for at in (3, 3, 4, 3)]
        torch.testing.assert_close(values[3], values[0])
        assert not torch.allclose(values[1], values[0])


async def test_after_the_nonsense_the_host_serves_on(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        await world.send(await world.attach(), request, 2 * ROW, activations=pb.Activations(tokens=9))
        await world.lost(control)
        assert await ringside.Ringside(world.hive).write([5, 40, 17], 5) == ringside.expected([5, 40, 17], 5)


async def test_a_stage_that_is_asked_says_how_far_it_is(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        assert (await world.answer(pb.ToStage(ping=pb.Ping()))).HasField("pong")
        control, _ = await world.open(FIRST)
        await control.send(pb.ToStage(ping=pb.Ping()))
        pong = (await world.heard(control)).pong
        assert (pong.received, pong.done, pong.busy) == (0, 0, 0)


@given(value=st.binary(max_size=120), payload=st.binary(max_size=64))
def test_any_bytes_on_the_ring_cost_no_more_than_a_generation_or_the_channel(value: bytes, payload: bytes) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = fakes.World()
            me = fakes.Peer(world, Path("."), nursery, 1, serves=False, memory=0, paid=False)
            host = fakes.Peer(world, Path("."), nursery, 2, serves=True, memory=2**20, paid=False)
            me.learn(host, world)
            await nursery.start(host.run)
            host.service.host.stages[ringside.LINK, MIDDLE] = Loaded(ringside.ToyEngine(MIDDLE))
            control = await me.network.open(host.id, wire.PROTOCOL)
            request = requests.OpenRequest(
                b"i" * 16, ringside.LINK, MIDDLE, 1, 3, me.id, host.id, 20, SamplingOptions(), frozenset()
            )
            await control.send(*requests.encode_open(request))
            await control.receive(pb.FromStage)
            channel = await me.network.open(host.id, ring.PROTOCOL)
            header = pb.Entry(generation_id=b"i" * 16, index=1, payload=len(payload)).SerializeToString() + value
            frame = b"\x0a" + bytes([len(header)]) + header
            try:
                await channel.send(pb.Frame.FromString(frame), payload)
                await control.send(pb.ToStage(ping=pb.Ping()))
                await control.receive(pb.FromStage)
            except (ValueError, StreamClosedError):
                pass
            except Exception as error:
                if type(error).__name__ != "DecodeError":
                    raise
            assert not host.network.statistics().failed or host.network.statistics().failed == 1
            nursery.cancel_scope.cancel()

    trio.run(main)
