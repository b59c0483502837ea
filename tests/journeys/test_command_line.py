"""The command line, as a person uses it, with a hive that the commands themselves make."""

import json
import os
import re
import signal
import socket
import stat
import tempfile
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.journeys.programs import (
    BOOTSTRAP,
    DEADLINE,
    PEER,
    ROOT,
    TINY_PYTHON,
    Program,
    descendants,
    environment,
    run,
    run_together,
    until,
)

PASSWORD = "a fine password"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A bootstrap and a peer that serves models, both started by their commands."""
    folder = tmp_path_factory.mktemp("nodes")
    with Program(
        ["-m", BOOTSTRAP, "run", "--json", "--data", str(folder / "bootstrap"), "--listen", "/ip4/127.0.0.1/tcp/0"],
        environment(),
    ) as bootstrap:
        joins = {
            "HIVEMIND_P2P_BOOTSTRAP": bootstrap.ready()["addresses"][0],
            "HIVEMIND_P2P_PASSWORD": PASSWORD,
            "HIVEMIND_P2P_REGISTER": "true",
        }
        peer = ["-m", PEER, "run", "--json", "--data", str(folder / "peer"), "--name", "ada's", "--username", "ada"]
        with Program([*peer, "--serve-models", "any", "--cpus", "1", "--memory", "2GiB"], environment(joins)) as lender:
            yield {"folder": folder, "joins": joins, "ready": lender.ready(), "bootstrap": bootstrap, "peer": lender}


@pytest.fixture
def joins(nodes):
    return nodes["joins"] | {"HIVEMIND_P2P_USERNAME": "bob"}


def told(*arguments, env):
    """What a command prints with --json, its exit code and stderr being in order."""
    code, out, err = run(PEER, *arguments, "--json", env=env)
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    return json.loads(line)


def test_the_line_that_says_ready(nodes):
    ready = nodes["ready"]
    assert ready["event"] == "ready"
    assert ready["peer_id"].startswith("12D3KooW")
    (address,) = ready["addresses"]
    assert re.fullmatch(rf"/ip4/127\.0\.0\.1/tcp/\d+/p2p/{ready['peer_id']}", address)
    assert ready["pid"] == nodes["peer"].pid


def test_status(nodes, joins):
    (code, out, err), for_people = run_together([PEER, "status", "--json"], [PEER, "status"], env=joins)
    assert (code, err) == (0, "")
    status = json.loads(out)
    (peer,) = status["peers"]
    assert (peer["name"], peer["peer_id"], peer["cpus"]) == ("ada's", nodes["ready"]["peer_id"], 1.0)
    assert peer["memory_bytes"] == 2 * 2**30
    assert float(status["balance"]["available"]) > 0
    assert (for_people[0], for_people[2]) == (0, "")
    assert "ada's" in for_people[1]
    assert "credits available" in for_people[1]


def test_submit(nodes, joins, tmp_path):
    script = tmp_path / "own.py"
    script.write_text("def greet(name, times):\n    return [f'hello {name}'] * times\n")
    own, plain = run_together(
        [PEER, "submit", f"{script}:greet", "ada", "2", "--json"], [PEER, "submit", "math:factorial", "20"], env=joins
    )
    assert plain == (0, "2432902008176640000\n", "")
    assert (own[0], own[2]) == (0, "")
    done = json.loads(own[1])
    assert done["result"] == ["hello ada"] * 2
    assert done["peer"] == nodes["ready"]["peer_id"]
    assert float(done["cost"]) > 0


def test_following_a_task(joins, tmp_path):
    script = tmp_path / "own.py"
    script.write_text("def talk(name):\n    print('hello', name)\n    return len(name)\n")
    code, output, errors = run(PEER, "submit", f"{script}:talk", "ada", "--follow", env=joins)
    assert (code, output) == (0, "3\n")
    lines = errors.splitlines()
    assert {"hello ada", "queued", "completed"} <= set(lines)
    assert lines[0] == "queued"
    code, _, errors = run(PEER, "submit", "math:factorial", "20", "--agree", "2", env=joins)
    assert (code, "none of" in errors or "agree" in errors) == (1, True)


def test_generate(joins):
    with Program(["-m", PEER, "share", str(TINY_PYTHON), "--model", "--json"], environment(joins)) as share:
        link = share.ready()["link"]
        text = told("generate", link, "def main(", "--max-new-tokens", "12", env=joins)["text"]
        assert text.startswith("def main(")
        assert len(text) > len("def main(") + 12
        scored = told("generate", link, "def main(", "--max-new-tokens", "5", "--log-probabilities", "3", env=joins)
        assert text.startswith(scored["text"])
        assert len(scored["tokens"]) == 5
        assert share.end(signal.SIGTERM) == 0
        assert share.errors == ""


def _sockets(pid):
    """The addresses at which a process and those below it listen."""
    processes = [psutil.Process(pid), *descendants(pid)]
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }


def test_everything_is_bound_to_loopback(nodes):
    for name in ("bootstrap", "peer"):
        assert _sockets(nodes[name].pid) == {"127.0.0.1"}


def test_keys_are_readable_by_their_owner_only(nodes):
    folder = nodes["folder"]
    keys = list(folder.rglob("identity.key"))
    assert {key.parent.name for key in keys} == {"bootstrap", "peer"}
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_the_password_is_on_no_command_line_and_in_no_file_of_the_peer(nodes):
    assert PASSWORD not in " ".join(psutil.Process(nodes["peer"].pid).cmdline())
    for path in nodes["folder"].rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


def test_a_peer_keeps_its_identity_and_says_goodbye(nodes, joins, tmp_path):
    ids = set()
    for number in (signal.SIGTERM, signal.SIGINT):
        command = ["-m", PEER, "run", "--json", "--data", str(tmp_path / "node"), "--username", "carol"]
        with Program(command, environment(nodes["joins"])) as peer:
            ids.add(peer.ready()["peer_id"])
            below = descendants(peer.pid)
            assert peer.end(number) == 0
            assert (peer.rest(), peer.errors) == ("", "")
            assert not any(process.is_running() for process in below)
    assert len(ids) == 1
    # Its offer would live on for half a minute if it had not been taken back.
    assert [peer["name"] for peer in told("status", env=joins)["peers"]] == ["ada's"]


def test_version_and_help():
    *versions, (code, out, _) = run_together([PEER, "--version"], [BOOTSTRAP, "--version"], [PEER, "--help"])
    for told, word in zip(versions, ("hivemind_p2p", "hivemind_bootstrap"), strict=True):
        assert (told[0], told[1].split()[0], told[2]) == (0, word, "")
    assert code == 0
    for command in ("run", "demo", "status", "submit", "share", "fetch", "generate", "embed"):
        assert re.search(rf"\b{command}\b", out)


SCRIPT = """
import hivemind_p2p as hm

