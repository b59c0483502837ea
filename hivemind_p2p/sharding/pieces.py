"""From messages to the pieces of a text that a stage computes. Nothing is believed before it was checked here."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import quantise
from hivemind_p2p.sharding.chunks import Shape
from hivemind_p2p.sharding.intake import PREFILL_CHUNK, WINDOW, Piece
from hivemind_p2p.sharding.requests import OpenRequest

ROWS_BYTES = 32 * 2**20
"""Of rows that are made for a caller before it has taken the ones before: some hundred rows of a large vocabulary."""


def rows_window(request: OpenRequest, shape: Shape) -> int:
    """How many rows may be made for a caller, and lie here, at a time."""
    if request.mode not in {pb.LOGITS, pb.STATES}:
        return WINDOW
    return min(WINDOW, max(1, ROWS_BYTES // (4 * shape.vocabulary)))


def of_feed(feed: pb.Feed, request: OpenRequest, shape: Shape) -> list[Piece]:
    """The caller's tokens, or those that came with Open from where they are not known here yet.

    Raises:
        ProtocolError: There are none, or more rows are wanted than there are tokens.
    """
    tokens: Sequence[int] = feed.tokens or request.text[feed.position :]
    if not tokens:
        raise ProtocolError("no tokens were fed")
    if feed.rows > len(tokens):
        raise ProtocolError(f"{feed.rows} of {len(tokens)} rows are wanted")
    size = len(tokens) if request.mode == pb.EMBED else PREFILL_CHUNK
    if feed.rows:
        size = len(tokens) if request.mode == pb.EMBED else min(size, rows_window(request, shape))
    return [_part(feed, tokens, start, size) for start in range(0, len(tokens), size)]


def _part(feed: pb.Feed, tokens: Sequence[int], start: int, size: int) -> Piece:
    part = tuple(tokens[start : start + size])
    stop = start + len(part)
    return Piece(
        feed.position + start,
        len(part),
        last=feed.last and stop == len(tokens),
        tokens=part,
        wanted=max(0, min(len(part), stop - (len(tokens) - feed.rows))),
    )


def of_activations(found: pb.Activations, payload: memoryview, request: OpenRequest, shape: Shape) -> Piece:
    """What the previous stage sent.

    Raises:
        ProtocolError: Its numbers do not fit each other, or are larger than allowed.
    """
    whole = request.mode == pb.EMBED
    if not 1 <= found.tokens <= (request.room if whole else PREFILL_CHUNK):
        raise ProtocolError(f"{found.tokens} rows came at once")
    most = found.tokens if whole else min(found.tokens, rows_window(request, shape))
    if len(found.drafts) > found.tokens or found.rows > most:
        raise ProtocolError(f"{found.tokens} rows came with {len(found.drafts)} drafts, {found.rows} of them wanted")
    expected = quantise.encoded_bytes(found.tokens, shape.hidden_size, found.dtype)
    if len(payload) != expected:
        raise ProtocolError(f"{len(payload)} bytes came for {found.tokens} rows")
    return Piece(
        found.position,
        found.tokens,
        last=found.last,
        hidden=payload,
        dtype=found.dtype,
        drafts=tuple(found.drafts),
        wanted=found.rows,
    )


__all__ = ["of_activations", "of_feed", "rows_window"]
