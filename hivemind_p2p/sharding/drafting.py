"""Who guesses ahead for a generation: its text's own past, and a small model where the caller names one.

Participants: the host of a first stage; the swarm, which brings a small model's bytes.

Goals: a generation never waits for a draft model: until it is loaded, the past is looked up; what it takes is bounded
and counted as memory that is lent; what a stranger names can cost this peer no more than one download at a time.

Non-goals: deciding how much to guess (`speculation.py`); hosting draft models for others.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import BusyError, GenerationError, HivemindError, UnsupportedModelError
from hivemind_p2p.interfaces import Content
from hivemind_p2p.sharding import checkpoint as checkpoints
from hivemind_p2p.sharding import sampling, spans
from hivemind_p2p.sharding.cache import MemoryPool
from hivemind_p2p.sharding.chunks import Chunk, Engine
from hivemind_p2p.sharding.intake import PREFILL_CHUNK
from hivemind_p2p.sharding.requests import MAX_DRAFTS, OpenRequest
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.sharding.speculation import LookupOrModel, Source, Speculator, TextLookup
from hivemind_p2p.types import LayerSpan, Link

MOST_SHARE = 0.25
"""Of the memory lent to models that a draft model may take: it serves the large ones, and not the other way round."""

FETCH_DEADLINE = 600.0
"""Seconds for a draft model's bytes; it is small, or it is none."""

RETRY_SECONDS = 60.0
"""How long a draft model that could not be loaded is left alone."""

LoadEngine = Callable[[Path, checkpoints.Checkpoint, LayerSpan], Engine]

_events = telemetry.source("sharding")


class DraftEngine:
    """A small model on this machine, for several generations, which may be computed in several threads.

    Args:
        engine: All its layers.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        self.users = 0


class EngineModel:
    """A draft model's guesses for one text; keeps the promise of `speculation.ProposingModel`.

    It draws with the noise that the large model's tokens are drawn with, so that where the two agree on what is
    likely, they agree on what is drawn as well.

    Args:
        draft: The small model.
        options: How the large model's tokens are chosen.
        room: Tokens that the text may come to.
        vocabulary: Ids of the large model are below.

    Raises:
        BusyError: There is no memory for its cache.
    """

    def __init__(self, draft: DraftEngine, options: SamplingOptions, room: int, vocabulary: int) -> None:
        self._draft = draft
        # What was said already is not kept track of here: a penalty moves few tokens, and guesses may be wrong.
        self._options = replace(options, repetition_penalty=1.0, log_probabilities=0)
        self._room = min(room, draft.engine.shape.context)
        self._vocabulary = min(vocabulary, draft.engine.shape.vocabulary)
        self._fed: list[int] = []
        self._key: Hashable = object()
        with draft.lock:
            draft.engine.open(self._key, self._room)
        draft.users += 1
        self._closed = False

    def propose(self, text: Sequence[int], count: int) -> list[int]:
        """See `speculation.ProposingModel.propose`."""
        count = min(count, self._room - len(text))
        # The last token is computed again if need be: what follows it is wanted.
        start = min(self._same(text), len(text) - 1)
        new = list(text[start:])
        made: list[int] = []
        if count <= 0 or max(new) >= self._vocabulary:
            return made
        with self._draft.lock:
            while len(made) < count and not self._closed:
                token = self._step(start, new)
                made.append(token)
                start, new = start + len(new), [token]
        return made

    def _step(self, start: int, new: Sequence[int]) -> int:
        import torch

        for place in range(0, len(new), PREFILL_CHUNK):
            ids = torch.tensor(new[place : place + PREFILL_CHUNK], dtype=torch.int64)
            (output,) = self._draft.engine.run([Chunk(self._key, start + place, ids, 1)])
        self._fed[start:] = new
        if output.logits is None:
            raise GenerationError(f"the draft model failed: {output.error}")
        values = output.logits[0].numpy()[: self._vocabulary]
        return sampling.sample(values, self._options, start + len(new))

    def _same(self, text: Sequence[int]) -> int:
        """How many tokens at the text's beginning are in the cache."""
        fed, size = self._fed, min(len(self._fed), len(text))
        # Texts only grow, and guesses that were wrong stand at the end: all before the last few agree.
        start = max(0, size - 2 * MAX_DRAFTS)
        return next((place for place in range(start, size) if fed[place] != text[place]), size)

    def close(self) -> None:
        """Gives the cache's memory back."""
        with self._draft.lock:
            if not self._closed:
                self._closed = True
                self._draft.users -= 1
                self._draft.engine.close(self._key)


