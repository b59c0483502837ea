"""WebAssembly: fuel, memory, output, exits and nonsense; and in a real child behind the walls."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import NotSerializableError, TaskFailedError, TaskMemoryError
from hivemind_p2p.tasks import registry, values
from hivemind_p2p.tasks.library import wasm
from hivemind_p2p.tasks.reading import decode
from hivemind_p2p.types import Needs, PeerId, Work
from hivemind_p2p.worker.executor import ChildExecutor

pytest.importorskip("wasmtime", reason="wasmtime is not installed")

MIB = 1 << 20
ADD = b"""
(module (func (export "add") (param i32 f64) (result f64)
  (f64.add (f64.convert_i32_s (local.get 0)) (local.get 1))))
""".strip()
TWO = b'(module (func (export "two") (result i32 i64) (i32.const 7) (i64.const -8)))'
LOOP = b'(module (func (export "_start") (loop (br 0))))'
DEEP = b'(module (func $deep (export "_start") (call $deep)))'
NAN = b'(module (func (export "nan") (result f64) (f64.sqrt (f64.const -1))))'
ECHO = b"""
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 1000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 3))))
"""
OPEN = b"""
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $given (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "/etc/passwd")
  (func (export "open") (result i32)
    (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 11) (i32.const 0)
      (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
  (func (export "given") (result i32) (call $given (i32.const 3) (i32.const 0))))
"""
GROW = b"""
(module (memory (export "memory") 1)
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
"""
LARGE = b'(module (memory (export "memory") 4096) (func (export "_start")))'
BAD_DESCRIPTOR = 8


def run(module, arguments=(), given=b"", *, memory=64 * MIB, **more):
    return wasm.WasmTask().run(memoryview(wasm.pack(module, arguments, given, memory=memory, **more)))


def test_functions_take_and_return_numbers():
    assert run(ADD, function="add", parameters=[2, 0.5])["value"] == 2.5
    assert run(TWO, function="two")["value"] == [7, -8]


def test_a_program_reads_writes_and_exits():
    result = run(ECHO, given=b"hello")
    assert result == {
        "status": 3, "output": b"hello", "errors": b"hello", "cut": False, "value": None, "fuel": result["fuel"],
    }  # fmt: skip
    assert 0 < result["fuel"] < 1000


def test_what_is_used_up_is_the_same_each_time():
    task = wasm.WasmTask()
    payload = memoryview(wasm.pack(ECHO, given=b"hello", memory=MIB))
    assert task.run(payload) == task.run(payload)


def test_an_endless_loop_ends_with_its_fuel():
    with pytest.raises(TaskFailedError, match="used up its fuel"):
        run(LOOP, fuel=1_000_000)


def test_too_deep_a_call_is_a_trap():
    with pytest.raises(TaskFailedError, match="trapped: call stack exhausted"):
        run(DEEP)


def test_memory_is_bounded():
    assert run(GROW, function="grow", parameters=[10], memory=MIB)["value"] == 1
    assert run(GROW, function="grow", parameters=[16], memory=MIB)["value"] == -1
    with pytest.raises(TaskMemoryError):
        run(LARGE, memory=64 * MIB)


def test_no_file_can_be_opened():
    assert run(OPEN, function="open")["value"] == BAD_DESCRIPTOR
    assert run(OPEN, function="given")["value"] == BAD_DESCRIPTOR


def test_what_is_no_number_has_the_same_bits_everywhere():
    import struct

    assert struct.pack("<d", run(NAN, function="nan")["value"]).hex() == "000000000000f87f"


@pytest.mark.parametrize(
    ("module", "more", "words"),
    [
        (b"\0asm nonsense", {}, "cannot be run"),
        (b"(module (func", {}, "cannot be run"),
        (b'(module (import "a" "b" (func)))', {}, "cannot be run"),
        (ADD, {}, "exports no function '_start'"),
        (ADD, {"function": "subtract"}, "exports no function 'subtract'"),
        (ADD, {"function": "add", "parameters": [1]}, "takes 2 numbers"),
    ],
)
def test_what_cannot_be_run_is_said(module, more, words):
    with pytest.raises(TaskFailedError, match=words):
        run(module, **more)


@pytest.mark.parametrize(
    ("module", "more"),
    [
        (b"#!/bin/sh", {}),
        (ADD, {"parameters": ["1"]}),
        (ADD, {"parameters": [True]}),
        (ADD, {"fuel": 0}),
        (ADD, {"memory": -1}),
        (ADD, {"arguments": ["a\0b"]}),
        (ADD, {"given": "text"}),
    ],
)
def test_what_makes_no_sense_is_not_sent(module, more):
    with pytest.raises((NotSerializableError, TypeError)):
        wasm.pack(module, **{"memory": MIB} | more)


@given(st.binary(max_size=200))
def test_whatever_comes_as_a_payload_is_at_worst_an_error(data):
    with pytest.raises(TaskFailedError, match="no module"):
        wasm.WasmTask().run(memoryview(data))
    with pytest.raises(TaskFailedError, match="no module"):
        wasm.WasmTask().run(memoryview(values.encode({"module": data})))


def test_a_peer_without_wasmtime_does_not_offer_it(monkeypatch):
    assert wasm.NAME in registry.task_type_names()
    monkeypatch.setattr(wasm, "is_here", lambda: False)
    registry.forget()
    try:
        assert wasm.NAME not in registry.task_type_names()
    finally:
        monkeypatch.undo()
        registry.forget()


@pytest.mark.skipif(sys.platform != "linux", reason="the walls are those of Linux")
async def test_in_a_real_child_behind_the_walls(tmp_path):
    async with ChildExecutor(tmp_path / "peer" / "work", slots=1, memory_bytes=1 << 30, unsafe=True) as executor:
        for payload, code in (
            (wasm.pack(ECHO, given=b"hello", memory=64 * MIB), ""),
            (wasm.pack(GROW, function="grow", parameters=[1023], memory=128 * MIB), ""),
            (wasm.pack(LOOP, memory=64 * MIB, fuel=10_000_000), "task_failed"),
            (wasm.pack(ECHO, given=b"again", memory=64 * MIB), ""),
        ):
            work = Work("t", PeerId("alice"), wasm.NAME, payload, Needs(memory="256MiB", seconds=30))
            outcome = await executor.run(work)
            assert outcome.error_code == code, outcome.error_message
        assert decode(outcome.payload)["output"] == b"again"
        assert executor.statistics().started <= 2, "one child did them all"
