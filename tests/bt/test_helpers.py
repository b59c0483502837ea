"""Helper processes: what they find, and what becomes of the work when they fail. The processes are real, and short."""

import json
import os
import signal
import socket
import threading

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_p2p.bt import file_hashing, helpers, storing
from hivemind_p2p.bt.concurrency import in_thread
from hivemind_p2p.bt.exchange import Limits
from hivemind_p2p.bt.file_hashing import hash_files
from hivemind_p2p.bt.hash_helper import answer, serve
from hivemind_p2p.bt.hashing import BLOCK, hash_span, piece_hash, piece_leaves
from hivemind_p2p.bt.helpers import HelperError, start_checker, start_helper
from hivemind_p2p.bt.sharing import scan
from tests.bt.swarms import contents_of, make_folder, some_bytes
from tests.bt.swarms import hive as open_hive


@pytest.fixture
def helper():
    helper = start_helper()
    assert helper is not None
    yield helper
    helper.close()


@pytest.fixture
def checker():
    checker = start_checker(segment_bytes=4 * BLOCK)
    if checker is None:
        pytest.skip("this system has no memory to share")
    yield checker
    checker.close()


def placed(checker, data, *, segment=1, at=100):
    checker.segments[segment][at : at + len(data)] = data
    return memoryview(checker.segments[segment])[at : at + len(data)]


