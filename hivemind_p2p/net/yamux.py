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

**Abuse** ends the connection, or costs only the abuser: more data than was granted, frames that make no sense, and
frames that do no work faster than `WORTHLESS_A_SECOND`, such as empty data, streams that are opened and reset, pings.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hivemind_p2p.errors import BusyError, ProtocolError
from hivemind_p2p.interfaces import Buffer
from hivemind_p2p.net import yamux_frames as frames
from hivemind_p2p.net.yamux_frames import FIRST_WINDOW, HEADER, HEADER_BYTES, frame

WIDEST_WINDOW: Final = 8 << 20
"""Bytes of one stream on the way: 1 Gbit/s over 64 ms."""

WIDE_BYTES: Final = 64 << 20
"""Bytes by which all windows of a connection together are wider than at first."""

MOST_UNREAD: Final = 64 << 20
"""Bytes that a peer can make this side hold: as much as eight streams at full width."""

LARGEST_FRAME: Final = 128 * 1024
"""Bytes of data in a frame that is sent: two packets of Noise; a small message waits for no more than this."""

MOST_STREAMS: Final = 4096
"""Streams that the other side may have open at once; what one service takes is the router's business."""

MOST_AHEAD: Final = 256
"""Streams that wait for this side to accept them; more are refused."""

LINGER_BYTES: Final = 64 * 1024
"""Bytes that arrive for a stream after this side has closed it, and are thrown away: a request that was refused
unread. Whoever sends more is told by a reset to stop."""

SMALL_PIECE: Final = 8
"""A piece is copied if the memory that it lies in is this many times larger."""

CRUMB: Final = 512
"""Bytes up to which neighbouring pieces are joined: a window of single bytes must not become 256 Ki objects."""

WORTHLESS_A_SECOND: Final = 500.0
WORTHLESS_AT_ONCE: Final = 2000.0
"""Frames that do no work: a caller that gives up a thousand requests at once is in order, a flood is not."""

MOST_OWED: Final = 256 * 1024
"""Bytes of answers (to pings, to streams refused) that wait because the other side does not read: then it is cut."""