if __name__ == "__main__":
    with hm.local_hive(peers=2) as hive:
        pids = [hive.nodes.bootstrap.pid, *(peer.pid for peer in hive.nodes.peers)]
        print(hive.nodes.folder, *pids, flush=True)
        hive.submit(__import__("time").sleep, 60).result()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGKILL, -9)])
def test_a_script_that_is_stopped_leaves_no_process(tmp_path, number, code):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with Program([str(script)], environment({"TMPDIR": str(tmp_path)})) as program:
        folder, *pids = program.line().split()
        below = [psutil.Process(int(pid)) for pid in pids]
        below += [process for each in below for process in descendants(each.pid)]
        assert len(below) >= 3
        ended = program.end(number)
        if number is signal.SIGINT:
            assert "KeyboardInterrupt" in program.errors
            assert ended in {1, 130, -2}
            assert not Path(folder).exists()
            assert os.listdir(tmp_path) == ["script.py"]
        until(lambda: not any(process.is_running() for process in below), "its nodes have ended")


def test_ctrl_c_in_the_demo_leaves_nothing(tmp_path):
    with Program(["-m", PEER, "demo"], environment({"TMPDIR": str(tmp_path)})) as demo:
        below = until(
            lambda: len(found := descendants(demo.pid)) >= 4 and found, "the demo has started its nodes", DEADLINE
        )
        demo.send(signal.SIGINT)
        assert demo.end() == 130
        assert "Traceback" not in demo.errors
    until(lambda: not any(process.is_running() for process in below), "its nodes have ended")
    assert os.listdir(tmp_path) == []


def test_the_status_page_is_there(nodes, tmp_path):
    with Program(["-m", BOOTSTRAP, "run", "--json", "--data", str(tmp_path)], environment()) as bootstrap:
        ready = bootstrap.ready()
        assert urllib.request.urlopen(ready["http"], timeout=DEADLINE).status == 200
        assert bootstrap.end(signal.SIGTERM) == 0
        assert bootstrap.errors == ""


def test_commands_leave_no_temporary_folder(joins, tmp_path):
    run(PEER, "status", env=joins | {"TMPDIR": str(tmp_path)})
    assert os.listdir(tmp_path) == []
    assert tempfile.gettempdir() != str(tmp_path)
    assert not (ROOT / "identity.key").exists()
