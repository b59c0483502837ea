"""Layers of real checkpoints over a real swarm: who wants a span fetches little else, and is a source for it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding.spans import fetch_span
from hivemind_p2p.types import LayerSpan
from tests.bt.swarms import contents_of, hive
from tests.sharding import tiny

MOST = 1.05
"""Bytes that may be fetched, as a multiple of the span's."""
LAYERS = 12
THIRDS = [LayerSpan(0, 4), LayerSpan(4, 8), LayerSpan(8, 12)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A model of 12 layers and some 20 MB, in one file and in many; large enough for pieces to be small beside it."""
    folders = {many: tmp_path_factory.mktemp("checkpoints") / f"many-{many}" for many in (False, True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        torch.manual_seed(3)
        config = transformers.LlamaConfig(
            vocab_size=512,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
        model = transformers.LlamaForCausalLM(config)
        for many, folder in folders.items():
            # The letters' tokenizer comes with it; this model takes the place of the tiny one.
            tiny.save("llama", folder)
            model.save_pretrained(folder, max_shard_size="4MB" if many else "5GB")
    (folders[True] / checkpoints.SINGLE).unlink()
    return folders


def span_bytes(folder: Path, span: LayerSpan) -> int:
    opened = checkpoints.open_folder(folder)
    tensors = [opened.tensors[name] for name in opened.names(span)]
    return sum(tensor.entry.where.stop - tensor.entry.where.start for tensor in tensors)


@pytest.mark.parametrize("many", [False, True], ids=["one file", "many files"])
async def test_thirds_cost_little_more_than_their_bytes_and_are_a_whole(
    autojump_clock, many: bool, checkpoint: dict[bool, Path], tmp_path: Path
) -> None:
    folder = checkpoint[many]
    assert len(list(folder.glob("*.safetensors"))) > 4 or not many
    async with hive(tmp_path) as members:
        seed = members.member("seed")
        link = await seed.swarm.share(folder)
        hosts = [members.member(f"host-{span}") for span in THIRDS]
        for host, span in zip(hosts, THIRDS, strict=True):
            path, opened = await fetch_span(host.swarm, link, span)
            fetched = host.swarm.statistics().downloaded_bytes
            assert span_bytes(folder, span) <= fetched <= MOST * span_bytes(folder, span)
            for name in opened.names(span):
                placed = opened.tensors[name]
                part = slice(placed.entry.where.start, placed.entry.where.stop)
                assert (path / placed.file).read_bytes()[part] == (folder / placed.file).read_bytes()[part]
        # Nobody has all of it from now on, and yet it is all there.
        members.network.kill(seed.peer_id)
        fourth = members.member("fourth")
        assert contents_of(await fourth.swarm.fetch(link)) == contents_of(folder)
        assert all(host.swarm.statistics().uploaded_bytes > 0 for host in hosts)


@pytest.mark.parametrize("many", [False, True], ids=["one file", "many files"])
@pytest.mark.parametrize("layer", [0, 5, 11])
async def test_a_single_layer_costs_two_pieces_more_for_each_gap(
    autojump_clock, many: bool, layer: int, checkpoint: dict[bool, Path], tmp_path: Path
) -> None:
    folder, span = checkpoint[many], LayerSpan(layer, layer + 1)
    async with hive(tmp_path) as members:
        seed, host = members.member("seed"), members.member("host")
        link = await seed.swarm.share(folder)
        _, opened = await fetch_span(host.swarm, link, span)
        content = host.swarm.statistics().contents[0]
        piece = 2 ** ((content.length // 1024) - 1).bit_length()
        small = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".safetensors")
        gaps = sum(len(ranges) for ranges in opened.ranges(span).values())
        first = sum(min(checkpoints.FIRST_READ, (folder / file).stat().st_size) for file in opened.headers)
        most = span_bytes(folder, span) + small + first + 2 * gaps * piece
        assert content.downloaded_bytes <= most


async def test_an_index_that_promises_too_much(autojump_clock, checkpoint: dict[bool, Path], tmp_path: Path) -> None:
    import json
    import shutil

    from hivemind_p2p.errors import CheckpointError

    folder = Path(shutil.copytree(checkpoint[True], tmp_path / "lies" / "model"))
    index = json.loads((folder / checkpoints.INDEX).read_text())
    elsewhere = index["weight_map"]["model.layers.0.mlp.up_proj.weight"]
    index["weight_map"] |= {name: elsewhere for name in index["weight_map"] if ".layers.5." in name}
    (folder / checkpoints.INDEX).write_text(json.dumps(index))
    async with hive(tmp_path) as members:
        seed, host = members.member("seed"), members.member("host")
        link = await seed.swarm.share(folder)
        await fetch_span(host.swarm, link, LayerSpan(0, 5))
        with pytest.raises(CheckpointError, match=r"lacks the tensor .*layers\.5\."):
            await fetch_span(host.swarm, link, LayerSpan(5, 6))
