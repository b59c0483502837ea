"""The conformance check of byte streams: whatever implements `ByteStream` has to pass it.

    async def test_my_stream():
        await check_stream(make_pair)

It runs trio's own `check_half_closeable_stream` and then checks what a hive relies on besides. Of trio's check,
these parts do not apply:

- `wait_send_all_might_not_block`: a `ByteStream` has no such method, because nothing here writes data that it would
  rather make up at the last moment. The check sees one that only tells whether the stream is closed.
- The checks with a *clogged* stream are built on that method. What matters of them is checked here: a writer waits
  for a reader, goes on when it reads, and wakes up when either side closes or it is cancelled.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio
import trio.testing

from hivemind_p2p.interfaces import Buffer, ByteStream

PairMaker: TypeAlias = Callable[[], Awaitable[tuple[ByteStream, ByteStream]]]

TRANSFER: Final = 3 * 1024 * 1024 + 17
"""Bytes sent each way at once; more than the windows and read-aheads on the way hold together."""

CLOG: Final = 64 * 1024 * 1024
"""Bytes that no stream may take without a reader."""

QUIET: Final = 0.1
"""Seconds after which a writer without a reader is stuck: what fits on the way is there by then."""

PATIENCE: Final = 20.0
"""Seconds after which a step of the check has failed."""


async def check_stream(make_pair: PairMaker) -> None:
    """Checks an implementation of `ByteStream`.

    Args:
        make_pair: Makes two connected ends.

    Raises:
        AssertionError: The stream breaks one of its promises.
        trio.TooSlowError: A step did not end.
    """

    async def make_trio_pair() -> tuple[_AsTrioStream, _AsTrioStream]:
        first, second = await make_pair()
        return _AsTrioStream(first), _AsTrioStream(second)

    await trio.testing.check_half_closeable_stream(make_trio_pair, None)
    for check in (
        _check_both_ways_at_once,
        _check_small_reads,
        _check_end_leaves_the_other_way_open,
        _check_writer_waits_for_reader,
        _check_blocked_writer_can_be_cancelled,
        _check_blocked_writer_learns_of_closing,
    ):
        first, second = await make_pair()
        try:
            with trio.fail_after(PATIENCE):
                await check(first, second)
        finally:
            await first.aclose()
            await second.aclose()


class _AsTrioStream(trio.abc.HalfCloseableStream):
    """A `ByteStream` in the shape that trio's check asks for."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._closed = False

    async def send_all(self, data: Buffer) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._closed = True
        await self._stream.aclose()


async def _receive_all(stream: ByteStream, max_bytes: int | None = None) -> bytes:
    received = bytearray()
    while data := await stream.receive_some(max_bytes):
        assert max_bytes is None or len(data) <= max_bytes, "receive_some returned more than it was asked for"
        received += data
    return bytes(received)


async def _check_both_ways_at_once(first: ByteStream, second: ByteStream) -> None:
    sent = [random.Random(seed).randbytes(TRANSFER) for seed in (1, 2)]  # noqa: S311 - test data
    received: list[bytes] = [b"", b""]

    async def send(stream: ByteStream, data: bytes) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async def receive(stream: ByteStream, place: int) -> None:
        received[place] = await _receive_all(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, first, sent[0])
        nursery.start_soon(send, second, sent[1])
        nursery.start_soon(receive, second, 0)
        nursery.start_soon(receive, first, 1)
    assert received == sent, "bytes were lost, changed or reordered"


async def _check_small_reads(first: ByteStream, second: ByteStream) -> None:
    await first.send_all(b"abc")
    await first.send_all(b"defg")
    await first.send_eof()
    assert await _receive_all(second, 2) == b"abcdefg"


async def _check_end_leaves_the_other_way_open(first: ByteStream, second: ByteStream) -> None:
    await first.send_all(b"question")
    await first.send_eof()
    assert await _receive_all(second) == b"question"
    await second.send_all(b"answer")
    await second.send_eof()
    assert await _receive_all(first) == b"answer"
    assert await first.receive_some() == b"", "the end must be told as often as it is asked for"


async def _clog(stream: ByteStream) -> None:
    """Writes until nothing more goes in."""
    await stream.send_all(bytes(CLOG))
    raise AssertionError(f"the stream took {CLOG} bytes that nobody read")


async def _fill(stream: ByteStream) -> None:
    """Writes for `QUIET` seconds, by when nothing more goes in."""
    with trio.move_on_after(QUIET):
        await _clog(stream)


async def _check_writer_waits_for_reader(first: ByteStream, second: ByteStream) -> None:
    data = bytes(range(256)) * (TRANSFER // 256)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.send_all, data)
        await trio.sleep(QUIET)
        received = bytearray()
        while len(received) < len(data):
            received += await second.receive_some()
    assert received == data


async def _check_blocked_writer_can_be_cancelled(first: ByteStream, second: ByteStream) -> None:
    await _fill(first)
    started = trio.current_time()
    with trio.move_on_after(0.05):
        await _clog(first)
    assert trio.current_time() - started < 1, "a cancelled writer did not leave"
    await first.aclose()
    await _receive_until_over(second)


async def _receive_until_over(stream: ByteStream) -> None:
    try:
        await _receive_all(stream)
    except trio.BrokenResourceError:
        return


async def _check_blocked_writer_learns_of_closing(first: ByteStream, second: ByteStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect, trio.BrokenResourceError, first)
        await trio.sleep(QUIET)
        await second.aclose()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect, (trio.ClosedResourceError, trio.BrokenResourceError), first)
        await first.aclose()


async def _expect(error: type[Exception] | tuple[type[Exception], ...], stream: ByteStream) -> None:
    try:
        await _clog(stream)
    except error:
        return
