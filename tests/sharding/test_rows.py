"""Client mode: rows of logits and hidden states for texts that their caller makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hivemind_p2p.errors import HivemindError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.chunks import Chunk
from hivemind_p2p.sharding.computation import Made
from hivemind_p2p.sharding.session import StageSession
from hivemind_p2p.types import LayerSpan
from tests.sharding import ringside

TEXT = [5, 40, 17, 3, 88, 61, 2, 9]
THREE = ((0, 2), (2, 4), (4, 6))


def close(found: np.ndarray, text: list[int], rows: int, *, logits: bool = True) -> None:
    whole = ringside.whole_rows(text, logits=logits).numpy()
    np.testing.assert_allclose(found, whole[len(whole) - rows :], rtol=1e-4, atol=1e-4)


async def test_logits_of_any_of_the_last_tokens(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        async with ring.rows(pb.LOGITS) as rows:
            close(await rows.feed(0, TEXT[:5], rows=5), TEXT[:5], 5)
            close(await rows.feed(5, TEXT[5:], rows=1), TEXT, 1)
        await ring.idle()


async def test_a_position_below_takes_the_text_back(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.LOGITS) as rows:
        await rows.feed(0, TEXT)
        other = [*TEXT[:3], 70, 71]
        close(await rows.feed(3, [70, 71], rows=2), other, 2)
        close(await rows.feed(5, [33]), [*other, 33], 1)
        assert list(rows.text) == [*other, 33]


async def test_hidden_states(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.HIDDEN) as rows:
        close(await rows.feed(0, TEXT, rows=8), TEXT, 8, logits=False)


def behind(text: list[int], layers: int) -> np.ndarray:
    """What the first layers make of each token."""
    engine = ringside.ToyEngine(LayerSpan(0, layers))
    engine.open("whole", ringside.CONTEXT)
    (output,) = engine.run([Chunk("whole", 0, torch.tensor(text))])
    assert output.hidden is not None
    return output.hidden.numpy()


async def test_hidden_states_of_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.rows.PREFILL_CHUNK", 100)
    long = [(7 * number) % 90 for number in range(330)]
    async with ringside.ringside(tmp_path, (0, 1), (1, 4), (4, 6)) as ring:
        async with ring.rows(pb.STATES, room=400) as rows:
            found = await rows.states(0, long, rows=250)
            assert sorted(found) == [0, 1, 4, 6]
            for layers in (1, 4, 6):
                np.testing.assert_allclose(found[layers], behind(long, layers)[80:], rtol=1e-4, atol=1e-4)
            close(found[0], long, 250)
            assert sorted(await rows.states(330, [4, 5])) == [0, 1, 4, 6]
            with pytest.raises(ValueError, match="no tokens"):
                await rows.states(332, [])
        await ring.idle()


async def test_a_stage_that_sends_what_it_was_not_asked_for_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.STATES) as rows:
        sent = StageSession._say_rows

        def another_layer(self: StageSession, made: Made) -> None:
            for header, _ in made.rows:
                header.layer = 2 if header.layer == 4 else header.layer
            sent(self, made)

        monkeypatch.setattr(StageSession, "_say_rows", another_layer)
        with pytest.raises(HivemindError, match="rows of layer 2, which it does not have"):
            await rows.states(0, TEXT)


async def test_a_caller_that_takes_no_rows_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.session.MOST_UNTOLD_BYTES", 100)
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.STATES) as rows:
        with pytest.raises(HivemindError):
            await rows.states(0, TEXT, rows=8)


async def test_each_text_of_an_encoder_stands_alone(tmp_path: Path) -> None:
    long = [(7 * number) % 90 for number in range(700)]
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.EMBED, room=800, budget=2000) as rows:
        for engine in ring.engines:
            engine.encoder = True
        for text in (TEXT, TEXT[::-1], long):
            close(await rows.feed(0, text, rows=len(text)), text, len(text), logits=False)
        assert all(len(step) == 1 and step[0][1] in {8, 700} for step in ring.engines[1].steps), "never in parts"


async def test_many_rows_of_a_long_text_come_in_several_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.computation.ROWS_MESSAGE_BYTES", 4 * ringside.VOCABULARY * 50)
    long = [(7 * number) % 90 for number in range(1300)]
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.LOGITS, room=1400) as rows:
        close(await rows.feed(0, long, rows=900), long, 900)


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_stage_that_dies_is_replaced(victim: int, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, THREE[victim]) as ring, ring.rows(pb.LOGITS) as rows:
        close(await rows.feed(0, TEXT[:5], rows=1), TEXT[:5], 1)
        used = max((victim, 3), key=lambda each: len(ring.engines[each].steps))
        ring.hive.world.kill(ring.hive.hosts[used].id)
        close(await rows.feed(5, TEXT[5:], rows=3), TEXT, 3)


async def test_nobody_left_says_so(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.LOGITS) as rows:
        await rows.feed(0, TEXT)
        ring.hive.world.kill(ring.hive.hosts[1].id)
        with pytest.raises(HivemindError, match="layers 2-3"):
            await rows.feed(8, [1])


async def test_what_cannot_be_fed(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.LOGITS) as rows:
        for position, tokens, wanted in [(1, [1], 1), (0, [], 0), (0, [1], 2), (-1, [1], 1)]:
            with pytest.raises(ValueError, match="cannot be had"):
                await rows.feed(position, tokens, rows=wanted)


async def test_many_rows_are_made_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.pieces.ROWS_BYTES", 4 * ringside.VOCABULARY * 100)
    long = [(7 * number) % 90 for number in range(1000)]
    async with ringside.ringside(tmp_path, *THREE) as ring, ring.rows(pb.LOGITS, room=1200) as rows:
        close(await rows.feed(0, long, rows=1000), long, 1000)
        assert max(count for step in ring.engines[2].steps for _, count in step) <= 100


async def test_rows_are_paid(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, paid=True) as ring:
        async with ring.rows(pb.LOGITS, room=20, budget=12) as rows:
            await rows.feed(0, TEXT)
            await rows.feed(6, [1, 2])
        assert rows.cost == ringside.LAYERS * 10
        assert ring.hive.caller.payer.reserved == 0
