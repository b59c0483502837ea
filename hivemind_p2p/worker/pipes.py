"""The way to a child and back: a pair of sockets for packets, a pipe for answers; `worker.packets` says of what."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from hivemind_p2p.tasks.spec import MAX_PAYLOAD_BYTES
from hivemind_p2p.worker.packets import LARGEST_PACKET, Reply, ReplyReader, WithFile
from hivemind_p2p.worker.spool import FileSpool

READS_AT_ONCE: Final = 16
"""Reads of a large value in one go: everything else waits meanwhile."""

READ_BYTES: Final = 1 << 16
"""Bytes of answers taken at a time: what a pipe holds."""

SOCKET_BYTES: Final = 1 << 20
"""Bytes of packets that may lie ready; the system allows less, as a rule a fifth of it."""

# Linux keeps packets apart and in order on a connected socket. Elsewhere a pair of datagram sockets does the same.
_KIND: Final = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)


class ChildGoneError(Exception):
    """The child ended, or wrote what no child of ours writes."""

    ENDED: Final = "it ended"


class ChildPipes:
    """Made before the child, whose two ends are `child_reads` and `child_writes`.

    Args:
        results: The folder for values that are too large to be held in memory; None where there are none.
    """

    def __init__(self, results: Path | None = None) -> None:
        self._requests, self._child_end = socket.socketpair(socket.AF_UNIX, _KIND)
        self._requests.setblocking(False)
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._replies, self.child_writes = os.pipe()
        os.set_blocking(self._replies, False)
        self._reader = ReplyReader(MAX_PAYLOAD_BYTES, partial(FileSpool, results) if results is not None else None)
        self._closed = False

    def allow(self, payload_bytes: int) -> None:
        """Says how large a value may be from now on."""
        self._reader.max_payload = payload_bytes

    @property
    def child_reads(self) -> int:
        """The child's end of the sockets. This process keeps it, to take back what the child has not taken."""
        return self._child_end.fileno()

    def child_started(self) -> None:
        """Lets go of what only the child needs."""
        os.close(self.child_writes)
        self.child_writes = -1

    def send_now(self, packet: bytes) -> bool:
        """Sends a packet if there is room for it."""
        try:
            if isinstance(packet, WithFile):
                self._send_with_file(packet)
            else:
                self._requests.send(packet)
        except OSError:  # full; or closed, which the reader of answers finds out as well
            return False
        return True

    def _send_with_file(self, packet: WithFile) -> None:
        try:
            descriptor = os.open(packet.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # it went meanwhile: reading it says so
        try:
            socket.send_fds(self._requests, [packet], [descriptor])
        finally:
            os.close(descriptor)

    async def send_all(self, parts: list[bytes]) -> None:
        """Sends packets one after the other, waiting for room; gives up once this is closed."""
        for packet in parts:
            while not self.send_now(packet):
                if self._closed:
                    return
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._requests)

    def recall(self) -> list[bytes]:
        """Takes back every packet that the child has not taken, also after the child's end."""
        packets = []
        with suppress(OSError):  # nothing is left
            while packet := self._child_end.recv(LARGEST_PACKET, socket.MSG_DONTWAIT):
                packets.append(packet)
        return packets

    async def wait_readable(self) -> bool:
        """Waits until there is an answer, or the end; False once this is closed."""
        if self._closed:
            return False
        try:
            await trio.lowlevel.wait_readable(self._replies)
        except trio.ClosedResourceError:
            return False
        return not self._closed

    def receive_now(self) -> Iterator[Reply]:
        """The answers that are there.

        Raises:
            ChildGoneError: There will be no more.
            BrokenFrameError: They are no answers.
        """
        for number in itertools.count():
            if self._closed or (number >= READS_AT_ONCE and self._reader.spooling):
                return
            try:
                data = os.read(self._replies, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                raise ChildGoneError(ChildGoneError.ENDED)
            yield from self._reader.feed(data)
            if len(data) < READ_BYTES // 2:
                return

    def close(self) -> None:
        """Closes all of it; whoever waits is woken."""
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._replies)
        trio.lowlevel.notify_closing(self._requests)
        os.close(self._replies)
        self._reader.close()
        self._requests.close()
        self._child_end.close()
        if self.child_writes >= 0:
            self.child_started()