def test_a_helper_hashes_what_a_thread_would(helper, tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(some_bytes(5 * BLOCK + 3))
    leaves = piece_leaves(5 * BLOCK + 3, 2 * BLOCK)
    first, second = helper.hash([(str(path), 0, 4 * BLOCK, leaves), (str(path), 4 * BLOCK, 5 * BLOCK + 3, leaves)])
    assert first + second == hash_span(path, start=0, stop=5 * BLOCK + 3, leaves=leaves)


def test_a_helper_says_what_cannot_be_read_and_goes_on(helper, tmp_path):
    with pytest.raises(FileNotFoundError):
        helper.hash([(str(tmp_path / "nothing"), 0, BLOCK, 1)])
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(EOFError):
        helper.hash([(str(tmp_path / "short"), 0, BLOCK, 1)])
    assert helper.hash([(str(tmp_path / "short"), 0, 3, 1)]) == [piece_hash(b"abc", leaves=1)]


def test_names_that_are_no_text_are_hashed(helper, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    with open(path, "wb") as file:
        file.write(b"abc")
    assert helper.hash([(path, 0, 3, 1)]) == [piece_hash(b"abc", leaves=1)]


def test_pieces_in_shared_memory_are_checked(checker):
    data = some_bytes(3 * BLOCK)
    right, elsewhere = placed(checker, data), memoryview(data)
    wrong = placed(checker, data[:-1] + bytes([data[-1] ^ 1]), segment=0, at=0)
    expected = piece_hash(data, leaves=4)
    claims = [(right, len(data), 4, expected), (wrong, len(data), 4, expected), (elsewhere, len(data), 4, expected)]
    assert checker.check(claims) == [True, False, None]


def test_a_piece_of_the_wrong_length_is_not_asked_about(checker):
    data = placed(checker, some_bytes(BLOCK))
    assert checker.check([(data, BLOCK + 1, 2, bytes(32))]) == [None]


def test_a_killed_helper_costs_nothing_but_its_answers(checker):
    data = placed(checker, some_bytes(BLOCK))
    claim = (data, BLOCK, 1, piece_hash(data, leaves=1))
    assert checker.check([claim]) == [True]
    os.kill(checker.helper.process_id, signal.SIGKILL)
    assert checker.check([claim]) == [None]
    assert checker.helper.broken


def test_a_helper_that_hangs_is_left(helper, monkeypatch, tmp_path):
    helper._connection.settimeout(0.05)
    os.kill(helper.process_id, signal.SIGSTOP)
    with pytest.raises(HelperError):
        helper.hash([(str(tmp_path), 0, 1, 1)])
    with pytest.raises(HelperError):
        helper.hash([(str(tmp_path), 0, 1, 1)])


def test_a_helper_ends_with_the_peer_that_started_it(helper):
    helper._connection.shutdown(socket.SHUT_RDWR)
    assert helper._process.wait(10) == 0


def test_without_processes_there_is_no_helper(monkeypatch):
    monkeypatch.setattr(helpers.sys, "executable", "/nowhere/python")
    assert start_helper() is None
    assert start_checker(segment_bytes=BLOCK) is None


@given(st.lists(st.tuples(st.integers(0, 2 * BLOCK), st.integers(0, BLOCK), st.booleans()), max_size=5))
@settings(max_examples=50)
def test_answers_match_the_bytes(pieces):
    memory = memoryview(bytes(range(256)) * (3 * BLOCK // 256))
    question, expected = [], []
    for at, length, right in pieces:
        found = piece_hash(memory[at : at + length], leaves=1) if length else bytes(32)
        question.append([at, length, 1, found.hex() if right else bytes(32).hex()])
        expected.append(right and length > 0)
    assert answer({"check": question}, memory) == {"right": expected}


def test_lines_are_answered_in_their_order_until_the_end(tmp_path):
    ours, theirs = socket.socketpair()
    questions, answers = theirs.makefile("rb"), theirs.makefile("wb")
    thread = threading.Thread(target=serve, args=(questions, answers, memoryview(b"abcdef")))
    thread.start()
    with theirs, questions, answers, ours, ours.makefile("rwb") as lines:
        for _ in range(3):
            lines.write(
                json.dumps({"check": [[0, 3, 1, piece_hash(b"abc", leaves=1).hex()], [3, 3, 1, "00"]]}).encode()
            )
            lines.write(b"\n")
        lines.flush()
        assert [json.loads(lines.readline()) for _ in range(3)] == [{"right": [True, False]}] * 3
        ours.shutdown(socket.SHUT_WR)
        thread.join(10)
        assert not thread.is_alive()


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["works", "cannot be started", "dies"])
async def test_files_get_the_same_layers_with_helpers(fate, tmp_path, monkeypatch):
    folder = make_folder(
        tmp_path / "content", {name: some_bytes(5 * BLOCK + number) for number, name in enumerate("abcd")}
    )
    files = scan(folder).files
    asked = []

    def start():
        helper = start_helper() if fate != "cannot be started" else None
        if helper is not None and fate == "dies":
            os.kill(helper.process_id, signal.SIGKILL)
        asked.append(helper)
        return helper

    without = await hash_files(files, in_thread)
    monkeypatch.setattr(file_hashing, "WORTH_HELPERS", 1)
    monkeypatch.setattr(file_hashing, "start_helper", start)
    monkeypatch.setattr(file_hashing.os, "cpu_count", lambda: 2)
    assert await hash_files(files, in_thread, helpers=True) == without
    assert len(asked) == 2
    assert all(helper is None or helper.broken for helper in asked), "each is closed in the end"


async def test_few_bytes_are_hashed_without_helpers(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashing, "start_helper", lambda: pytest.fail("there is too little to do"))
    folder = make_folder(tmp_path / "content", {"a": b"1", "b": b"2"})
    await hash_files(scan(folder).files, in_thread, helpers=True)


# -- fetching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [False, True])
async def test_a_fetch_has_its_pieces_checked_by_a_helper(dies, tmp_path, monkeypatch):
    checks = []

    def start(*, segment_bytes):
        checker = start_checker(segment_bytes=segment_bytes)
        if checker is None:
            pytest.skip("this system has no memory to share")
        if dies:
            os.kill(checker.helper.process_id, signal.SIGKILL)
        real = checker.check

        def check(claims):
            checks.append(real(claims))
            return checks[-1]

        monkeypatch.setattr(checker, "check", check)
        return checker

    monkeypatch.setattr(storing, "WORTH_A_HELPER", 1)
    monkeypatch.setattr(storing, "start_checker", start)
    folder = make_folder(tmp_path / "original", {"a": some_bytes(40 * BLOCK), "b": some_bytes(3)})
    async with open_hive(tmp_path) as hive:
        seed, other = hive.member("seed"), hive.member("other", limits=Limits(helpers=True))
        link = await seed.swarm.share(folder)
        with trio.fail_after(60):
            await other.swarm.fetch(link, to=tmp_path / "there")
    assert contents_of(tmp_path / "there" / "original") == contents_of(folder)
    found = [right for check in checks for right in check]
    assert set(found) <= ({None} if dies else {None, True})
    assert dies or True in found
