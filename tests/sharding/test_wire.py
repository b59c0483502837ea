"""What comes off the wire is believed only after it was checked: a raw peer sends a host all kinds of nonsense."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import (
    GenerationError,
    HivemindError,
    MissingLayersError,
    PromptTooLongError,
    ProtocolError,
    RecordError,
)
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import wire
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Link, PeerId, Record
from tests.sharding import fakes, tiny

FIRST, MIDDLE, LAST = LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 5)
HIDDEN = 32
GOOD = pb.Activations(position=0, tokens=2, dtype="float32", last=True)


class Raw:
    """A hive of one host that holds all three stages, and a caller without manners."""

    def __init__(self, hive: fakes.Hive, link: Link) -> None:
        self.hive = hive
        self.link = link
        self.me, self.host = hive.caller, hive.hosts[0]

    def request(self, span: LayerSpan = MIDDLE, **changed: object) -> wire.OpenRequest:
        index = (FIRST, MIDDLE, LAST).index(span) if span in {FIRST, MIDDLE, LAST} else 0
        values: dict[str, object] = {
            "generation_id": os.urandom(16),
            "link": self.link,
            "span": span,
            "index": index,
            "stages": 3,
            "previous": self.me.id,
            "next": self.me.id,
            "room": 20,
            "sampling": SamplingOptions(),
            "ends": frozenset(),
            "payment": b"",
        }
        return wire.OpenRequest(**(values | changed))  # type: ignore[arg-type]

    async def call(self, message: pb.ToStage) -> Channel:
        channel = await self.me.network.open(self.host.id, wire.PROTOCOL)
        await channel.send(message)
        return channel

    async def answer(self, message: pb.ToStage) -> pb.FromStage:
        channel = await self.call(message)
        with trio.fail_after(5):
            answer, _ = await channel.receive(pb.FromStage)
        return answer

    async def open(self, span: LayerSpan = MIDDLE, **changed: object) -> tuple[Channel, wire.OpenRequest]:
        request = self.request(span, **changed)
        channel = await self.call(wire.encode_open(request))
        assert (await channel.receive(pb.FromStage))[0].HasField("opened")
        return channel, request

    async def attach(self, request: wire.OpenRequest, index: int | None = None) -> Channel:
        ring = await self.me.network.open(self.host.id, wire.RING_PROTOCOL)
        place = request.index if index is None else index
        await ring.send(pb.ToNext(attach=pb.Attach(generation_id=request.generation_id, index=place)))
        with trio.fail_after(5):
            await ring.receive(pb.Attached)
        return ring

    async def lost(self, control: Channel) -> pb.Lost:
        with trio.fail_after(5):
            answer, _ = await control.receive(pb.FromStage)
        assert answer.HasField("lost")
        return answer.lost


@asynccontextmanager
async def raw(tmp_path: Path) -> AsyncIterator[Raw]:
    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"), stages=3)
        await client.load(link, timeout=30)
        yield Raw(hive, link)


async def test_what_cannot_be_opened(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        wrong: list[tuple[dict[str, object], type[HivemindError]]] = [
            ({"link": Link("magnet:other")}, MissingLayersError),
            ({"span": LayerSpan(1, 3)}, MissingLayersError),
            ({"generation_id": b"short"}, ProtocolError),
            ({"index": 3}, ProtocolError),
            ({"index": 0}, ProtocolError),
            ({"index": 2}, ProtocolError),
            ({"room": 0}, ProtocolError),
            ({"room": 129}, PromptTooLongError),
            ({"room": 2**30}, ProtocolError),
            ({"ends": frozenset(range(100))}, ProtocolError),
            ({"link": Link("m" * 600)}, ProtocolError),
        ]
        for changed, error in wrong:
            with pytest.raises(error):
                await world.answer(wire.encode_open(world.request(**changed)))
        assert world.host.service.statistics().sessions == 0


async def test_sampling_that_is_impossible(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        message = wire.encode_open(world.request())
        message.open.sampling.temperature = float("nan")
        with pytest.raises(ProtocolError, match="sampling"):
            await world.answer(message)


async def test_a_conversation_that_begins_in_the_middle(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        for message in [
            pb.ToStage(),
            pb.ToStage(close=pb.Close()),
            pb.ToStage(feed=pb.Feed(tokens=[1])),
            pb.ToStage(host=pb.Host(link="m" * 600)),
            pb.ToStage(host=pb.Host(link=world.link, lost=["x"] * 17)),
        ]:
            with pytest.raises(ProtocolError):
                await world.answer(message)


async def test_a_model_that_nobody_announces(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        channel = await world.call(pb.ToStage(host=pb.Host(link="magnet:other")))
        await channel.receive(pb.FromStage)
        with pytest.raises(MissingLayersError, match="nobody announces"), trio.fail_after(5):
            await channel.receive(pb.FromStage)


async def test_a_generation_of_the_same_name(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        _, request = await world.open()
        with pytest.raises(GenerationError):
            await world.answer(wire.encode_open(request))


@pytest.mark.parametrize("tokens", [[], [1] * 21, [96], [1] * 513])
async def test_what_cannot_be_fed(tokens: list[int], tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, _ = await world.open(FIRST)
        await control.send(pb.ToStage(feed=pb.Feed(tokens=tokens, last=True)))
        with pytest.raises(ProtocolError), trio.fail_after(5):
            await control.receive(pb.FromStage)


async def test_only_the_first_stage_is_fed(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, _ = await world.open(MIDDLE)
        await control.send(pb.ToStage(feed=pb.Feed(tokens=[1], last=True)))
        with pytest.raises(ProtocolError, match="feed"), trio.fail_after(5):
            await control.receive(pb.FromStage)


async def test_the_ring_knows_its_generations_and_neighbours(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        _, request = await world.open()
        with pytest.raises(GenerationError):
            await world.attach(request, index=2)
        with pytest.raises(GenerationError):
            await world.attach(world.request())
        _, foreign = await world.open(previous=PeerId("somebody"))
        with pytest.raises(ProtocolError, match="neighbour"):
            await world.attach(foreign)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (pb.Activations(position=0, tokens=2, dtype="float64"), 2 * HIDDEN * 8),
        (pb.Activations(position=0, tokens=2, dtype=""), 2 * HIDDEN * 4),
        (pb.Activations(position=0, tokens=3, dtype="float32"), 2 * HIDDEN * 4),
        (pb.Activations(position=0, tokens=2, dtype="bfloat16"), 2 * HIDDEN * 4),
        (pb.Activations(position=0, tokens=0, dtype="float32"), 0),
        (pb.Activations(position=1, tokens=2, dtype="float32"), 2 * HIDDEN * 4),
        (pb.Activations(position=0, tokens=21, dtype="float32"), 21 * HIDDEN * 4),
        (pb.Activations(position=0, tokens=600, dtype="float32"), 600 * HIDDEN * 4),
    ],
)
async def test_activations_of_the_wrong_shape(header: pb.Activations, size: int, tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        ring = await world.attach(request)
        await ring.send(pb.ToNext(activations=header), bytes(size))
        lost = await world.lost(control)
        assert (lost.peer, lost.code) == (world.me.id, "protocol")


async def test_activations_that_are_no_numbers(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        ring = await world.attach(request)
        await ring.send(pb.ToNext(activations=GOOD), b"\xff" * (2 * HIDDEN * 4))
        lost = await world.lost(control)
        assert (lost.peer, lost.code) == (world.me.id, "generation")
        assert "no numbers" in lost.message


async def test_a_token_on_the_ring_where_hidden_states_are_due(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        ring = await world.attach(request)
        await ring.send(pb.ToNext(token=pb.Token(position=0, token=1)))
        assert (await world.lost(control)).code == "protocol"


async def test_a_neighbour_that_leaves_is_named(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        control, request = await world.open()
        ring = await world.attach(request)
        await ring.aclose()
        assert (await world.lost(control)).peer == world.me.id


async def test_after_the_nonsense_the_host_serves_on(tmp_path: Path) -> None:
    prompt = [5, 40, 17]
    async with raw(tmp_path) as world:
        control, request = await world.open()
        ring = await world.attach(request)
        await ring.send(pb.ToNext(activations=GOOD), b"\xff" * (2 * HIDDEN * 4))
        await world.lost(control)
        model = await world.me.client().load(world.link)
        assert await model.generate(prompt, max_new_tokens=5) == tiny.expected("llama", prompt, 5)


async def test_a_stage_that_is_asked_says_how_far_it_is(tmp_path: Path) -> None:
    async with raw(tmp_path) as world:
        assert (await world.answer(pb.ToStage(ping=pb.Ping()))).HasField("pong")
        control, _ = await world.open(FIRST, next=world.host.id)
        await control.send(pb.ToStage(ping=pb.Ping()))
        answer, _ = await control.receive(pb.FromStage)
        assert (answer.pong.received, answer.pong.done) == (0, 0)


# ---- records


def model(**changed: object) -> wire.ModelRecord:
    values: dict[str, object] = {
        "link": Link("magnet:a"),
        "name": "tiny",
        "layer_count": 6,
        "stages_wanted": 3,
        "architecture": "LlamaForCausalLM",
    }
    return wire.ModelRecord(**(values | changed))  # type: ignore[arg-type]


def record(value: bytes, signer: str = "a") -> Record:
    return Record("models", PeerId(signer), value, 1, 1e12)


def test_models_go_there_and_back() -> None:
    models = (model(), model(link=Link("magnet:b"), stages_wanted=1))
    assert wire.decode_models(record(wire.encode_models(models))) == models


@pytest.mark.parametrize(
    "changed",
    [{"stages_wanted": 7}, {"stages_wanted": 0}, {"layer_count": 2**20}, {"name": "n" * 2000}, {"link": "l" * 600}],
)
def test_models_that_no_honest_peer_announces(changed: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        wire.decode_models(record(wire.encode_models([model(**changed)])))


def test_too_many_models() -> None:
    with pytest.raises(RecordError):
        wire.decode_models(record(wire.encode_models([model()] * 17)))


def test_one_bad_record_hides_no_other_and_the_first_signer_is_believed() -> None:
    records = [
        record(wire.encode_models([model(name="second")]), "b"),
        record(b"\xff\xff", "0"),
        record(wire.encode_models([model(name="first")]), "a"),
    ]
    found = wire.find_model(records, Link("magnet:a"))
    assert found is not None
    assert found.name == "first"
    assert wire.find_model(records, Link("magnet:z")) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_models_or_a_record_error(value: bytes) -> None:
    try:
        found = wire.decode_models(record(value))
    except RecordError:
        return
    assert all(1 <= each.stages_wanted <= each.layer_count for each in found)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_open_request_or_a_protocol_error(value: bytes) -> None:
    try:
        found = wire.decode_open(pb.Open.FromString(value), PeerId("a"))
    except (ProtocolError, DecodeError):
        return
    assert found.span.start < found.span.stop
    assert found.index < found.stages


def test_an_open_request_goes_there_and_back() -> None:
    request = wire.OpenRequest(
        b"i" * 16,
        Link("magnet:a"),
        LayerSpan(2, 4),
        1,
        3,
        PeerId("p"),
        PeerId("n"),
        100,
        SamplingOptions(0.5, 3, 0.75, 7),
        frozenset({1, 2}),
        b"pay",
    )
    assert wire.decode_open(wire.encode_open(request).open, PeerId("c")) == request
