"""Memory that is used again."""

from mmap import mmap

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


def shared(*lengths):
    return [mmap(-1, length) for length in lengths]


def test_shared_memory_is_used_first_and_again():
    buffers = Buffers(1024)
    segments = shared(4096, 4096)
    buffers.share(segments)
    views = [buffers.take(1000) for _ in range(3)]
    assert {id(view.obj) for view in views[:2]} == set(map(id, segments))
    assert isinstance(views[2].obj, bytearray)
    for view in views:
        buffers.give_back(view)
    assert {id(buffers.take(10).obj), id(buffers.take(10).obj)} == set(map(id, segments))


def test_what_is_too_long_for_shared_memory_does_not_cost_it():
    buffers = Buffers(1024)
    segments = shared(4096)
    buffers.share(segments)
    assert isinstance(buffers.take(5000).obj, bytearray)
    assert buffers.take(4096).obj is segments[0]


def test_shared_memory_outlasts_a_pause():
    buffers = Buffers(1024)
    segments = shared(4096)
    buffers.share(segments)
    buffers.clear()
    assert buffers.take(1).obj is segments[0]


def test_memory_that_is_shared_no_more_is_forgotten():
    buffers = Buffers(1024)
    buffers.share(shared(4096, 4096))
    view = buffers.take(10)
    buffers.unshare()
    buffers.give_back(view)
    assert isinstance(buffers.take(10).obj, bytearray)
