"""Whole generations over peers of the memory network: exact, paid, and unmoved by a peer's death."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from hivemind_p2p.errors import (
    BootstrapUnreachableError,
    CheckpointError,
    ConfigurationError,
    CreditError,
    GenerationError,
    MissingLayersError,
    PaymentRequiredError,
    PromptTooLongError,
)
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding import hosting, legs, route
from hivemind_p2p.sharding.model import LoadProgress, RemoteModel
from hivemind_p2p.types import Link
from tests.sharding import fakes, ringside, tiny

PROMPT = [5, 40, 17, 80, 3, 9, 33, 61, 7, 22, 91, 14]
NEW = 60


@asynccontextmanager
async def loaded(
    tmp_path: Path,
    *,
    family: str = "llama",
    stages: int | None = None,
    stall: float = 5.0,
    wait: float = 20.0,
    **options: Any,
) -> AsyncIterator[tuple[fakes.Hive, RemoteModel, Link]]:
    """A hive in which a tiny model has hosts."""
    folder = tmp_path / family
    if not folder.exists():
        tiny.save(family, folder)
    async with fakes.hive(tmp_path, **options) as hive:
        client = hive.caller.client(stall=stall, wait_for_hosts=wait)
        link = await client.publish(folder, stages=stages)
        yield hive, await client.load(link, timeout=30), link


@pytest.fixture(autouse=True)
def short_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed peer of the memory network answers nobody, where a socket would refuse at once."""
    monkeypatch.setattr(legs, "PING_DEADLINE", 0.2)
    monkeypatch.setattr(hosting, "PING_DEADLINE", 0.2)


async def idle(hive: fakes.Hive) -> None:
    """Waits until no host holds a generation any more."""
    with trio.fail_after(5):
        while any(host.statistics().sessions for host in hive.living()):
            await trio.lowlevel.checkpoint()


async def write_and_kill(hive: fakes.Hive, model: RemoteModel, victim: fakes.Peer, after: int = 5) -> list[int]:
    """The prompt and NEW tokens, a peer being killed after some."""
    written = list(PROMPT)
    async with model.stream(PROMPT, max_new_tokens=NEW) as tokens:
        async for token in tokens:
            written.append(token)
            if len(written) == len(PROMPT) + after:
                hive.world.kill(victim.id)
    return written


@pytest.mark.parametrize("family", tiny.FAMILIES)
async def test_three_peers_write_what_one_process_writes(family: str, tmp_path: Path) -> None:
    async with loaded(tmp_path, family=family) as (hive, model, _):
        assert await model.generate(PROMPT, max_new_tokens=12) == tiny.expected(family, PROMPT, 12)
        assert [len(host.host.stages) for host in hive.living()] == [1, 1, 1]
        assert model.name == family


async def test_one_peer_hosts_all_stages_and_speaks_to_itself(tmp_path: Path) -> None:
    async with loaded(tmp_path, hosts=1, stages=3) as (hive, model, _):
        assert [len(host.host.stages) for host in hive.living()] == [3]
        assert await model.generate(PROMPT, max_new_tokens=8) == tiny.expected("llama", PROMPT, 8)


async def test_one_stage_is_first_and_last(tmp_path: Path) -> None:
    async with loaded(tmp_path, hosts=1) as (_, model, _):
        assert await model.generate(PROMPT, max_new_tokens=8) == tiny.expected("llama", PROMPT, 8)


async def test_a_long_prompt_comes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.pieces.PREFILL_CHUNK", 5)
    async with loaded(tmp_path, family="gemma2") as (_, model, _):
        assert await model.generate(PROMPT, max_new_tokens=8) == tiny.expected("gemma2", PROMPT, 8)


