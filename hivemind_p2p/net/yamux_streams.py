"""One Yamux stream's windows, and what has arrived on it and lies unread."""

from __future__ import annotations

from collections import deque

from hivemind_p2p.net.yamux_frames import FIRST_WINDOW
from hivemind_p2p.net.yamux_limits import CRUMB, SMALL_PIECE


class Stream:
    """One stream, as far as the session is concerned. Only `yamux.Session` changes it.

    At any time ``credit + held + consumed == window``: what may still come, lies here, and was taken.

    Attributes:
        id: Its number on the connection.
        due: Flags that the next frame has to carry.
        answered: Whether the other side has said anything on a stream that this side opened.
        send_window: Bytes that may be sent now.
        window: Bytes that the other side may have on the way or unread here.
        credit: Bytes that it may still send.
        consumed: Bytes that were read here and not granted anew.
        held: Bytes that lie unread.
        unwanted: Whether this side has closed it, so that what arrives is thrown away.
        reason: Why it was reset, if this side did so by itself.
        owner: Whatever the shell wants to find again when the stream has something new.
    """

    __slots__ = (
        "answered",
        "consumed",
        "credit",
        "due",
        "end_received",
        "end_sent",
        "held",
        "id",
        "owner",
        "reason",
        "reset",
        "send_window",
        "thrown_away",
        "unread",
        "unwanted",
        "window",
    )

    def __init__(self, number: int, due: int, *, answered: bool) -> None:
        self.id = number
        self.due = due
        self.answered = answered
        self.send_window = self.window = self.credit = FIRST_WINDOW
        self.consumed = self.held = self.thrown_away = 0
        self.unread: deque[memoryview] = deque()
        self.end_sent = self.end_received = self.reset = self.unwanted = False
        self.reason = ""
        self.owner: object = None

    @property
    def over(self) -> bool:
        """Whether nothing can be received any more beyond what lies unread."""
        return self.end_received or self.reset

    def keep(self, piece: memoryview, of: int, waste: int) -> None:
        """Keeps a piece until it is read.

        Args:
            piece: What has arrived.
            of: Bytes of the memory that it lies in.
            waste: It is copied if that memory is more than so many times larger, because it would keep all of it.
        """
        self.held += len(piece)
        unread = self.unread
        if unread and len(unread[-1]) + len(piece) <= CRUMB:
            unread[-1] = memoryview(bytes(unread[-1]) + bytes(piece))
        elif waste * len(piece) < of:
            unread.append(memoryview(bytes(piece)))
        else:
            unread.append(piece)

    def take(self, most: int) -> memoryview:
        """Takes the first unread piece, or as much of it as is wanted."""
        piece = self.unread[0]
        if len(piece) <= most:
            self.unread.popleft()
        else:
            self.unread[0] = _rest(piece, most)
            piece = piece[:most]
        self.held -= len(piece)
        return piece

    def put_back(self, data: bytes) -> None:
        """Makes bytes that were taken the first unread ones."""
        self.unread.appendleft(memoryview(data))
        self.held += len(data)

    def drop(self) -> int:
        """Forgets what lies unread; how many bytes that was."""
        dropped, self.held = self.held, 0
        self.unread.clear()
        return dropped


def _rest(piece: memoryview, start: int) -> memoryview:
    """What follows in a piece; copied if it has become small for the memory that it lies in."""
    rest = piece[start:]
    whole = piece.obj
    if isinstance(whole, (bytes, bytearray)) and SMALL_PIECE * len(rest) < len(whole):
        return memoryview(bytes(rest))
    return rest
