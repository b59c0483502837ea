"""Generations over the ring: exact, batched, in chunks, and unmoved by what happens to a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from hivemind_p2p.errors import GenerationError, HivemindError, MissingLayersError
from hivemind_p2p.sharding import batching
from hivemind_p2p.sharding.caller import Patience
from hivemind_p2p.types import LayerSpan, StageOffer
from tests.sharding import ringside

PROMPT = [5, 40, 17, 3, 88, 61]
NEW = 40
THREE = ((0, 2), (2, 4), (4, 6))


async def test_three_stages_write_what_one_does(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        assert await ring.write(PROMPT, NEW) == ringside.expected(PROMPT, NEW)
        await ring.idle()


async def test_one_stage_is_its_own_neighbour(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, (0, 6)) as ring:
        assert await ring.write(PROMPT, NEW) == ringside.expected(PROMPT, NEW)


async def test_many_generations_at_once_share_steps_and_frames(tmp_path: Path) -> None:
    prompts = [[number + 1, 7 * number % 90, 3] for number in range(8)]
    async with ringside.ringside(tmp_path, (0, 3), (3, 6)) as ring:
        written: dict[int, list[int]] = {}

        async def write(number: int) -> None:
            written[number] = await ring.write(prompts[number], NEW)

        for engine in ring.engines:
            engine.gate.clear()
        async with trio.open_nursery() as nursery:
            for number in range(len(prompts)):
                nursery.start_soon(write, number)
            await ringside.until(lambda: sum(host.statistics().sessions for host in ring.hive.living()) == 16)
            for engine in ring.engines:
                engine.gate.set()
        assert written == {number: ringside.expected(prompt, NEW) for number, prompt in enumerate(prompts)}
        figures = [host.statistics() for host in ring.hive.living()]
        assert all(1.5 < each.batched <= 4.5 for each in figures), "two groups of four, so that both stages work"
        assert all(each.frames < each.entries for each in figures)
        assert all(each.loop_stall > 0 for each in figures)


async def test_a_long_prompt_crosses_the_stages_in_chunks(tmp_path: Path) -> None:
    prompt = [(7 * number) % 90 for number in range(2500)]
    async with ringside.ringside(tmp_path, *THREE) as ring:
        assert await ring.write(prompt, 5) == ringside.expected(prompt, 5)
        for engine in ring.engines:
            assert max(rows for step in engine.steps for _, rows in step) <= batching.LARGEST_STEP


async def test_a_stage_is_never_far_ahead_of_the_next(tmp_path: Path) -> None:
    prompt = [(7 * number) % 90 for number in range(4000)]
    async with ringside.ringside(tmp_path, *THREE) as ring:
        ring.engines[1].gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ring.write, prompt, 1)
            await ringside.until(lambda: sum(rows for step in ring.engines[0].steps for _, rows in step) >= 1024)
            await trio.sleep(0.05)
            assert sum(rows for step in ring.engines[0].steps for _, rows in step) <= 1024
            ring.engines[1].gate.set()


async def test_decoders_go_on_beside_a_long_prompt(tmp_path: Path) -> None:
    prompt = [(7 * number) % 90 for number in range(3000)]
    async with ringside.ringside(tmp_path, (0, 3), (3, 6)) as ring:
        texts: list[list[int]] = [[], []]

        async def read(token: int) -> bool:
            texts[0].append(token)
            if len(texts[0]) == 5:
                nursery.start_soon(write)
            return True

        async def write() -> None:
            texts[1] = await ring.write(prompt, 3)

        async with trio.open_nursery() as nursery:
            await ring.run(PROMPT, 60).run(read)
        assert texts == [ringside.expected(PROMPT, 60), ringside.expected(prompt, 3)]
        assert any(len(step) == 2 for step in ring.engines[0].steps), "in one step"


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_stage_that_dies_is_replaced(victim: int, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, THREE[victim]) as ring:
        used = _used(ring, victim, 3)
        assert await _write_until(ring, 10, lambda: ring.hive.world.kill(ring.hive.hosts[used()].id))
        await ring.idle()


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_stage_that_writes_nonsense_is_left(victim: int, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, THREE[victim]) as ring:
        used = _used(ring, victim, 3)
        assert await _write_until(ring, 10, lambda: setattr(ring.engines[used()], "poisoned", True))


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_stage_that_falls_silent_is_left(victim: int, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, THREE[victim]) as ring:
        used = _used(ring, victim, 3)
        assert await _write_until(ring, 10, lambda: ring.hive.world.network.partition([{ring.hive.hosts[used()].id}]))


async def test_two_deaths(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, *THREE) as ring:
        dead = iter((0, 2))

        def kill() -> None:
            number = next(dead)
            host = max((number, number + 3), key=lambda each: len(ring.engines[each].steps))
            ring.hive.world.kill(ring.hive.hosts[host].id)

        assert await _write_until(ring, 10, kill, again_at=25)


async def test_a_stage_that_computes_for_long_is_waited_for(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        run = ring.run(PROMPT, 3, patience=Patience(stall=0.02, wait_for_hosts=0.1))
        ring.engines[1].gate.clear()
        written: list[int] = []

        async def read(token: int) -> bool:
            written.append(token)
            return True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.run, read)
            await trio.sleep(1.0)
            ring.engines[1].gate.set()
        assert written == ringside.expected(PROMPT, 3)
        assert run.attempts == 1


async def test_nobody_left_names_the_missing_layers(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        with pytest.raises(MissingLayersError, match="layers 2-3"):
            await _write_until(ring, 10, lambda: ring.hive.world.kill(ring.hive.hosts[1].id))


async def test_nonsense_everywhere_says_so_and_others_go_on(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        ring.engines[2].poisoned = True
        with pytest.raises(GenerationError, match="no numbers"):
            await ring.write(PROMPT, 4)
        ring.engines[2].poisoned = False
        assert await ring.write(PROMPT, 4) == ringside.expected(PROMPT, 4)


async def test_a_peer_that_offers_layers_which_it_does_not_have(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, THREE[1]) as ring:
        real, liar = 1, 3
        ring.hive.hosts[liar].service.host.stages.clear()
        offers, name = ring.hive.world.offers, ring.hive.hosts[liar].id
        offers[name] = replace(offers[name], weight_bytes_per_second=10**15)  # who lies about layers lies about speed
        run = ring.run(PROMPT, 5)
        written: list[int] = []

        async def read(token: int) -> bool:
            written.append(token)
            return True

        await run.run(read)
        assert written == ringside.expected(PROMPT, 5)
        assert run.attempts == 2
        ring.hive.hosts[real].service.host.stages.clear()
        with pytest.raises(HivemindError, match="does not host layers 2-3"):
            await ring.write(PROMPT, 5)


async def test_a_route_may_use_parts_of_what_is_hosted(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, (0, 6), (0, 6)) as ring:
        for host, engine in zip(ring.hive.hosts, ring.engines, strict=True):
            service, offer = host.service, ring.hive.world.offers[host.id]
            service.host.find = lambda link, span, service=service: next(iter(service.host.stages.values()))
            span = LayerSpan(0, 2) if engine is ring.engines[0] else LayerSpan(2, 6)
            ring.hive.world.offers[host.id] = replace(offer, stages=(StageOffer(ringside.LINK, span, ready=True),))
        assert await ring.write(PROMPT, 10) == ringside.expected(PROMPT, 10)
        assert [len(engine.steps) for engine in ring.engines] == [0, 0]
        assert [list(engine.parts) for engine in ring.engines] == [[LayerSpan(0, 2)], [LayerSpan(2, 6)]]
        await ring.idle()


@pytest.mark.parametrize("forgetful", [None, 0, 2])
async def test_what_all_stages_have_in_a_cache_is_not_computed_again(forgetful: int | None, tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        for number, engine in enumerate(ring.engines):
            engine.remembers = number != forgetful
        first = await ring.write(PROMPT, 10)
        await ring.idle()
        for engine in ring.engines:
            engine.steps.clear()
        assert await ring.write(PROMPT, 10) == first == ringside.expected(PROMPT, 10)
        computed = {sum(rows for step in engine.steps for _, rows in step) for engine in ring.engines}
        assert computed == {10 if forgetful is None else len(PROMPT) + 9}, "one row of the prompt gives the first token"


async def test_a_host_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, THREE[1]) as ring:
        late = max((1, 3), key=lambda each: ring.hive.hosts[each].id)
        early = 4 - late
        offer = ring.hive.world.offers.pop(ring.hive.hosts[late].id)
        run = ring.run(PROMPT, NEW, patience=Patience(wait_for_hosts=10))
        written: list[int] = []

        async def come() -> None:
            await ringside.until(lambda: run.attempts == 2)
            await trio.sleep(0.05)
            ring.hive.world.offers[ring.hive.hosts[late].id] = offer

        async def read(token: int) -> bool:
            written.append(token)
            if len(written) == 10:
                ring.hive.world.kill(ring.hive.hosts[early].id)
            return True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await run.run(read)
        assert written == ringside.expected(PROMPT, NEW)


async def test_a_given_up_stage_ends_its_thread_once_nobody_uses_it(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, (0, 6)) as ring:
        service = ring.hive.hosts[0].service

        async def read(_: int) -> bool:
            service.host.stages.clear()
            return True

        await ring.run(PROMPT, 5).run(read)
        await ring.idle()
        assert service.statistics().steps == 5
        assert not service._engines


async def test_no_room_is_said_and_others_go_on(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        ring.engines[1].room = 60
        written: list[int] = []

        async def read(token: int) -> bool:
            written.append(token)
            if len(written) == 5:
                with pytest.raises(HivemindError, match="no room for 46 tokens"):
                    await ring.write(PROMPT, NEW)
            return True

        await ring.run(PROMPT, NEW).run(read)
        assert written == ringside.expected(PROMPT, NEW)
        await ring.idle()


async def test_a_reader_that_leaves_frees_everything(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:

        async def read(_: int) -> bool:
            return False

        await ring.run(PROMPT, NEW).run(read)
        await ring.idle()


async def test_a_caller_that_dies_frees_everything(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE) as ring:
        with pytest.raises(HivemindError):
            await _write_until(ring, 10, lambda: ring.hive.world.kill(ring.hive.caller.id))
        await ring.idle()


async def test_an_end_token_ends_the_text(tmp_path: Path) -> None:
    whole = ringside.expected(PROMPT, NEW)
    async with ringside.ringside(tmp_path, *THREE) as ring:
        written = await ring.write(PROMPT, NEW, ends=frozenset({whole[12]}))
        assert written == whole[: whole.index(whole[12]) + 1]


async def test_each_stage_is_paid_for_its_layers_and_tokens(tmp_path: Path) -> None:
    async with ringside.ringside(tmp_path, *THREE, paid=True) as ring:
        run = ring.run(PROMPT, NEW)

        async def read(_: int) -> bool:
            return True

        await run.run(read)
        # The last new token is never computed on.
        assert run.cost == ringside.LAYERS * (len(PROMPT) + NEW - 1)
        assert sum(host.earner.earned for host in ring.hive.hosts) == run.cost
        assert ring.hive.caller.payer.reserved == 0


def _used(ring: ringside.Ringside, victim: int, spare: int):
    """Which of the two hosts of a span is the one that works."""
    return lambda: max((victim, spare), key=lambda each: len(ring.engines[each].steps))


async def _write_until(ring: ringside.Ringside, at: int, happen, *, again_at: int | None = None) -> bool:
    """Writes, lets something happen in the middle, and says whether the text is right and a route was lost."""
    written: list[int] = []
    run = ring.run(PROMPT, NEW)

    async def read(token: int) -> bool:
        written.append(token)
        if len(written) in {at, again_at}:
            happen()
        return True

    await run.run(read)
    assert written == ringside.expected(PROMPT, NEW)
    return run.attempts == (2 if again_at is None else 3)