class Stream:
    """One stream, as far as the session is concerned. Only `Session` changes it."""

    __slots__ = (
        "consumed",
        "credit",
        "due",
        "end_received",
        "end_sent",
        "held",
        "id",
        "owner",
        "reset",
        "send_window",
        "thrown_away",
        "unread",
        "unwanted",
        "window",
    )

    def __init__(self, number: int, due: int) -> None:
        self.id = number
        self.due = due  # flags that the next frame has to carry
        self.send_window = FIRST_WINDOW
        self.window = FIRST_WINDOW  # what the other side may have on the way or unread here
        self.credit = FIRST_WINDOW  # what it may still send
        self.consumed = 0  # what was read here and not granted anew
        self.unread: deque[memoryview] = deque()
        self.held = 0
        self.end_sent = self.end_received = self.reset = False
        self.unwanted = False
        self.thrown_away = 0
        self.owner: object = None
        """Whatever the shell wants to find again when the stream has something new."""

    @property
    def over(self) -> bool:
        """Whether nothing can be received any more beyond what lies unread."""
        return self.end_received or self.reset


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
    """

    def __init__(self, *, dialled: bool) -> None:
        self.streams: dict[int, Stream] = {}
        self.carried = 0
        self.held = 0
        self._next_id = 1 if dialled else 2
        self._their_parity = 0 if dialled else 1
        self._wide = 0
        self._theirs = 0
        self._waiting = 0
        self._output: list[Buffer] = []
        self._owed = 0
        self._pings = 0
        self._head = b""
        self._body_left = 0
        self._body_of: Stream | None = None
        self._body_ends = 0
        self._worthless = 0.0
        self._worthless_at = 0.0
        self._gone_away = False
        self._told_away = False

    # -- what this side does -----------------------------------------------------------------------------------------

    def open(self) -> Stream:
        """A new stream; the other side learns of it with the first frame on it.

        Raises:
            BusyError: The other side takes no streams any more, or this side has used up all numbers.
        """
        if self._gone_away:
            raise BusyError("the other side takes no new streams on this connection")
        if self._next_id > 0xFFFF_FFFF:
            raise BusyError("this connection has carried as many streams as it can number")
        stream = Stream(self._next_id, frames.SYN)
        self._next_id += 2
        self.streams[stream.id] = stream
        self.carried += 1
        return stream

    def accepted(self) -> None:
        """Notes that one of the streams that the other side opened has found somebody to answer it."""
        self._waiting -= 1

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
        """Tells the other side of a stream on which nothing is to be sent yet."""
        if stream.due and not stream.reset:
            self._output.append(frame(frames.WINDOW_UPDATE, self._flags(stream), stream.id, 0))

    def end(self, stream: Stream) -> None:
        """Says that nothing more will be sent."""
        if stream.end_sent or stream.reset:
            return
        stream.end_sent = True
        self._output.append(frame(frames.DATA, self._flags(stream) | frames.FIN, stream.id, 0))
        self._forget_if_over(stream)

    def reset(self, stream: Stream) -> None:
        """Ends both directions at once; what lies unread is lost."""
        if stream.reset or stream.id not in self.streams:
            return
        if not stream.due & frames.SYN:  # else the other side has never heard of it
            self._output.append(frame(frames.WINDOW_UPDATE, stream.due | frames.RST, stream.id, 0))
        self._break(stream)

    def abandon(self, stream: Stream) -> None:
        """Says that this side neither sends nor reads any more; a little of what still arrives is thrown away."""
        self.end(stream)
        stream.unwanted = True
        self._drop_unread(stream)

    def ping(self) -> int:
        """Sends a ping; its answer comes with the value returned."""
        self._pings = (self._pings + 1) & 0xFFFF_FFFF
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
        self._owed = 0
        return output

    @property
    def has_output(self) -> bool:
        """Whether something has to be sent."""
        return bool(self._output)

    # -- reading -----------------------------------------------------------------------------------------------------

    def read(self, stream: Stream, most: int) -> bytes:
        """Takes unread bytes of a stream, up to `most`."""
        piece = stream.unread[0]
        if len(piece) <= most:
            stream.unread.popleft()
        else:
            stream.unread[0] = piece[most:]
            piece = piece[:most]
        self._consumed(stream, len(piece))
        return bytes(piece)

    def read_into(self, stream: Stream, place: memoryview) -> int:
        """Takes as many unread bytes of a stream as there are and `place` has room for; their number."""
        room, filled = len(place), 0
        while stream.unread and filled < room:
            piece = stream.unread[0]
            if len(piece) <= room - filled:
                stream.unread.popleft()
            else:
                stream.unread[0] = piece[room - filled :]
                piece = piece[: room - filled]
            place[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._consumed(stream, filled)
        return filled

    def unread(self, stream: Stream, data: bytes) -> None:
        """Puts bytes back that were read; their credit stays given."""
        if data:
            stream.unread.appendleft(memoryview(data))
            stream.held += len(data)
            self.held += len(data)
            stream.consumed -= len(data)

    def _consumed(self, stream: Stream, count: int) -> None:
        stream.held -= count
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
        elif kind == frames.PING:
            self._ping(flags, value, received, now)
        else:
            self._gone_away = True
            received.gone_away = value

    def _ping(self, flags: int, value: int, received: Received, now: float) -> None:
        if flags & frames.SYN:
            self._note_worthless(now)
            self._owe(frame(frames.PING, frames.ACK, 0, value))
        elif flags & frames.ACK:
            received.pongs.append(value)

    def _stream_frame(self, kind: int, flags: int, number: int, value: int, received: Received, now: float) -> None:
        stream = self._arriving(number, received, now) if flags & frames.SYN else self.streams.get(number)
        if kind == frames.DATA and value:
            self._body_left = value
            self._body_of = stream
            self._body_ends = flags & (frames.FIN | frames.RST)
            if stream is not None:
                if value > stream.credit:
                    raise ProtocolError(f"{value} bytes of data where {stream.credit} were granted")
                stream.credit -= value
            return
        if stream is None:
            self._note_worthless(now)
            return
        if kind == frames.WINDOW_UPDATE and value:
            stream.send_window = min(stream.send_window + value, 0xFFFF_FFFF)
        elif not flags:
            self._note_worthless(now)
        if flags & frames.RST:
            self._note_worthless(now)
        self._ended(stream, flags)
        received.changed.append(stream)

    def _arriving(self, number: int, received: Received, now: float) -> Stream | None:
        if number in self.streams or number % 2 != self._their_parity or not number:
            raise ProtocolError(f"stream {number} was opened twice, or by the wrong side")
        if self._told_away or self._waiting >= MOST_AHEAD or self._theirs >= MOST_STREAMS:
            self._note_worthless(now)
            self._owe(frame(frames.WINDOW_UPDATE, frames.RST, number, 0))
            return None
        stream = Stream(number, frames.ACK)
        self.streams[number] = stream
        self._theirs += 1
        self._waiting += 1
        self.carried += 1
        received.opened.append(stream)
        return stream

    def _body(self, piece: memoryview, of: int, received: Received) -> None:
        stream = self._body_of
        if stream is None or not piece or stream.reset:
            return
        if stream.end_received:
            raise ProtocolError(f"data after the end of stream {stream.id}")
        if stream.unwanted:
            stream.thrown_away += len(piece)
            if stream.thrown_away > LINGER_BYTES:
                self.reset(stream)
            return
        if self.held + len(piece) > MOST_UNREAD:
            self.reset(stream)
            received.changed.append(stream)
            return
        _keep(stream, piece, of)
        self.held += len(piece)
        received.changed.append(stream)

    def _body_done(self, received: Received) -> None:
        stream, self._body_of = self._body_of, None
        if stream is not None and self._body_ends:
            self._ended(stream, self._body_ends)
            received.changed.append(stream)

    def _ended(self, stream: Stream, flags: int) -> None:
        if flags & frames.RST:
            self._break(stream)
        elif flags & frames.FIN:
            stream.end_received = True
            self._forget_if_over(stream)

    # -- the end of streams ------------------------------------------------------------------------------------------

    def _forget_if_over(self, stream: Stream) -> None:
        if stream.end_sent and stream.end_received:
            self._forget(stream)

    def _break(self, stream: Stream) -> None:
        stream.reset = True
        self._drop_unread(stream)
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        self._wide -= stream.window - FIRST_WINDOW
        stream.window = FIRST_WINDOW
        self._theirs -= stream.id % 2 == self._their_parity

    def _drop_unread(self, stream: Stream) -> None:
        self.held -= stream.held
        stream.held = 0
        stream.unread.clear()

    def _flags(self, stream: Stream) -> int:
        flags, stream.due = stream.due, 0
        return flags

    # -- abuse -------------------------------------------------------------------------------------------------------

    def _note_worthless(self, now: float) -> None:
        passed = max(0.0, now - self._worthless_at)
        self._worthless = max(0.0, self._worthless - passed * WORTHLESS_A_SECOND) + 1
        self._worthless_at = now
        if self._worthless > WORTHLESS_AT_ONCE:
            raise ProtocolError(f"over {WORTHLESS_AT_ONCE:g} frames that do no work")

    def _owe(self, answer: bytes) -> None:
        self._output.append(answer)
        self._owed += len(answer)
        if self._owed > MOST_OWED:
            raise ProtocolError("questions without reading the answers")


def _keep(stream: Stream, piece: memoryview, of: int) -> None:
    """Keeps a piece until it is read, without keeping much more than the piece in memory."""
    stream.held += len(piece)
    if stream.unread and len(stream.unread[-1]) + len(piece) <= CRUMB:
        stream.unread[-1] = memoryview(bytes(stream.unread[-1]) + bytes(piece))
    elif SMALL_PIECE * len(piece) < of:
        stream.unread.append(memoryview(bytes(piece)))
    else:
        stream.unread.append(piece)
