"""How far this machine's clock is from another peer's.

Participants: the bootstrap, which tells the time to whoever asks; a peer that asks, mostly on behalf of the doctor.

Messages: `ClockRequest` and `ClockAnswer`, up to `MOST_QUESTIONS` of each, in turn, on one channel.

Goals: records in the directory expire by the clock, so a machine whose clock is off finds nothing and is not found.
The difference is told with its uncertainty: half of the fastest round trip (Cristian's algorithm, 1989; the
smallest of several round trips is the one that waited least, as in NTP, RFC 5905).

Non-goals: setting any clock; an honest answer from a peer that lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from hivemind_p2p.errors import DeadlineExceededError, StreamClosedError
from hivemind_p2p.interfaces import Channel, Clock, Network
from hivemind_p2p.proto.clock_pb2 import ClockAnswer, ClockRequest
from hivemind_p2p.types import PeerId

PROTOCOL = "/hivemind/clock/1"

QUESTIONS: Final = 3
"""The first one may wait for things that are set up on first use."""

MOST_QUESTIONS: Final = 16
"""On one channel; after that it is closed."""

MOST_CHANNELS: Final = 64
"""Conversations at once: each takes a few milliseconds."""

DEADLINE: Final = 5.0
"""Seconds for a whole conversation."""


@dataclass(frozen=True, slots=True)
class ClockSample:
    """One question and its answer.

    Attributes:
        asked: This clock when the question left, in seconds since the epoch.
        told: The other clock.
        answered: This clock when the answer was there.
    """

    asked: float
    told: float
    answered: float


@dataclass(frozen=True, slots=True)
class ClockDifference:
    """How far two clocks are apart.

    Attributes:
        ahead: Seconds that this clock is ahead of the other one; below zero where it is behind.
        uncertainty: Seconds that `ahead` may be wrong by.
    """

    ahead: float
    uncertainty: float


def difference(samples: Iterable[ClockSample]) -> ClockDifference:
    """What the fastest of some round trips says."""
    best = min(samples, key=lambda sample: sample.answered - sample.asked)
    half = (best.answered - best.asked) / 2
    return ClockDifference(ahead=best.asked + half - best.told, uncertainty=max(0.0, half))


def serve_clock(network: Network, clock: Clock) -> None:
    """Tells the time to whoever asks from now on."""

    async def answer(channel: Channel) -> None:
        with trio.fail_after(DEADLINE):
            for _ in range(MOST_QUESTIONS):
                await channel.receive(ClockRequest)
                await channel.send(ClockAnswer(milliseconds=max(0, round(clock() * 1000))))

    network.serve(PROTOCOL, answer, most_at_once=MOST_CHANNELS)


async def ask_clock(network: Network, peer: PeerId, clock: Clock) -> ClockDifference:
    """How far this clock is from a peer's.

    Raises:
        NetworkError: It cannot be reached, does not tell the time, or did not answer in time.
    """
    try:
        with trio.fail_after(DEADLINE):
            return difference(await _ask(network, peer, clock))
    except trio.TooSlowError as error:
        raise DeadlineExceededError(f"peer {peer} did not tell the time within {DEADLINE:g} s") from error


async def _ask(network: Network, peer: PeerId, clock: Clock) -> list[ClockSample]:
    samples: list[ClockSample] = []
    channel = await network.open(peer, PROTOCOL, deadline=DEADLINE)
    try:
        for _ in range(QUESTIONS):
            asked = clock()
            await channel.send(ClockRequest())
            answer, _payload = await channel.receive(ClockAnswer)
            samples.append(ClockSample(asked, answer.milliseconds / 1000, clock()))
    except StreamClosedError:
        if not samples:
            raise
    finally:
        await channel.aclose()
    return samples
