"""Every family that is promised, through the whole of it: three uneven stages on three peers, from prompt to text."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from hivemind_p2p.proto import sharding_pb2 as pb
from tests.sharding import hosted, tiny

PROMPT = [5, 40, 17, 80, 3, 9, 33, 61, 7, 22, 91, 14]
NEW = 16


def logits_of(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """What a model in this process makes of each token."""
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([ids])).logits[0].float()
        return found


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
async def test_float32(family: str, tmp_path: Path) -> None:
    async with hosted.hosted(tiny.save(family, tmp_path / family)) as hive:
        found = await hive.model.generate(PROMPT, max_new_tokens=NEW, log_probabilities=1)
        assert list(found.ids) == tiny.expected(family, PROMPT, NEW)
        assert len({token.id for token in found.tokens}) > 4, "a text that repeats itself would hide wrong layers"
        whole = logits_of(tiny.whole(family), list(found.ids[:-1]))
        expected = torch.log_softmax(whole.double(), dim=-1)[len(PROMPT) - 1 :]
        for token, row in zip(found.tokens, expected, strict=True):
            assert token.log_probability == pytest.approx(float(row[token.id]), abs=1e-3)
        async with hive.remote.rows(pb.LOGITS, room=64) as rows:
            # The prompt at once, and the rest token by token over the caches.
            parts = [await rows.feed(0, PROMPT, rows=len(PROMPT))]
            for position in range(len(PROMPT), len(found.ids) - 1):
                parts.append(await rows.feed(position, found.ids[position : position + 1]))
        torch.testing.assert_close(torch.from_numpy(np.concatenate(parts)), whole, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
async def test_bfloat16(family: str, tmp_path: Path) -> None:
    """No further from the exact logits than the library is with the whole model in bfloat16."""
    exact = logits_of(tiny.whole(family), PROMPT)
    rounded = copy.deepcopy(tiny.whole(family)).to(torch.bfloat16)
    theirs = float((logits_of(rounded, PROMPT) - exact).norm() / exact.norm())
    async with hosted.hosted(tiny.save(family, tmp_path / family), dtype="bfloat16") as hive:
        async with hive.remote.rows(pb.LOGITS, room=64) as rows:
            parts = [await rows.feed(0, PROMPT[:5], rows=5)]
            for position in range(5, len(PROMPT)):
                parts.append(await rows.feed(position, PROMPT[position : position + 1]))
        found = torch.from_numpy(np.concatenate(parts))
        ours = float((found - exact).norm() / exact.norm())
        assert 0 < ours < 1.5 * theirs + 0.005
        assert len(await hive.model.generate(PROMPT, max_new_tokens=4)) == len(PROMPT) + 4
