"""The control socket: asked by a real command's own function, over a real Unix socket."""

import json
import socket
import stat

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ConfigurationError, PeerUnreachableError
from hivemind_p2p.worker import control


async def repeat(word):
    if word == "unknown":
        raise ConfigurationError("there is no such word")
    return {"state": word}


async def ask(folder, word):
    return await trio.to_thread.run_sync(control.ask, folder, word)


async def test_a_peer_does_what_its_user_says(tmp_path, nursery):
    await nursery.start(control.serve, tmp_path, repeat)
    assert await ask(tmp_path, "pause") == {"state": "pause"}
    assert await ask(tmp_path, "resume") == {"state": "resume"}
    assert stat.S_IMODE((tmp_path / control.SOCKET).stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="no such word"):
        await ask(tmp_path, "unknown")
    nursery.cancel_scope.cancel()


async def test_a_long_path_and_a_socket_left_behind_are_in_nobodys_way(tmp_path, nursery):
    folder = tmp_path / ("a" * 90) / ("b" * 90)
    folder.mkdir(parents=True)
    (folder / control.SOCKET).touch()
    await nursery.start(control.serve, folder, repeat)
    assert await ask(folder, "how") == {"state": "how"}
    nursery.cancel_scope.cancel()


async def test_the_socket_goes_with_the_peer(tmp_path):
    async with trio.open_nursery() as nursery:
        await nursery.start(control.serve, tmp_path, repeat)
        nursery.cancel_scope.cancel()
    assert not (tmp_path / control.SOCKET).exists()
    with pytest.raises(PeerUnreachableError, match="no peer that runs") as caught:
        await ask(tmp_path, "pause")
    assert "--data" in caught.value.hint


async def test_a_folder_that_takes_no_socket_is_no_error(tmp_path, nursery):
    await nursery.start(control.serve, tmp_path / "missing", repeat)


@given(st.binary(max_size=200))
def test_nonsense_is_answered_with_an_error(line):
    async def answer():
        return await control._answer(line, repeat)

    found = trio.run(answer)
    try:
        question = json.loads(line)
    except ValueError:
        question = None
    if not (isinstance(question, dict) and isinstance(question.get("do"), str)):
        assert "error" in found


async def test_a_question_without_an_end_is_not_read_for_ever(tmp_path, nursery):
    await nursery.start(control.serve, tmp_path, repeat)

    def flood():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / control.SOCKET))
            connection.sendall(b"x" * control.LONGEST_LINE)
            return connection.recv(1000)

    assert b"no JSON" in await trio.to_thread.run_sync(flood)
    nursery.cancel_scope.cancel()
