"""What goes between a child and its peer: nothing that a child writes does harm."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.worker import packets
from hivemind_p2p.worker.packets import BrokenFrameError, ReplyReader
from hivemind_p2p.worker.spool import FileSpool


def frame(ticket, report=b"", payload=b""):
    head = packets.REPLY_HEAD.pack(packets.RESULT, ticket, 0, len(report), len(payload), 0.5, 0.25, 7)
    return head + report + payload


@given(st.lists(st.tuples(st.integers(0, 1 << 63), st.binary(max_size=20), st.binary(max_size=200))), st.data())
def test_frames_are_found_however_the_stream_is_cut(frames, data):
    stream = b"".join(frame(*each) for each in frames)
    reader, found = ReplyReader(1000), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert [(reply.ticket, reply.report, reply.payload) for reply in found] == frames


class Memory:
    """A spool that is none: it keeps what it takes."""

    def __init__(self, length):
        self.left, self.data = length, b""

    def take(self, data):
        taken = min(self.left, len(data))
        self.left -= taken
        self.data += bytes(data[:taken])
        return taken

    def finish(self):
        return self.data, ""


@given(st.lists(st.tuples(st.integers(0, 1 << 63), st.binary(max_size=20), st.binary(max_size=200))), st.data())
def test_large_values_go_elsewhere_however_the_stream_is_cut(frames, data):
    stream = b"".join(frame(*each) for each in frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packets, "LARGEST_KEPT", 50)
        reader, found = ReplyReader(1000, Memory), []
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            found += reader.feed(stream[:size])
            stream = stream[size:]
    assert not reader.spooling
    assert [(reply.ticket, reply.report, reply.path or reply.payload) for reply in found] == frames
    assert all(bool(reply.path) == (len(value) > 50) for reply, (_, _, value) in zip(found, frames, strict=True))


def test_what_is_printed_never_goes_into_a_file(monkeypatch):
    monkeypatch.setattr(packets, "LARGEST_KEPT", 50)
    head = packets.REPLY_HEAD.pack(packets.PRINTED, 1, 0, 0, 51, 0.0, 0.0, 0)
    with pytest.raises(BrokenFrameError):
        list(ReplyReader(1000, Memory).feed(head))


def test_a_file_that_is_not_whole_goes_and_a_full_disk_costs_the_result_only(tmp_path, monkeypatch):
    spool = FileSpool(tmp_path / "results", 10)
    assert spool.take(memoryview(b"12345")) == 5
    spool.close()
    assert list(tmp_path.joinpath("results").iterdir()) == []
    spool = FileSpool(tmp_path / "results", 10)
    assert spool.take(memoryview(b"0123456789abc")) == 10
    path, lost = spool.finish()
    assert (Path(path).read_bytes(), lost) == (b"0123456789", "")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = FileSpool(tmp_path / "results", 10)
    monkeypatch.setattr(os, "write", full)
    assert spool.take(memoryview(b"0123456789")) == 10
    assert spool.finish() == ("", "this peer could not store its result: No space left on device")
    assert [str(each) for each in tmp_path.joinpath("results").iterdir()] == [path]


@given(st.binary(max_size=500))
def test_garbage_is_refused_or_waits_for_more(data):
    reader = ReplyReader(1000)
    try:
        for reply in reader.feed(data):
            assert len(reply.payload) <= 1000
    except BrokenFrameError:
        pass


@pytest.mark.parametrize("lengths", [(packets.MAX_HEADER_BYTES + 1, 0), (0, 1001)])
def test_no_memory_is_taken_for_what_is_too_long(lengths):
    head = packets.REPLY_HEAD.pack(packets.RESULT, 1, 0, *lengths, 0.0, 0.0, 0)
    with pytest.raises(BrokenFrameError):
        list(ReplyReader(1000).feed(head))


@pytest.mark.parametrize("size", [0, 10, packets.WHOLE_PACKET, packets.WHOLE_PACKET + 1, 5 * packets.WHOLE_PACKET])
def test_what_is_large_goes_in_pieces(size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    sent = list(packets.task_packets(7, b"function/1", data, slot=3, flags=0, memory_bytes=1 << 30))
    assert all(len(packet) <= packets.LARGEST_PACKET for packet in sent)
    assert packets.ticket_of(sent[0]) == 7
    assert [packets.ticket_of(packet) for packet in sent[1:]] == [None] * (len(sent) - 1)
    behind = sent[0][packets.TASK_HEAD.size + len(b"function/1") :]
    assert behind + b"".join(packet[1:] for packet in sent[1:]) == data
    assert packets.slot_of(next(packets.shared_packets(5, data))) == 5
