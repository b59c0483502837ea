"""Speculation over the ring: whatever is guessed, the text is the same; right guesses save steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hivemind_p2p.sharding.caller import Extras
from hivemind_p2p.sharding.sampling import SamplingOptions
from tests.sharding import ringside

PROMPT = [5, 40, 17, 3, 88, 61]
NEW = 40


class Oracle:
    """Knows how the text goes on, and errs at some places.

    Args:
        whole: Prompt and new tokens.
        known: How many of them are known to be.
        wrong: At every so manieth place a guess is wrong; 0 for never.
    """

    def __init__(self, whole: Sequence[int], known: int, wrong: int) -> None:
        self._whole = list(whole)
        self._known = known
        self._wrong = wrong

    def extend(self, tokens: Sequence[int]) -> None:
        assert self._whole[self._known : self._known + len(tokens)] == list(tokens)
        self._known += len(tokens)

    def draft(self, most: int) -> list[int]:
        places = range(self._known, min(self._known + most, len(self._whole)))
        right = [not self._wrong or at % self._wrong > 0 for at in places]
        return [self._whole[at] if good else (self._whole[at] + 1) % 97 for at, good in zip(places, right, strict=True)]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("spans", [((0, 6),), ((0, 3), (3, 6)), ((0, 2), (2, 4), (4, 6))])
@pytest.mark.parametrize("wrong", [0, 1, 2, 5])
@pytest.mark.parametrize("temperature", [0.0, 1.1])
async def test_the_text_is_the_same_with_any_drafts(
    spans: tuple[tuple[int, int], ...], wrong: int, temperature: float, tmp_path: Path
) -> None:
    sampling = SamplingOptions(temperature=temperature, seed=3)
    async with ringside.ringside(tmp_path, *spans) as ring:
        plain = await ring.write(PROMPT, NEW, sampling=sampling)
        plain_steps = len(ring.engines[0].steps)
        for host in ring.hive.hosts:
            host.service.make_drafter = lambda *_: Oracle([*PROMPT, *plain], len(PROMPT), wrong)  # type: ignore[union-attr]
        run = ring.run(PROMPT, NEW, sampling=sampling, extras=Extras(drafts=4))
        written: list[int] = []

        async def read(token: int) -> bool:
            written.append(token)
            return True

        await run.run(read)
        assert written == plain
        steps = len(ring.engines[0].steps) - plain_steps
        assert steps == NEW if wrong == 1 else steps < NEW * 0.8
        assert run.guessed == NEW - steps
        assert run.drafted >= run.guessed
        await ring.idle()


async def test_an_end_token_among_the_drafts_ends_the_text(tmp_path: Path) -> None:
    whole = ringside.expected(PROMPT, NEW)
    async with ringside.ringside(tmp_path, (0, 3), (3, 6)) as ring:
        for host in ring.hive.hosts:
            host.service.make_drafter = lambda *_: Oracle([*PROMPT, *whole], len(PROMPT), 0)  # type: ignore[union-attr]
        ends = frozenset({whole[13]})
        written = await ring.write(PROMPT, NEW, extras=Extras(drafts=7), ends=ends)
        assert written == whole[: whole.index(whole[13]) + 1]


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_death_in_the_middle_of_drafts(victim: int, tmp_path: Path) -> None:
    whole = ringside.expected(PROMPT, NEW)
    spans = ((0, 3), (3, 6))
    async with ringside.ringside(tmp_path, *spans, spans[victim]) as ring:
        for host in ring.hive.hosts:
            host.service.make_drafter = lambda request, _: Oracle([*PROMPT, *whole], len(request.text), 4)  # type: ignore[union-attr]
        written: list[int] = []

        async def read(token: int) -> bool:
            written.append(token)
            if len(written) == 12:
                used = max((victim, 2), key=lambda each: len(ring.engines[each].steps))
                ring.hive.world.kill(ring.hive.hosts[used].id)
            return True

        run = ring.run(PROMPT, NEW, extras=Extras(drafts=4))
        await run.run(read)
        assert written == whole
        assert run.attempts == 2
