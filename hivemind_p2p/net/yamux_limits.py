"""What one Yamux connection may cost this side, whoever is at the other end. All of it is within the specification.

What a peer can make this side hold on one connection: `MOST_UNREAD` bytes that nobody has read (as much again for
keeping track of them, if it sends them in the smallest pieces; and `LOOSE_BYTES` times `SMALL_PIECE` for memory that
is shared with what was read), `MOST_STREAMS` streams, and `MOST_FRAMES_WAITING` answers that it does not fetch.

Source for the streams without an answer: libp2p's notes on Yamux, "ACK backlog"
(https://github.com/libp2p/specs/blob/master/yamux/README.md).
"""

from __future__ import annotations

from typing import Final

from hivemind_p2p.errors import ProtocolError

WIDEST_WINDOW: Final = 8 << 20
"""Bytes of one stream on the way: 1 Gbit/s over 64 ms."""

WIDE_BYTES: Final = 64 << 20
"""Bytes by which all windows of a connection together are wider than at first."""

MOST_UNREAD: Final = 64 << 20
"""Bytes that a peer can make this side hold: as much as eight streams at full width."""

LARGEST_FRAME: Final = 4 * 65_519
"""Bytes of data in a frame that is sent: four packets of Noise, none of which is a small rest. A small message waits
for no more than this. It is less than the first window."""

MOST_STREAMS: Final = 1024
"""Streams that the other side may have open at once; what one service takes is the router's business."""

MOST_UNANSWERED: Final = 256
"""Streams that either side may have opened without having heard anything on them. More that the other side opens are
refused; this side waits before it opens more."""

LINGER_BYTES: Final = 64 * 1024
"""Bytes that lie unread when this side closes a stream, or arrive after that, and are thrown away: a request that was
refused unread. Whoever has sent more is told by a reset to stop, at once: it may wait for a window that never opens."""

LOOSE_BYTES: Final = 4 << 20
"""Unread bytes of a connection up to which a piece may lie in memory `SMALL_PIECE` times its size, because copying
it would cost more than the memory. Beyond that, twice its size."""

SMALL_PIECE: Final = 8
TIGHT: Final = 2

CRUMB: Final = 1024
"""Bytes up to which neighbouring pieces are joined: a window of single bytes must not become 256 Ki objects."""

MOST_FRAMES_WAITING: Final = 16 * 1024
"""Frames that wait because the other side does not read, about a MiB of them: a side that asks and never fetches its
answers is cut. One that is only slow has a few for each of its streams."""

WORTHLESS_A_SECOND: Final = 500.0
WORTHLESS_AT_ONCE: Final = 2000.0
"""Frames that do no work: a caller that gives up a thousand requests at once is in order, a flood is not."""

LATE: Final = 0.125
"""What a window for a stream that is over counts for: libp2p's own Yamux sends one with each read."""


class Worthless:
    """Counts frames that do no work: they drain away at `WORTHLESS_A_SECOND`."""

    __slots__ = ("_at", "_level")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0

    def note(self, now: float, weight: float = 1.0) -> None:
        """One more.

        Raises:
            ProtocolError: It was one too many.
        """
        passed = max(0.0, now - self._at)
        self._level = max(0.0, self._level - passed * WORTHLESS_A_SECOND) + weight
        self._at = now
        if self._level > WORTHLESS_AT_ONCE:
            raise ProtocolError(f"over {WORTHLESS_AT_ONCE:g} frames that do no work")
