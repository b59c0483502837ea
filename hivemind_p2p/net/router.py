"""Where streams become channels, and where every handler of this peer is called.

Participants: the services of one peer, which register one handler a protocol, and the callers that other peers are.
Messages: the frames of `framing`; what they say is the services' business.
Goals:
    - A handler that raises costs one conversation, never the peer: this is the one place that catches `Exception`
      around handlers. A `HivemindError` reaches the caller as the class that it is; anything else as a
      `RemoteError`, with the traceback in this peer's log only.
    - A flood of requests costs little: beyond `most_at_once` a caller is told `BusyError` at once.
    - A peer may call itself: a caller that also lends its machine need not know the difference.
Non-goals: retries and the choice of peers (the services' business); authentication (the transport's).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Final

import trio

from hivemind_p2p import telemetry
from hivemind_p2p.errors import (
    BusyError,
    DeadlineExceededError,
    HivemindError,
    NetworkError,
    ProtocolError,
    RemoteError,
    StreamClosedError,
)
from hivemind_p2p.interfaces import ByteStream, ChannelHandler, StreamHandler, Transport
from hivemind_p2p.net.framing import FramedChannel
from hivemind_p2p.net.pipe import stream_pair
from hivemind_p2p.net.seldom import Seldom
from hivemind_p2p.types import PeerId, PeerInfo

FAREWELL: Final = 2.0
"""Seconds to tell a caller of a failure: it is one small frame, and a caller that does not read it goes without."""

_events = telemetry.source("router")


@dataclass(frozen=True, slots=True)
class RouterStatistics:
    """What a router has done since it was made.

    Attributes:
        opened: Channels opened to other peers.
        unopened: Channels that could not be opened.
        answered: Conversations that a handler of this peer finished.
        failed: Conversations that ended because a handler raised.
        refused: Conversations refused because too many were going on.
        answering: Conversations going on now, by protocol.
    """

    opened: int
    unopened: int
    answered: int
    failed: int
    refused: int
    answering: dict[str, int]


class Router:
    """Opens channels and answers them; implements `hivemind_p2p.interfaces.Network`.

    Args:
        transport: Dials and accepts the streams. The router does not close it.
        nursery: Where the handlers of calls to this very peer run.
    """

    def __init__(self, transport: Transport, nursery: trio.Nursery) -> None:
        self._transport = transport
        self._nursery = nursery
        self._services: dict[str, _Service | _BareService] = {}
        self._opened = self._unopened = 0

    @property
    def peer_id(self) -> PeerId:
        """Who this peer is."""
        return self._transport.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this peer can be dialled."""
        return self._transport.addresses

    def statistics(self) -> RouterStatistics:
        """What this router has done so far."""
        services = self._services.values()
        return RouterStatistics(
            opened=self._opened,
            unopened=self._unopened,
            answered=sum(service.answered for service in services),
            failed=sum(service.failed for service in services),
            refused=sum(service.refused for service in services),
            answering={service.protocol: service.answering for service in services},
        )

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to a connected peer and back; None if that was not measured."""
        return self._transport.round_trip(peer)

    def learn(self, peer: PeerInfo) -> None:
        """Remembers where a peer can be dialled."""
        self._transport.learn(peer)

    def serve(self, protocol: str, handler: ChannelHandler, *, most_at_once: int = 256) -> None:
        """Answers a protocol. A handler that raises has its error sent to the caller; the peer lives on.

        A `StreamClosedError` after the caller has ended the conversation is how a handler that receives in a loop
        learns of the end: it is no failure.

        Args:
            protocol: For example ``/hivemind/dht/1``.
            handler: Called in a task of its own for each conversation; the channel is closed when it returns.
            most_at_once: Conversations beyond this number are refused with `BusyError`.
        """
        service = _Service(protocol, handler, most_at_once)
        self._services[protocol] = service
        self._transport.set_handler(protocol, service.answer)

    def serve_stream(self, protocol: str, handler: StreamHandler, *, most_at_once: int = 256) -> None:
        """Answers a protocol that frames its messages itself. Errors are logged; the caller sees the stream end."""
        service = _BareService(protocol, handler, most_at_once)
        self._services[protocol] = service
        self._transport.set_handler(protocol, service.answer)

    async def open_stream(self, peer: PeerId, protocol: str, *, deadline: float = 10.0) -> ByteStream:
        """A bare stream to a peer, which may be this one; takes and raises what `open` does."""
        try:
            stream = await self._open_stream(peer, protocol, deadline)
        except NetworkError as error:
            self._unopened += 1
            _events.debug("open_failed", peer=peer, protocol=protocol, error=error.code())
            raise
        self._opened += 1
        return stream

    async def open(self, peer: PeerId, protocol: str, *, deadline: float = 10.0) -> FramedChannel:
        """A channel to a peer, which may be this one.

        Args:
            peer: Whom to call.
            protocol: What to speak.
            deadline: Seconds for dialling and agreeing on the protocol. What follows has deadlines of its own.

        Raises:
            PeerUnreachableError: None of its addresses answered, or none is known.
            ProtocolError: It does not speak the protocol.
            DeadlineExceededError: It did not answer within `deadline` seconds.
        """
        return FramedChannel(await self.open_stream(peer, protocol, deadline=deadline))

    async def _open_stream(self, peer: PeerId, protocol: str, deadline: float) -> ByteStream:
        if peer == self.peer_id:
            return self._call_self(protocol)
        try:
            with trio.fail_after(deadline):
                return await self._transport.open_stream(peer, protocol)
        except trio.TooSlowError as error:
            raise DeadlineExceededError(f"peer {peer} did not open {protocol} within {deadline:g} s") from error

    def _call_self(self, protocol: str) -> ByteStream:
        service = self._services.get(protocol)
        if service is None:
            raise ProtocolError(f"this peer ({self.peer_id}) does not serve {protocol}")
        opened, accepted = stream_pair(self.peer_id, self.peer_id, protocol)
        self._nursery.start_soon(service.answer, accepted)
        return opened


class _Service:
    """One protocol's handler and its counters."""

    def __init__(self, protocol: str, handler: ChannelHandler, most_at_once: int) -> None:
        self.protocol = protocol
        self._handler = handler
        self._most_at_once = most_at_once
        # Whoever calls can cause both as often as it likes.
        self._refusals = Seldom(_events, "conversation_refused", "conversations_refused")
        self._raised = Seldom(_events, "handler_raised", "handlers_raised")
        self.answering = self.answered = self.failed = self.refused = 0

    async def answer(self, stream: ByteStream) -> None:
        """Handles one conversation; raises nothing but cancellation."""
        channel = FramedChannel(stream)
        if self.answering >= self._most_at_once:
            self.refused += 1
            self._refusals.tell(peer=channel.remote, protocol=self.protocol)
            busy = BusyError(f"{self.answering} conversations are going on already, the most that this peer takes")
            await _farewell(channel, busy)
            return
        self.answering += 1
        try:
            await self._handle(channel)
        finally:
            self.answering -= 1

    async def _handle(self, channel: FramedChannel) -> None:
        failure: HivemindError | None = None
        try:
            await self._handler(channel)
        except Exception as error:
            failure = self._failure_of(error, channel)
        except BaseExceptionGroup as group:
            # Cancelled and failed at the same time: the failure must not outlive the cancellation and end the peer.
            cancelled, failed = group.split(trio.Cancelled)
            if failed is not None and not isinstance(failed, ExceptionGroup):
                raise
            if failed is not None:
                failure = self._failure_of(failed, channel)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self.failed += failure is not None
            self.answered += failure is None
            await _farewell(channel, failure)

    def _failure_of(self, error: Exception, channel: FramedChannel) -> HivemindError | None:
        """What the caller is told; None where the caller has only ended the conversation."""
        error = _only_leaf(error)
        if isinstance(error, StreamClosedError) and channel.ended:
            return None
        details = {"peer": channel.remote, "protocol": self.protocol}
        if isinstance(error, HivemindError):
            self._raised.tell(error=error.code(), message=error.message, **details)
            return error
        if isinstance(error, trio.TooSlowError):
            self._raised.tell(error="too_slow", message="it took longer than this peer allows", **details)
            return DeadlineExceededError("the conversation took longer than this peer allows")
        _events.error("handler_failed", error=repr(error), traceback=_traceback(error), **details)
        return RemoteError(f"the handler of {self.protocol} failed with {type(error).__name__}")