class Guesser(Speculator):
    """Guesses for one generation, until it is closed.

    Args:
        request: The generation.
        model: Gives the draft model's guesses for it once there are any.
        clock: Seconds from any beginning.
    """

    def __init__(
        self,
        request: OpenRequest,
        model: Callable[[], EngineModel | None] | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model = model
        self._opened: EngineModel | None = None
        self._closed = False
        super().__init__(partial(self._source_of, request), clock)

    def _source_of(self, request: OpenRequest) -> Source:
        lookup = TextLookup(request.text)
        return lookup if self._model is None else LookupOrModel(lookup, self._propose, request.text)

    def _propose(self, text: Sequence[int], count: int) -> Sequence[int] | None:
        if self._opened is None and self._model is not None and not self._closed:
            self._opened = self._model()
        if self._opened is None:
            return None
        try:
            return self._opened.propose(text, count)
        except Exception as error:
            # Whatever ails a draft model, the generation goes on without it.
            _events.warning("draft_model_failed", reason=_reason(error))
            self._opened.close()
            self._opened = self._model = None
            return None

    def close(self) -> None:
        """The generation is over."""
        self._closed = True
        if self._opened is not None:
            self._opened.close()


class Drafting:
    """Makes who guesses, and keeps one draft model.

    Args:
        content: Brings its bytes.
        pool: The memory that it is taken from.
        load: Makes an engine of it; blocks.
    """

    def __init__(self, content: Content, pool: MemoryPool, load: LoadEngine) -> None:
        self._content = content
        self._pool = pool
        self._load = load
        self._link: Link | None = None
        self._draft: DraftEngine | None = None
        self._loading = False
        self._not_before = -math.inf

    def make(self, request: OpenRequest, vocabulary: int, nursery: trio.Nursery | None) -> Guesser:
        """Who guesses for a generation.

        Args:
            request: What its caller asked for.
            vocabulary: Its model's ids are below.
            nursery: Where a draft model is loaded.
        """
        link = Link(request.draft_model)
        if not link:
            return Guesser(request, None)
        if link != self._link and nursery is not None and self._may_load():
            self._loading = True
            nursery.start_soon(self._change, link)
        return Guesser(request, partial(self._open, link, request, vocabulary))

    def _open(self, link: Link, request: OpenRequest, vocabulary: int) -> EngineModel | None:
        """Called in an engine's thread."""
        draft = self._draft
        if draft is None or self._link != link:
            return None
        try:
            return EngineModel(draft, request.sampling, request.room, vocabulary)
        except BusyError:
            return None

    def _may_load(self) -> bool:
        idle = self._draft is None or not self._draft.users
        return idle and not self._loading and trio.current_time() >= self._not_before

    async def _change(self, link: Link) -> None:
        """Loads another draft model instead of the one that there is."""
        try:
            if self._link is not None:
                self._pool.release((DraftEngine, self._link))
            self._link = self._draft = None
            self._draft = DraftEngine(await self._fetch(link))
            self._link = link
            _events.info("draft_model_ready", link=link)
        except Exception as error:
            # The model library can raise anything on a stranger's checkpoint; guesses come from the text then.
            self._not_before = trio.current_time() + RETRY_SECONDS
            self._pool.release((DraftEngine, link))
            _events.warning("draft_model_failed", link=link, reason=_reason(error))
        finally:
            self._loading = False

    async def _fetch(self, link: Link) -> Engine:
        with trio.fail_after(FETCH_DEADLINE):
            files = await self._content.files(link)
            folder = await self._content.fetch(link, wanted=checkpoints.small_files(files))
            layers = checkpoints.layer_count(checkpoints.read_json(folder / checkpoints.CONFIG))
            span = LayerSpan(0, layers)
            _, checkpoint = await spans.read_span(self._content, link, span)
            size = checkpoint.weight_bytes(span)
            if size > MOST_SHARE * self._pool.capacity:
                raise UnsupportedModelError(f"{size} bytes are more than a draft model may take here")
            self._pool.reserve((DraftEngine, link), size, "the weights of a draft model")
            folder, checkpoint = await spans.fetch_span(self._content, link, span)
        return await trio.to_thread.run_sync(self._load, folder, checkpoint, span)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, HivemindError) else repr(error)


__all__ = ["DraftEngine", "Drafting", "EngineModel", "Guesser"]
