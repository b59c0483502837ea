"""Texts to vectors: several texts at once over the stages, each text's rows pooled as soon as they are here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import trio

from hivemind_p2p.errors import ConfigurationError, HivemindError, PromptTooLongError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding.description import Description
from hivemind_p2p.sharding.pooling import Recipe, read_recipe

if TYPE_CHECKING:
    from hivemind_p2p.sharding.remote import RemoteModel

AT_ONCE = 8
"""Conversations with the stages: so many texts are in one step, or on their way between stages."""

Texts: TypeAlias = "str | Sequence[str] | Sequence[Sequence[int]]"
Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What can be asked of an embedding.

    Attributes:
        prompt: The name of what is put before each text; None for what the folder says.
        normalise: Whether vectors get the length 1; None for what the folder says.
        activations: How hidden states travel between stages; empty for their own dtype.
        wait_for_hosts: Seconds to wait for a host of layers that lack one; None for the usual.
    """

    prompt: str | None = None
    normalise: bool | None = None
    activations: str = ""
    wait_for_hosts: float | None = None


@dataclass(frozen=True, slots=True)
class _Text:
    """A text's number, its tokens, and how many of these belong to a prompt."""

    number: int
    ids: list[int]
    skip: int = 0


async def embed(model: RemoteModel, texts: Texts, wishes: Wishes) -> Array:
    """The vectors of texts.

    Args:
        model: An encoder, or a decoder that was made into one.
        texts: One text, several, or several lists of token ids.
        wishes: How.

    Returns:
        Shape (texts, size), float32; of one text (size,).

    Raises:
        ConfigurationError: A text has no token, or there is no such prompt.
        PromptTooLongError: Token ids do not fit the model's context; a text would be cut.
        MissingLayersError: Layers have no host, and none came in time.
        GenerationError: It failed on one route after another.
    """
    described = model.described
    recipe = await trio.to_thread.run_sync(read_recipe, described.folder)
    several = [texts] if isinstance(texts, str) else texts
    tokenised = await trio.to_thread.run_sync(_tokenise, described, recipe, several, wishes)
    vectors: dict[int, Array] = {}
    failures: list[HivemindError] = []
    async with trio.open_nursery() as nursery:

        async def work(share: list[_Text]) -> None:
            try:
                await _compute(model, recipe, share, wishes, vectors)
            except HivemindError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        for share in _shares(tokenised):
            nursery.start_soon(work, share)
    if failures:
        raise failures[0]
    if isinstance(texts, str):
        return vectors[0]
    return np.stack([vectors[number] for number in range(len(several))]) if several else np.zeros((0, 0), np.float32)


def _shares(texts: Sequence[_Text]) -> list[list[_Text]]:
    """The texts in groups of about as many tokens, the longest ones first."""
    shares: list[list[_Text]] = [[] for _ in range(min(AT_ONCE, len(texts)))]
    sizes = [0] * len(shares)
    for text in sorted(texts, key=lambda text: -len(text.ids)):
        place = sizes.index(min(sizes))
        shares[place].append(text)
        sizes[place] += len(text.ids)
    return shares


async def _compute(
    model: RemoteModel, recipe: Recipe, share: Sequence[_Text], wishes: Wishes, vectors: dict[int, Array]
) -> None:
    mode = pb.HIDDEN if model.described.writes else pb.EMBED
    async with model.rows(
        mode,
        room=max(len(text.ids) for text in share),
        budget=sum(len(text.ids) for text in share),
        activations=wishes.activations,
        wait_for_hosts=wishes.wait_for_hosts,
    ) as rows:
        for text in share:
            found = await rows.feed(0, text.ids, rows=1 if recipe.last_only else len(text.ids))
            vectors[text.number] = recipe.pool(found, skip=text.skip, normalise=wishes.normalise)


def _tokenise(
    described: Description, recipe: Recipe, texts: Sequence[str | Sequence[int]], wishes: Wishes
) -> list[_Text]:
    prompt = recipe.prompt(wishes.prompt)
    skip = _prompt_tokens(described, prompt) if prompt and recipe.skips_prompt else 0
    longest = min(recipe.longest or described.context, described.context)
    words = [prompt + text for text in texts if isinstance(text, str)]
    read = iter(described.encode_cut([text.lower() if recipe.lower_case else text for text in words], longest))
    made = [
        _Text(number, next(read), skip) if isinstance(text, str) else _Text(number, list(text))
        for number, text in enumerate(texts)
    ]
    for each in made:
        described.check_ids(each.ids)
        if len(each.ids) > described.context:
            raise PromptTooLongError(f"{len(each.ids)} tokens do not fit the context of {described.context}")
    return made


def _prompt_tokens(described: Description, prompt: str) -> int:
    """How many tokens a prompt is, without the special one behind it."""
    found = described.tokenizer.encode(prompt)
    if not found.ids:
        raise ConfigurationError("the prompt has no token")
    return len(found.ids) - found.special_tokens_mask[-1]


__all__ = ["Texts", "Wishes", "embed"]
