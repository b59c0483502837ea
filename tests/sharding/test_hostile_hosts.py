"""A caller is told nonsense by a host: it blames that host, goes elsewhere, and never takes memory for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hivemind_p2p.errors import HivemindError
from hivemind_p2p.interfaces import Channel
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import wire
from hivemind_p2p.sharding.caller import GenerationRun, Model, Patience
from hivemind_p2p.sharding.generation import GenerationState
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, StageOffer
from tests.sharding import fakes, ringside

Answer = Callable[[Channel], Awaitable[None]]
PROMPT = [5, 40, 17]


def serve(hive: fakes.Hive, answer: Answer) -> None:
    """The first host offers the whole model and answers like this."""
    liar = hive.hosts[0]
    span = LayerSpan(0, ringside.LAYERS)
    hive.world.offers[liar.id] = replace(
        hive.world.offers[liar.id], stages=(StageOffer(ringside.LINK, span, ready=True),), serves_models=False
    )

    async def handle(channel: Channel) -> None:
        message, _ = await channel.receive(pb.ToStage, max_payload=2**20)
        if message.HasField("open"):
            await answer(channel)

    liar.network.serve(wire.PROTOCOL, handle)


def opening(*messages: pb.FromStage, payload: bytes = b"") -> Answer:
    """Opens, waits for the Feed, and says these things."""

    async def answer(channel: Channel) -> None:
        await channel.send(pb.FromStage(opened=pb.Opened()))
        await channel.receive(pb.ToStage)
        for message in messages:
            await channel.send(message, payload)
        await trio.sleep(60)

    return answer


def token(**values: object) -> pb.FromStage:
    return pb.FromStage(token=pb.Token(**({"position": 3, "tokens": [1]} | values)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        pb.FromStage(),
        pb.FromStage(opened=pb.Opened()),
        pb.FromStage(hosting=pb.Hosting()),
        pb.FromStage(rows=pb.Rows(position=2, count=1, width=4)),
        token(position=7),
        token(tokens=[]),
        token(tokens=[1] * 30),
        token(tokens=[1, 2]),
        token(log_probabilities=[0.5, 0.5]),
        token(likeliest=[pb.Likeliest(tokens=[1] * 100, log_probabilities=[0.0] * 100)]),
        token(likeliest=[pb.Likeliest(tokens=[1])]),
        pb.FromStage(lost=pb.Lost(peer="somebody else", code="no such code", message="m" * 5000)),
        pb.FromStage(receipt=pb.Receipt(receipt=b"unasked")),
    ],
)
async def test_what_no_honest_stage_says(message: pb.FromStage, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, (0, 6), (0, 6)) as ring:
        serve(ring.hive, opening(*[message] * 20))
        ring.hive.world.offers[ring.hive.hosts[0].id] = replace(ring.hive.world.offers[ring.hive.hosts[0].id])
        liar = ring.hive.hosts[0].id
        others = {peer: offer for peer, offer in ring.hive.world.offers.items() if peer != liar}
        caller_offers = dict(ring.hive.world.offers)
        ring.hive.world.offers.clear()
        ring.hive.world.offers[liar] = caller_offers[liar]
        run = ring.run(PROMPT, 5, patience=Patience(stall=5, wait_for_hosts=5))
        written: list[int] = []

        async def read(found: int) -> bool:
            written.append(found)
            return True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.run, read)
            await ringside.until(lambda: run.attempts == 2)
            ring.hive.world.offers.update(others)
        assert written == ringside.expected(PROMPT, 5)


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        (pb.Rows(position=2, count=1, width=97), 4),
        (pb.Rows(position=1, count=1, width=97), 4 * 97),
        (pb.Rows(position=2, count=2, width=97), 8 * 97),
        (pb.Rows(position=2, count=0, width=97), 4),
        (pb.Rows(position=2, count=2**31, width=2**31), 4),
    ],
)
async def test_rows_that_were_not_asked_for(rows: pb.Rows, size: int, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, (0, 6)) as ring:
        serve(ring.hive, opening(*[pb.FromStage(rows=rows)] * 20, payload=bytes(size)))
        async with ring.rows(pb.LOGITS) as found:
            with pytest.raises(HivemindError):
                await found.feed(0, PROMPT)


async def test_a_flood_of_rows_waits_on_the_wire(tmp_path: Path) -> None:
    sent = 0

    async def answer(channel: Channel) -> None:
        nonlocal sent
        await channel.send(pb.FromStage(opened=pb.Opened()))
        await channel.receive(pb.ToStage)
        while True:
            await channel.send(pb.FromStage(rows=pb.Rows(position=2, count=1, width=97)), bytes(4 * 97))
            sent += 1
            await channel.send(pb.FromStage(rows=pb.Rows(position=3, count=1, width=97)), bytes(2**20))

    async with ringside.ringside(tmp_path, (0, 6)) as ring:
        serve(ring.hive, answer)
        async with ring.rows(pb.LOGITS) as found:
            await found.feed(0, PROMPT)
            await trio.testing.wait_all_tasks_blocked()
            assert sent < 10


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), max_size=5), st.binary(max_size=40))
def test_any_bytes_from_a_host_end_in_an_error_of_our_own(messages: list[bytes], payload: bytes) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = fakes.World()
            me = fakes.Peer(world, Path("."), nursery, 1, serves=False, memory=0, paid=False)
            host = fakes.Peer(world, Path("."), nursery, 2, serves=False, memory=0, paid=False)
            me.learn(host, world)
            parsed = []
            for each in messages:
                try:
                    parsed.append(pb.FromStage.FromString(each))
                except Exception:
                    parsed.append(pb.FromStage(token=pb.Token(position=3, tokens=each[:20])))
            serve(fakes.Hive(world, me, [host]), opening(*parsed, pb.FromStage(), payload=payload))
            model = Model(ringside.LINK, ringside.LAYERS, 100, frozenset())
            state = GenerationState(PROMPT, 3)
            run = GenerationRun(
                me.network, me.offers, None, model, state, SamplingOptions(), Patience(wait_for_hosts=0.0)
            )

            async def read(_: int) -> bool:
                return True

            try:
                with trio.fail_after(5):
                    await run.run(read)
            except HivemindError:
                assert len(state.written) < 3
            nursery.cancel_scope.cancel()

    trio.run(main)
