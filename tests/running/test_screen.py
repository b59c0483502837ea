"""The screen fills any terminal exactly, and says what matters even in a small one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hivemind_p2p.running.screen import Screen
from hivemind_p2p.running.view import Earned, Lent, LogLine, NetworkView, View, Work
from hivemind_p2p.types import PeerId
from hivemind_p2p.worker.reporter import GpuReport, MachineReport, TaskReport

GIB = 1 << 30
TASKS = tuple(
    TaskReport(f"3fd6278940d188d9249a{number:012}", PeerId("12D3KooWAlice"), "function/1", 3.0 * number, 2.0, GIB // 8)
    for number in range(40)
)
BUSY = View(
    peer_id="12D3KooWRmvSyKzMbNNgS82gGHabMu483riHgZQMS3qoB7Hc6DDD",
    name="ada's laptop",
    address="/ip4/127.0.0.1/tcp/4951",
    seconds=8000.0,
    lent=Lent(4.0, 8 * GIB, 1, "bubblewrap, Landlock, seccomp", models=True),
    work=Work(running=2, waiting=14, completed=12345, failed=3, history=(1, 2, 3, 50, 4)),
    earned=Earned(account="ada", earned=1_234_567, unsettled=100, balance=100_342_382),
    network=NetworkView(peers=7, connections=5, relayed=1, reachability="public", upload=1.5 * 2**20),
    machine=MachineReport(0.61, 3 * GIB, 16 * GIB, TASKS, (GpuReport("H200", 0.5, GIB, 141 * GIB),)),
    stages=("0-3", "4-7"),
    generations=2,
    log=tuple(LogLine("12:00:00", "warning", f"event {number}") for number in range(30)),
)
QUIET = View(peer_id=BUSY.peer_id, lent=Lent(1.0, GIB, sandbox="no walls"))


def drawn(view, width, height, **more):
    console = Console(width=width, height=height, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(Screen(view, **more), height=height)
    return captured.get()


@given(st.integers(30, 240), st.integers(6, 80), st.sampled_from([BUSY, QUIET]))
def test_it_fills_its_place_exactly(width, height, view):
    lines = Screen(view).lines(width, height)
    assert len(lines) == height
    shown = drawn(view, width, height).split("\n")
    assert len(shown) <= height + 1
    assert all(len(line) <= width for line in shown)


def test_a_small_terminal_shows_what_matters():
    text = drawn(BUSY, 80, 24)
    for word in ("ada's laptop", "takes tasks", "up 2:13:20", "61%", "3.0 of 16.0 GiB", "4 cores", "1 GPU"):
        assert word in text
    for word in ("1.234567", "100.342382", "7 peers, 5 connections", "can be called directly", "layers 0-3, 4-7"):
        assert word in text
    for word in (
        "2 run, 14 wait",
        "12,345 done, 3 failed",
        "Running now: 1 of 40",
        "3fd627…00000039",
        "event 29",
        "p pause",
    ):
        assert word in text


def test_a_large_one_shows_more_of_what_runs_and_happened():
    small, large = drawn(BUSY, 80, 24), drawn(BUSY, 200, 60)
    assert large.count("function/1") > 20 > small.count("function/1") > 0
    assert large.count("event") > small.count("event") >= 2
    assert large.splitlines()[3].count("Machine") == 1
    assert "Network" in large.splitlines()[3], "four blocks stand in one row"


def test_the_walls_are_named():
    assert "bubblewrap, Landlock, seccomp" in drawn(replace(BUSY, machine=QUIET.machine), 80, 24)


def test_who_works_for_nothing_or_without_walls_sees_it():
    text = drawn(QUIET, 80, 24)
    assert "works for nothing" in text
    assert "run trusted work only" in text
    assert "nothing" in text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("paused", "paused: its user has paused it"),
        ("leaving", "finishing what runs"),
        ("off hours", "off hours"),
        ("in use", "waits"),
    ],
)
def test_states(state, words):
    text = drawn(replace(BUSY, state=state, reason="its user has paused it"), 80, 24)
    assert words in text
    assert ("p resume" in text) == (state == "paused")


def test_without_a_keyboard_no_key_is_named():
    assert "p pause" not in drawn(BUSY, 80, 24, keys=False)