class _BareService:
    """One protocol that frames its messages itself: its handler and its counters."""

    def __init__(self, protocol: str, handler: StreamHandler, most_at_once: int) -> None:
        self.protocol = protocol
        self._handler = handler
        self._most_at_once = most_at_once
        # Whoever calls can cause both as often as it likes.
        self._refusals = Seldom(_events, "conversation_refused", "conversations_refused")
        self._raised = Seldom(_events, "handler_raised", "handlers_raised")
        self.answering = self.answered = self.failed = self.refused = 0

    async def answer(self, stream: ByteStream) -> None:
        """Handles one conversation and closes its stream; raises nothing but cancellation."""
        if self.answering >= self._most_at_once:
            self.refused += 1
            self._refusals.tell(peer=stream.remote, protocol=self.protocol)
            await stream.aclose()
            return
        self.answering += 1
        try:
            await self._handler(stream)
            self.answered += 1
        except Exception as error:
            self.failed += 1
            self._log(_only_leaf(error), stream)
        finally:
            self.answering -= 1
            await stream.aclose()

    def _log(self, error: Exception, stream: ByteStream) -> None:
        details = {"peer": stream.remote, "protocol": self.protocol}
        if isinstance(error, HivemindError | trio.TooSlowError | trio.BrokenResourceError):
            self._raised.tell(error=str(error), **details)
            return
        _events.error("handler_failed", error=repr(error), traceback=_traceback(error), **details)


async def _farewell(channel: FramedChannel, failure: HivemindError | None) -> None:
    """Tells the failure, if there is one, and closes; does not keep a cancelled task waiting."""
    try:
        if failure is not None:
            with trio.move_on_after(FAREWELL):
                await channel.send_failure(failure)
    except NetworkError:
        _events.debug("farewell_unheard", peer=channel.remote)
    finally:
        await channel.aclose()


def _only_leaf(error: Exception) -> Exception:
    """What went wrong, where a nursery has wrapped a single error in groups."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _traceback(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
