"""Yamux: many streams over one connection, each with a window of its own. Bytes in, bytes out; no sockets here.

    session = Session(dialled=True)
    stream = session.open()
    session.send(stream, [b"hello"])
    connection.send(session.output())
    received = session.receive(data, now)      # which streams have something new

**Back-pressure.** A side sends no more than the other has granted: 256 KiB at first. What a reader takes is granted
anew once half a window has been taken; and a window is doubled, up to `WIDEST_WINDOW`, whenever its reader has taken
everything by then, because then the window is what the sender waits for. All wide windows of a connection together
stay within `WIDE_BYTES`, and what lies unread within `MOST_UNREAD`: a peer that sends to streams which nobody reads
has the last of them reset.

**Copies** of a message of 4 MiB here: none. What is sent is handed on where it lies, and belongs to the caller again
once `output` has been encrypted. What is received is kept as views of the memory that it was decrypted into, and
copied once, to where its reader wants it (`read_into`) or into the bytes that its reader gets (`read`). A small piece
of a large read is copied at once, so that it does not keep all of it in memory.

**Abuse** ends the connection, or costs only the abuser: more data than was granted, frames that make no sense, frames
that do no work, questions whose answers are not fetched. `yamux_limits` has the numbers.

**Other implementations.** An ACK is sent alone or with data, never with FIN or RST: libp2p for Python looks at no
other flag beside it. It is sent with the first thing that this side has to say, as libp2p's notes want it.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_p2p.errors import BusyError, ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net import yamux_frames as frames
from hivemind_p2p.net.yamux_frames import FIRST_WINDOW, HEADER, HEADER_BYTES, LARGEST_NUMBER, frame
from hivemind_p2p.net.yamux_limits import (
    LARGEST_FRAME,
    LATE,
    LINGER_BYTES,
    LOOSE_BYTES,
    MOST_FRAMES_WAITING,
    MOST_STREAMS,
    MOST_UNANSWERED,
    MOST_UNREAD,
    SMALL_PIECE,
    TIGHT,
    WIDE_BYTES,
    WIDEST_WINDOW,
    Worthless,
)
from hivemind_p2p.net.yamux_streams import Stream


@dataclass(slots=True)
class Received:
    """What bytes have brought.

    Attributes:
        opened: Streams that the other side has opened.
        changed: Streams with new data, a new window, an end or a reset; a stream may stand here several times.
        pongs: The values of the pings that were answered.
        gone_away: The reason, if the other side takes no new streams any more.
    """

    opened: list[Stream] = field(default_factory=list)
    changed: list[Stream] = field(default_factory=list)
    pongs: list[int] = field(default_factory=list)
    gone_away: int | None = None


class Session:
    """One side of a connection.

    Args:
        dialled: Whether this side has dialled; its streams have odd numbers then.

    Attributes:
        streams: Those that are not over in both directions, by number.
        carried: Streams so far, in both directions.
        held: Bytes of all streams that lie unread.
        unanswered: Streams that this side opened and has not heard anything on.
    """

    def __init__(self, *, dialled: bool) -> None:
        self.streams: dict[int, Stream] = {}
        self.carried = self.held = self.unanswered = 0
        self._next_id = 1 if dialled else 2
        self._their_parity = 0 if dialled else 1
        self._their_highest = 0
        self._theirs = self._theirs_unanswered = 0
        self._wide = 0
        self._output: list[Buffer] = []
        self._pings = 0
        self._head = b""
        self._body_left = self._body_ends = 0
        self._body_of: Stream | None = None
        self._worthless = Worthless()
        self._gone_away = self._told_away = False

    @property
    def to_answer(self) -> int:
        """Streams that the other side opened and has not heard anything on."""
        return self._theirs_unanswered

    # -- what this side does -----------------------------------------------------------------------------------------

    @property
    def takes_streams(self) -> bool:
        """Whether this side can open another one, now or once the other side has answered some."""
        return not self._gone_away and self._next_id <= LARGEST_NUMBER

    def open(self) -> Stream:
        """A new stream; the other side learns of it with the first frame on it.

        Not to be called while `MOST_UNANSWERED` are `unanswered`: the other side may refuse more.

        Raises:
            BusyError: The other side takes no streams any more, or this side has used up all numbers.
        """
        if self._gone_away:
            raise BusyError("the other side takes no new streams on this connection")
        if not self.takes_streams:
            raise BusyError("this connection has carried as many streams as it can number")
        stream = Stream(self._next_id, frames.SYN, answered=False)
        self._next_id += 2
        self.streams[stream.id] = stream
        self.unanswered += 1
        self.carried += 1
        return stream

    def sendable(self, stream: Stream) -> int:
        """Bytes that may be sent on a stream now."""
        return 0 if stream.reset else stream.send_window

    def send(self, stream: Stream, parts: Sequence[memoryview]) -> int:
        """Puts one data frame into the output: as much of the parts as the window and a frame allow.

        The parts must not change until the output has been encrypted.

        Returns:
            Bytes taken from the front of the parts.
        """
        room = min(stream.send_window, LARGEST_FRAME)
        taken: list[Buffer] = []
        size = 0
        for part in parts:
            if size == room:
                break
            piece = part[: room - size] if len(part) > room - size else part
            taken.append(piece)
            size += len(piece)
        if size:
            self._output.append(frame(frames.DATA, self._flags(stream), stream.id, size))
            self._output += taken
            stream.send_window -= size
        return size

    def announce(self, stream: Stream) -> None:
        """Tells the other side of a stream that this side has opened, and on which nothing is to be sent yet."""
        if stream.due & frames.SYN and not stream.reset:
            self._output.append(frame(frames.WINDOW_UPDATE, self._flags(stream), stream.id, 0))

    def end(self, stream: Stream) -> None:
        """Says that nothing more will be sent."""
        if stream.end_sent or stream.reset:
            return
        stream.end_sent = True
        if stream.due & frames.ACK:
            self._output.append(frame(frames.WINDOW_UPDATE, self._flags(stream), stream.id, 0))
        self._output.append(frame(frames.DATA, self._flags(stream) | frames.FIN, stream.id, 0))
        self._forget_if_over(stream)

    def reset(self, stream: Stream, reason: str = "") -> None:
        """Ends both directions at once; what lies unread is lost."""
        if stream.reset or not self._knows(stream):
            return
        if not stream.due & frames.SYN:  # else the other side has never heard of it
            self._output.append(frame(frames.WINDOW_UPDATE, frames.RST, stream.id, 0))
        stream.reason = reason
        self._break(stream)

    def abandon(self, stream: Stream) -> None:
        """Says that this side neither sends nor reads any more; a little that nobody reads is thrown away."""
        if stream.due & frames.SYN:
            self._break(stream)
        self.end(stream)
        stream.unwanted = True
        dropped = stream.drop()
        self.held -= dropped
        self._throw_away(stream, dropped)

    def ping(self) -> int:
        """Sends a ping; its answer comes with the value returned."""
        self._pings = (self._pings + 1) & LARGEST_NUMBER
        self._output.append(frame(frames.PING, frames.SYN, 0, self._pings))
        return self._pings

    def go_away(self, reason: int = frames.NORMAL) -> None:
        """Tells the other side that no new streams are taken; those that are open go on."""
        if not self._told_away:
            self._told_away = True
            self._output.append(frame(frames.GO_AWAY, 0, 0, reason))

    def break_all(self) -> list[Stream]:
        """Ends all streams, because the connection is over; which they were. What lies unread can still be read."""
        broken = list(self.streams.values())
        for stream in broken:
            stream.reset = True
            self._forget(stream)
        self._output.clear()
        return broken

    def output(self) -> list[Buffer]:
        """What has to be sent; it is taken for sent."""
        output, self._output = self._output, []
        return output

    @property
    def has_output(self) -> bool:
        """Whether something has to be sent."""
        return bool(self._output)

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, stream: Stream, most: int) -> bytes:
        """Takes unread bytes of a stream, up to `most`; there must be some."""
        piece = stream.take(most)
        if len(piece) == most or not stream.unread:
            self._consumed(stream, len(piece))
            return bytes(piece)
        pieces = [piece]
        size = len(piece)
        while stream.unread and size < most:
            pieces.append(stream.take(most - size))
            size += len(pieces[-1])
        self._consumed(stream, size)
        return b"".join(pieces)

    def read_into(self, stream: Stream, place: memoryview) -> int:
        """Takes as many unread bytes of a stream as there are and `place` has room for; their number."""
        room, filled = len(place), 0
        while stream.unread and filled < room:
            piece = stream.take(room - filled)
            place[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._consumed(stream, filled)
        return filled

    def unread(self, stream: Stream, data: bytes) -> None:
        """Puts bytes back that were read; their credit stays given."""
        if data and not stream.unwanted:
            stream.put_back(data)
            stream.consumed -= len(data)
            self.held += len(data)

    def _consumed(self, stream: Stream, count: int) -> None:
        self.held -= count
        stream.consumed += count
        if stream.consumed >= stream.window // 2 and not stream.over:
            self._grant(stream)

    def _grant(self, stream: Stream) -> None:
        if not stream.held and stream.window < WIDEST_WINDOW and self._wide + stream.window <= WIDE_BYTES:
            self._wide += stream.window
            stream.consumed += stream.window
            stream.window *= 2
        self._output.append(frame(frames.WINDOW_UPDATE, self._flags(stream), stream.id, stream.consumed))
        stream.credit += stream.consumed
        stream.consumed = 0

    # -- what the other side does ------------------------------------------------------------------------------------

    def receive(self, data: Buffer, now: float) -> Received:
        """Takes what has arrived.

        Args:
            data: Plaintext, in memory that nobody else writes to.
            now: Seconds on any clock that does not go back.

        Raises:
            ProtocolError: The other side breaks the rules: the connection is of no use any more.
        """
        if len(self._output) > MOST_FRAMES_WAITING:
            raise ProtocolError("questions without reading the answers")
        received = Received()
        view = memoryview(data)
        position, end = 0, len(view)
        if self._head:
            position = min(HEADER_BYTES - len(self._head), end)
            head = self._head + bytes(view[:position])
            if len(head) < HEADER_BYTES:
                self._head = head
                return received
            self._head = b""
            self._header(head, 0, received, now)
        while True:
            if self._body_left:
                stop = min(position + self._body_left, end)
                self._body(view[position:stop], end, received)
                self._body_left -= stop - position
                position = stop
                if self._body_left:
                    return received
                self._body_done(received)
            if end - position < HEADER_BYTES:
                self._head = bytes(view[position:])
                return received
            self._header(view, position, received, now)
            position += HEADER_BYTES

    def _header(self, data: Buffer, position: int, received: Received, now: float) -> None:
        version, kind, flags, number, value = HEADER.unpack_from(data, position)
        if version or kind > frames.GO_AWAY:
            raise ProtocolError(f"a frame of version {version} and type {kind}")
        if kind <= frames.WINDOW_UPDATE:
            self._stream_frame(kind, flags, number, value, received, now)
            return
        self._worthless.note(now)
        if kind == frames.GO_AWAY:
            self._gone_away = True
            received.gone_away = value
        elif flags & frames.SYN:
            self._output.append(frame(frames.PING, frames.ACK, 0, value))
        elif flags & frames.ACK:
            received.pongs.append(value)

    def _stream_frame(self, kind: int, flags: int, number: int, value: int, received: Received, now: float) -> None:
        stream = self._arriving(number, received, now) if flags & frames.SYN else self.streams.get(number)
        if stream is not None and not stream.answered:
            self._answered(stream)
        if kind == frames.DATA and value:
            self._body_begins(stream, flags, number, value, now)
            return
        if stream is None:
            self._worthless.note(now, LATE if self._has_been(number) else 1.0)
            return
        if kind == frames.WINDOW_UPDATE and value:
            stream.send_window = min(stream.send_window + value, LARGEST_NUMBER)
        elif flags & frames.RST or (flags & frames.FIN and stream.end_received) or not flags:
            self._worthless.note(now)
        self._ended(stream, flags)
        received.changed.append(stream)

    def _arriving(self, number: int, received: Received, now: float) -> Stream | None:
        if number in self.streams or number % 2 != self._their_parity or not number:
            raise ProtocolError(f"stream {number} was opened twice, or by the wrong side")
        self._their_highest = max(self._their_highest, number)
        if self._told_away or self._theirs_unanswered >= MOST_UNANSWERED or self._theirs >= MOST_STREAMS:
            self._worthless.note(now)
            self._output.append(frame(frames.WINDOW_UPDATE, frames.RST, number, 0))
            return None
        stream = Stream(number, frames.ACK, answered=True)
        self.streams[number] = stream
        self._theirs += 1
        self._theirs_unanswered += 1
        self.carried += 1
        received.opened.append(stream)
        return stream

    def _body_begins(self, stream: Stream | None, flags: int, number: int, length: int, now: float) -> None:
        self._body_left = length
        self._body_of = stream
        self._body_ends = flags & (frames.FIN | frames.RST)
        if stream is None:
            if not self._has_been(number):
                self._worthless.note(now)
            return
        if length > stream.credit:
            raise ProtocolError(f"{length} bytes of data where {stream.credit} were granted")
        if stream.end_received:
            raise ProtocolError(f"data after the end of stream {number}")
        stream.credit -= length

    def _body(self, piece: memoryview, of: int, received: Received) -> None:
        stream = self._body_of
        if stream is None or not piece or stream.reset:
            return
        if stream.unwanted:
            self._throw_away(stream, len(piece))
            return
        received.changed.append(stream)
        if self.held + len(piece) > MOST_UNREAD:
            self.reset(stream, "this side holds too much that nobody reads")
            return
        stream.keep(piece, of, SMALL_PIECE if self.held < LOOSE_BYTES else TIGHT)
        self.held += len(piece)

    def _throw_away(self, stream: Stream, count: int) -> None:
        stream.thrown_away += count
        if stream.thrown_away > LINGER_BYTES:
            self.reset(stream)

    def _body_done(self, received: Received) -> None:
        stream, self._body_of = self._body_of, None
        if stream is not None and self._body_ends:
            self._ended(stream, self._body_ends)
            received.changed.append(stream)

    def _ended(self, stream: Stream, flags: int) -> None:
        if flags & frames.RST:
            # After its end, a reset says only that the other side does not listen any more.
            self._break(stream, keep=stream.end_received)
        elif flags & frames.FIN:
            stream.end_received = True
            self._forget_if_over(stream)

    # -- the end of streams ------------------------------------------------------------------------------------------

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.end_sent and stream.end_received:
            self._forget(stream)

    def _break(self, stream: Stream, *, keep: bool = False) -> None:
        stream.reset = True
        if not keep:
            self.held -= stream.drop()
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if not self._knows(stream):
            return
        del self.streams[stream.id]
        self._flags(stream)
        self._answered(stream)
        self._wide -= stream.window - FIRST_WINDOW
        self._theirs -= stream.id % 2 == self._their_parity

    def _knows(self, stream: Stream) -> bool:
        """Whether it is not over. The other side may have given its number to another one since."""
        return self.streams.get(stream.id) is stream

    def _has_been(self, number: int) -> bool:
        """Whether there ever was such a stream."""
        return 0 < number <= (self._their_highest if number % 2 == self._their_parity else self._next_id - 2)

    def _answered(self, stream: Stream) -> None:
        if not stream.answered:
            stream.answered = True
            self.unanswered -= 1

    def _flags(self, stream: Stream) -> int:
        flags, stream.due = stream.due, 0
        if flags & frames.ACK:
            self._theirs_unanswered -= 1
        return flags
