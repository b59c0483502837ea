"""What every command does the same way: ready lines, ends, errors in two lines."""

import json
import os
import signal

import pytest
import trio
import trio.testing

from hivemind_p2p import program
from hivemind_p2p.errors import ConfigurationError, LinkError, TaskFailedError


def test_ready_in_one_line_of_json(capsys):
    program.say_ready(as_json=True, peer_id="12D3", addresses=("/ip4/1.2.3.4/tcp/1/p2p/12D3",), link="magnet:")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "event": "ready",
        "peer_id": "12D3",
        "addresses": ["/ip4/1.2.3.4/tcp/1/p2p/12D3"],
        "http": None,
        "pid": os.getpid(),
        "link": "magnet:",
    }


def test_ready_for_people(capsys):
    program.say_ready(as_json=False, peer_id="12D3", addresses=("/a", "/b"), http="http://127.0.0.1:1")
    assert capsys.readouterr().out == "ready as 12D3\n  /a\n  /b\n  status page: http://127.0.0.1:1\n"


def _fail(error, *, verbose=False):
    with program.reported_errors(verbose=verbose):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("it is wrong", hint="Mend it."),
        ExceptionGroup("", [ExceptionGroup("", [ValueError("x"), ConfigurationError("it is wrong", hint="Mend it.")])]),
        ConfigurationError("it\n   is\twrong", hint="Mend\nit."),
    ],
)
def test_an_error_is_two_lines_and_exit_code_1(capsys, error):
    with pytest.raises(SystemExit) as caught:
        _fail(error)
    told = capsys.readouterr()
    assert caught.value.code == 1
    assert (told.out, told.err) == ("", "error: it is wrong\nhint: Mend it.\n")


def test_v_shows_all(capsys):
    error = TaskFailedError("it raised", remote_traceback="Traceback ...")
    with pytest.raises(TaskFailedError, match="Remote traceback"):
        _fail(error, verbose=True)
    assert capsys.readouterr().err == ""


def test_what_is_no_error_of_ours_is_a_bug_and_shown_whole():
    with pytest.raises(ZeroDivisionError):
        _fail(ZeroDivisionError())
    with pytest.raises(ExceptionGroup):
        _fail(ExceptionGroup("", [ZeroDivisionError()]))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])])]
)
def test_ctrl_c_exits_with_130(capsys, error):
    with pytest.raises(SystemExit) as caught:
        _fail(error)
    assert caught.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_the_first_error_of_ours_inside_groups():
    found = LinkError("no link")
    assert program.find_error(found) is found
    assert program.find_error(ExceptionGroup("", [ValueError(), ExceptionGroup("", [found])])) is found
    assert program.find_error(ValueError()) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_the_end(number):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.wait_for_the_end)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), number)


async def test_the_end_of_stdin_is_the_end_where_that_is_wanted(monkeypatch):
    reading, writing = os.pipe()
    ended = []
    monkeypatch.setattr(program, "_read_to_the_end", lambda: ended.append(os.read(reading, 1)))
    async with trio.open_nursery() as nursery:

        async def wait():
            await program.wait_for_the_end(exit_with_parent=True)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        os.close(writing)
    assert ended == [b""]
    os.close(reading)
