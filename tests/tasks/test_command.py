"""Commands: what is sent, what comes back, and payloads that are none."""

import sys

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from hivemind_p2p.errors import NotSerializableError, TaskFailedError
from hivemind_p2p.tasks import values
from hivemind_p2p.tasks.library import command
from hivemind_p2p.tasks.library.command import CommandTask, pack


def run(*arguments, given=b""):
    return CommandTask().run(memoryview(pack(arguments, given)))


def python(program, given=b""):
    return run(sys.executable, "-I", "-c", program, given=given)


def test_a_command_reads_its_input_and_writes_output_and_errors():
    ended = python("import sys; print(sys.stdin.read()[::-1], end=''); print('oh', file=sys.stderr)", b"abc")
    assert ended == {"status": 0, "output": b"cba", "errors": b"oh\n", "cut": False}


def test_a_status_is_a_result():
    assert python("raise SystemExit(3)")["status"] == 3
    assert python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")["status"] == -9


def test_no_shell_takes_part():
    assert run("echo", "$HOME", "; id", "*")["output"] == b"$HOME ; id *\n"


def test_it_starts_in_an_empty_folder_that_goes_with_it():
    first = python("import os; print(os.listdir()); open('left', 'w').close()")
    assert first["output"] == python("import os; print(os.listdir())")["output"] == b"[]\n"


def test_the_end_of_a_long_output_is_kept(monkeypatch):
    monkeypatch.setattr(command, "MAX_KEPT", 10)
    ended = python("print('0123456789abcdef', end='')")
    assert (ended["output"], ended["errors"], ended["cut"]) == (b"6789abcdef", b"", True)


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(TaskFailedError, match="cannot start 'no-such-program'"):
        run("no-such-program")


@pytest.mark.parametrize(
    "arguments",
    ["ls -l", [], [""], ["ls", 5], ["ls", "a\0b"], ["ls", "\ud800"], ["x"] * 4097, ["x" * (128 << 10)], None],
)
def test_what_is_no_command_is_refused_on_both_sides(arguments):
    with pytest.raises(NotSerializableError):
        pack(arguments)
    if arguments == ["ls", "\ud800"]:
        return  # cannot even be written into a payload
    with pytest.raises(TaskFailedError):
        CommandTask().run(memoryview(values.encode({"arguments": arguments, "input": b""})))


def test_an_input_that_is_no_bytes_is_refused():
    with pytest.raises(NotSerializableError, match="not bytes"):
        pack(["cat"], "text")


@for_all(st.binary(max_size=300))
def test_garbage_starts_nothing(payload):
    with pytest.raises(TaskFailedError):
        CommandTask().run(memoryview(payload))