async def test_peers_fetch_only_what_their_layers_need(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (hive, _, _):
        opened = checkpoints.open_folder(tmp_path / "llama")
        header = opened.headers[checkpoints.SINGLE]
        for host in hive.hosts:
            (span,) = [stage.span for stage in hive.world.offers[host.id].stages]
            weights = [part for part in host.content.fetched[checkpoints.SINGLE] if part.start >= header]
            allowed = opened.ranges(span)[checkpoints.SINGLE]
            assert weights
            assert all(any(own.start <= part.start and part.stop <= own.stop for own in allowed) for part in weights)
        assert checkpoints.SINGLE not in hive.caller.content.fetched, "a caller needs no weights"


@pytest.mark.parametrize("layer", [0, 2, 4])
async def test_a_peer_that_dies_is_replaced_and_the_text_goes_on(layer: int, tmp_path: Path) -> None:
    async with loaded(tmp_path) as (hive, model, link):
        written = await write_and_kill(hive, model, hive.host_of(link, layer))
        assert written == tiny.expected("llama", PROMPT, NEW)
        assert all(host.statistics().generations > 1 for host in hive.living()), "the peer died too late to matter"


async def test_two_deaths_one_after_the_other(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (hive, model, link):
        victims = [hive.host_of(link, 0), hive.host_of(link, 4)]
        written = list(PROMPT)
        async with model.stream(PROMPT, max_new_tokens=NEW) as tokens:
            async for token in tokens:
                written.append(token)
                if len(written) in {len(PROMPT) + 5, len(PROMPT) + 15}:
                    hive.world.kill(victims.pop().id)
        assert written == tiny.expected("llama", PROMPT, NEW)


async def test_a_seed_draws_the_same_text_with_and_without_a_death(tmp_path: Path) -> None:
    options = {"max_new_tokens": NEW, "temperature": 1.3, "top_k": 40, "top_p": 0.95, "seed": 11}
    async with loaded(tmp_path) as (hive, model, link):
        calm = await model.generate(PROMPT, **options)
        assert calm != await model.generate(PROMPT, **(options | {"seed": 12}))
        written = list(PROMPT)
        async with model.stream(PROMPT, **options) as tokens:
            async for token in tokens:
                written.append(token)
                if len(written) == len(PROMPT) + 5:
                    hive.world.kill(hive.host_of(link, 2).id)
        assert written == calm


async def test_a_peer_that_falls_silent_is_left(tmp_path: Path) -> None:
    async with loaded(tmp_path, stall=0.3) as (hive, model, link):
        victim = hive.host_of(link, 2)
        written = list(PROMPT)
        async with model.stream(PROMPT, max_new_tokens=NEW) as tokens:
            async for token in tokens:
                written.append(token)
                if len(written) == len(PROMPT) + 5:
                    hive.world.network.partition([{victim.id}])
        assert written == tiny.expected("llama", PROMPT, NEW)


async def test_nobody_left_names_the_missing_layers(tmp_path: Path) -> None:
    async with loaded(tmp_path, hosts=1, wait=0.3) as (hive, model, _):
        with pytest.raises(MissingLayersError, match="layers 0-4"):
            await write_and_kill(hive, model, hive.hosts[0])


async def test_loading_without_hosts_names_the_missing_layers(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path, hosts=0) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        told: list[LoadProgress] = []
        with pytest.raises(MissingLayersError, match="layers 0-4"):
            await client.load(link, timeout=0.1, progress=told.append)
        assert told[-1].fraction == 0
        assert "layers 0-4" in told[-1].missing


async def test_loading_tells_how_far_it_is(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        told: list[LoadProgress] = []
        await client.load(link, timeout=30, progress=told.append)
        assert told[-1].fraction == 1
        assert told[-1].text.startswith("5 of 5 layers")
        assert any("fetching layers" in progress.text or "loading layers" in progress.text for progress in told)
        assert all(first.layers_ready <= second.layers_ready for first, second in pairwise(told))


async def test_too_little_memory_says_so(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path, hosts=1, memory=10_000) as hive:
        client = hive.caller.client()
        link = await client.publish(tiny.save("llama", tmp_path / "llama"))
        with pytest.raises(MissingLayersError, match="no room for the weights"):
            await client.load(link, timeout=0.5)
        assert hive.world.offers[hive.hosts[0].id].stages == (), "a claim that came to nothing is taken back"
        assert hive.hosts[0].service.statistics().memory_used == 0


async def test_a_generation_that_does_not_fit_says_so_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.market.WEIGHT_PART", 1.0)
    tiny.save("llama", tmp_path / "llama")
    weights = checkpoints.open_folder(tmp_path / "llama").weight_bytes(fakes.ALL)
    cache = 5 * 2 * 2 * 8 * 4
    async with loaded(tmp_path, hosts=1, memory=weights + 40 * cache, wait=0.1) as (_, model, _):
        with pytest.raises(MissingLayersError, match="no room for 72 tokens"):
            await model.generate(PROMPT, max_new_tokens=NEW)
    async with loaded(tmp_path, hosts=1, memory=weights + 40 * cache) as (_, model, _):
        assert len(await model.generate(PROMPT, max_new_tokens=8)) == len(PROMPT) + 8


async def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = tiny.save("llama", tmp_path / "llama") / checkpoints.SINGLE
    tensors = load_file(weights)
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, weights)
    async with fakes.hive(tmp_path, hosts=1) as hive:
        client = hive.caller.client()
        link = await client.publish(tmp_path / "llama")
        with pytest.raises(MissingLayersError, match="no numbers"):
            await client.load(link, timeout=0.5)
        assert hive.hosts[0].service.statistics().memory_used == 0


async def test_a_reader_that_leaves_frees_everything(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (hive, model, _):
        before = [host.statistics().memory_used for host in hive.living()]
        async with model.stream(PROMPT, max_new_tokens=100) as tokens:
            async for _ in tokens:
                assert any(host.statistics().sessions for host in hive.living())
                break
        await idle(hive)
        await ringside.until(lambda: [host.statistics().memory_used for host in hive.living()] == before)


async def test_a_caller_that_dies_frees_everything(tmp_path: Path) -> None:
    async with loaded(tmp_path, wait=0.1) as (hive, model, _):
        with pytest.raises((GenerationError, MissingLayersError)):
            await write_and_kill(hive, model, hive.caller)
        await idle(hive)


async def test_each_stage_is_paid_for_its_layers_and_tokens(tmp_path: Path) -> None:
    async with loaded(tmp_path, paid=True) as (hive, model, _):
        async with model.stream(PROMPT, max_new_tokens=8) as tokens:
            _ = [token async for token in tokens]
        # The last new token is never computed on.
        assert tokens.cost == model.cost == 5 * (len(PROMPT) + 7)
        assert sum(host.earner.earned for host in hive.hosts) == model.cost
        assert all(host.earner.earned for host in hive.hosts)
        assert hive.caller.payer.reserved == 0
        assert [host.earner.reserved for host in hive.hosts] == [0] * len(hive.hosts)


async def test_after_a_death_the_others_are_paid_for_both_routes(tmp_path: Path) -> None:
    async with loaded(tmp_path, paid=True) as (hive, model, link):
        written = await write_and_kill(hive, model, hive.host_of(link, 2))
        assert len(written) == len(PROMPT) + NEW
        await idle(hive)
        assert sum(host.earner.earned for host in hive.hosts) == model.cost > 5 * (len(PROMPT) + NEW - 1)
        assert hive.caller.payer.reserved == 0, "what the dead stage was promised is free again"


async def test_a_caller_without_funds(tmp_path: Path) -> None:
    async with loaded(tmp_path, paid=True) as (hive, model, _):
        hive.caller.payer.funds = 1
        with pytest.raises(CreditError, match="does not cover"):
            await model.generate(PROMPT, max_new_tokens=4)
        hive.caller.payer.down = True
        with pytest.raises(BootstrapUnreachableError):
            await model.generate(PROMPT, max_new_tokens=4)
        await idle(hive)
        assert hive.caller.payer.reserved == 0


async def test_a_caller_without_an_account(tmp_path: Path) -> None:
    async with loaded(tmp_path, paid=True) as (hive, _, link):
        hive.caller.payer = None
        model = await hive.caller.client().load(link)
        with pytest.raises(PaymentRequiredError):
            await model.generate(PROMPT, max_new_tokens=4)


async def test_text_in_text_out(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (_, model, _):
        ids = list(model.tokenizer.encode("print(x").ids)
        whole = model.tokenizer.decode(tiny.expected("llama", ids, 10))
        assert await model.generate("print(x", max_new_tokens=10) == whole
        async with model.stream("print(x", max_new_tokens=10) as pieces:
            shown = [piece async for piece in pieces]
        assert "print(x" + "".join(shown) == whole
        assert len(shown) == 10


async def test_stop_texts_end_the_text_before_them(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (hive, model, _):
        whole = await model.generate("print(x", max_new_tokens=20)
        new = whole.removeprefix("print(x")
        stop = new[6:8]
        expected = "print(x" + new[: new.index(stop)]
        assert await model.generate("print(x", max_new_tokens=20, stop=[stop, "never"]) == expected
        await idle(hive)


async def test_an_end_token_ends_the_text(tmp_path: Path) -> None:
    new = tiny.expected("llama", PROMPT, 20)[len(PROMPT) :]
    end = new[7]
    folder = tiny.save("llama", tmp_path / "llama")
    (folder / checkpoints.GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": [end, 4711]}))
    async with loaded(tmp_path) as (_, model, _):
        assert await model.generate(PROMPT, max_new_tokens=20) == PROMPT + new[: new.index(end) + 1]


async def test_tensors_of_many_rows(tmp_path: Path) -> None:
    import torch

    rows = [PROMPT, PROMPT[::-1]]
    ends = [tiny.expected("llama", row, 10)[len(PROMPT) :] for row in rows]
    only_first = next(token for token in ends[0][2:] if token not in ends[1])
    folder = tiny.save("llama", tmp_path / "llama")
    config = {"eos_token_id": only_first, "pad_token_id": 1}
    (folder / checkpoints.GENERATION_CONFIG).write_text(json.dumps(config))
    async with loaded(tmp_path) as (_, model, _):
        ids = await model.generate(torch.tensor(rows), max_new_tokens=10)
        assert ids.shape == (2, len(PROMPT) + 10)
        assert ids.dtype == torch.int64
        stop = ends[0].index(only_first) + 1
        assert ids[0].tolist() == rows[0] + ends[0][:stop] + [1] * (10 - stop)
        assert ids[1].tolist() == rows[1] + ends[1]


async def test_what_cannot_be_asked(tmp_path: Path) -> None:
    import torch

    async with loaded(tmp_path) as (_, model, _):
        assert await model.generate(PROMPT, max_new_tokens=0) == PROMPT
        with pytest.raises(PromptTooLongError):
            await model.generate(PROMPT, max_new_tokens=117)
        for wrong, options in [
            ([], {}),
            ([-1], {}),
            ([model.described.vocabulary], {}),
            (3.5, {}),
            (PROMPT, {"max_new_tokens": -1}),
            (PROMPT, {"temperature": -1.0}),
            (PROMPT, {"colour": "red"}),
            (PROMPT, {"stop": ["x"]}),
            (torch.tensor(PROMPT), {}),
        ]:
            with pytest.raises(ConfigurationError):
                await model.generate(wrong, **options)
        with pytest.raises(RuntimeError, match="async with"):
            model.stream(PROMPT).__aiter__()


async def test_a_folder_that_is_no_checkpoint_is_not_published(tmp_path: Path) -> None:
    async with fakes.hive(tmp_path, hosts=0) as hive:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError, match=r"config\.json"):
            await hive.caller.client().publish(tmp_path / "empty")
        assert not hive.world.contents


async def test_layers_lost_with_a_peer_get_a_new_host_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_p2p.sharding.service.RECONSIDER_SECONDS", 0.05)
    async with loaded(tmp_path) as (hive, _, link):
        victim = hive.host_of(link, 2)
        hive.world.kill(victim.id)
        del hive.world.offers[victim.id]
        with trio.fail_after(10):
            while route.covered(list(hive.world.offers.values()), link, 5) < 5:
                await trio.lowlevel.checkpoint()
        assert hive.host_of(link, 2) is not victim
