"""Memory that is used again."""

from hivemind_p2p.bt.buffers import SPARE_BYTES, Buffers


def test_what_was_given_back_is_taken_again():
    buffers = Buffers(1024)
    first = buffers.take(1000)
    buffers.give_back(first)
    second = buffers.take(10)
    assert (len(first), len(second)) == (1000, 10)
    assert first.obj is second.obj


def test_nothing_that_is_in_use_is_given_out():
    buffers = Buffers(1024)
    assert buffers.take(10).obj is not buffers.take(10).obj


def test_a_buffer_that_is_too_short_is_not_used():
    buffers = Buffers(1024)
    buffers.give_back(buffers.take(1024))
    assert len(buffers.take(4096)) == 4096
    assert buffers.spare_bytes == 0


def test_few_bytes_are_kept():
    buffers = Buffers(1)
    for view in [buffers.take(SPARE_BYTES // 2) for _ in range(4)]:
        buffers.give_back(view)
    assert buffers.spare_bytes == SPARE_BYTES
    buffers.clear()
    assert buffers.spare_bytes == 0


def test_foreign_memory_is_not_kept():
    buffers = Buffers(1)
    buffers.give_back(memoryview(b"abc"))
    assert buffers.spare_bytes == 0
