"""What goes wrong in people's hands: each with a class of its own, and on the command line in two lines."""

import json
import socket
import subprocess
import threading
from pathlib import Path

import pytest

import hivemind_p2p as hm
from hivemind_p2p import errors
from tests.journeys.programs import (
    BOOTSTRAP,
    DEADLINE,
    PEER,
    TINY_PYTHON,
    Program,
    environment,
    run,
    run_together,
    until,
)

STRANGER = "12D3KooWBmwkafWE2fqfzS96VoTZgpGp6aJsF4N4YdoJtztZpbhT"
"""A peer id that nobody here has."""


def two_lines_each(*commands, env=None):
    """What commands that fail say: one line what, one line what to do, and nothing else."""
    told = []
    for code, out, err in run_together(*commands, env=env):
        assert code == 1, (out, err)
        assert out == ""
        what, hint = err.splitlines()
        assert what.startswith("error: ")
        assert hint.startswith("hint: ")
        told.append((what, hint))
    return told


def two_lines(*command, env=None):
    return two_lines_each(command, env=env)[0]


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize(
    "address", ["nonsense", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/99999/p2p/" + STRANGER, "/p2p/x"]
)
def test_an_address_that_is_none(address):
    with pytest.raises(errors.AddressError):
        hm.connect(address)


def test_no_address_at_all():
    with pytest.raises(errors.ConfigurationError, match="no bootstrap"):
        hm.connect()
    what, hint = two_lines(PEER, "status")
    assert "no bootstrap" in what
    assert "HIVEMIND_P2P_BOOTSTRAP" in hint


def test_a_bootstrap_that_is_not_there(tmp_path):
    address = f"/ip4/127.0.0.1/tcp/{closed_port()}/p2p/{STRANGER}"
    with pytest.raises(errors.BootstrapUnreachableError, match=STRANGER):
        hm.connect(address)
    status, node = [PEER, "status"], [PEER, "run", "--data", str(tmp_path / "node"), "--json"]
    for what, hint in two_lines_each(*([*command, "--bootstrap", address] for command in (status, node))):
        assert STRANGER in what
        assert "hivemind-bootstrap run" in hint


def test_somebody_else_at_the_bootstraps_address(hive):
    place = hive.nodes.bootstrap_address.partition("/p2p/")[0]
    with pytest.raises(errors.BootstrapUnreachableError, match=STRANGER):
        hm.connect(f"{place}/p2p/{STRANGER}")


def test_something_else_at_the_bootstraps_address():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(errors.BootstrapUnreachableError):
            hm.connect(f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/{STRANGER}")
        thread.join(DEADLINE)


def test_a_folder_that_is_no_checkpoint(joined, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    what, hint = two_lines(PEER, "share", "--model", str(tmp_path), env=joined)
    assert str(tmp_path) in what
    assert "config.json" in hint


def test_a_checkpoint_that_lacks_a_part(hive, tmp_path):
    for file in TINY_PYTHON.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(errors.CheckpointError, match="tensor"):
        hive.publish_model(tmp_path)
    weights.unlink()
    with pytest.raises(errors.CheckpointError, match="safetensors"):
        hive.publish_model(tmp_path)


FUNCTIONS = """
import threading

def lock():
    return threading.Lock()

def fail():
    raise ValueError("no\\nsecond line")

held = threading.Lock()
cannot_travel = lambda: held
"""


@pytest.fixture
def functions(tmp_path):
    (tmp_path / "own.py").write_text(FUNCTIONS)
    return str(tmp_path / "own.py")


def test_functions_that_fail_on_the_command_line(functions, joined):
    names = ("cannot_travel", "lock", "fail")
    told = two_lines_each(*([PEER, "submit", f"{functions}:{name}"] for name in names), env=joined)
    (cannot_travel, _), (lock, what_to_return), (fail, _) = told
    assert "lock" in cannot_travel
    assert "lock" in lock
    assert "Return" in what_to_return
    assert "ValueError" in fail


def test_functions_that_there_are_not(functions):
    names = ("nothing", f"{functions}:nothing", "no.such.module:f", "/no/such/file.py:f")
    for name, (what, _) in zip(names, two_lines_each(*([PEER, "submit", name] for name in names)), strict=True):
        assert name in what


def test_the_traceback_is_there_for_those_who_want_it(joined, functions):
    code, _, err = run(PEER, "submit", "-v", f"{functions}:fail", env=joined)
    assert code == 1
    assert "Traceback" in err
    assert "Remote traceback" in err
    assert "in fail" in err


def test_a_wrong_password(hive, joined):
    with pytest.raises(errors.AuthenticationError):
        hm.connect(hive.nodes.bootstrap_address, username="you", password="wrong password")
    what, hint = two_lines(
        PEER, "status", env=joined | {"HIVEMIND_P2P_PASSWORD": "wrong password", "HIVEMIND_P2P_USERNAME": "you"}
    )
    assert "you" in what
    assert "password" in hint


def test_an_account_that_there_is_not(hive):
    with pytest.raises(errors.AuthenticationError):
        hm.connect(hive.nodes.bootstrap_address, username="nobody", password="some password")
    with pytest.raises(errors.ConfigurationError, match="password"):
        hm.connect(hive.nodes.bootstrap_address, username="nobody")


def test_a_port_in_use(hive, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = f"/ip4/127.0.0.1/tcp/{port}"
        with pytest.raises(errors.PortInUseError, match=str(port)):
            hm.connect(hive.nodes.bootstrap_address, listen=[listen])
        bootstrap = [BOOTSTRAP, "run", "--data"]
        told = two_lines_each(
            [PEER, "run", "--bootstrap", hive.nodes.bootstrap_address, "--data", f"{tmp_path}/1", "--listen", listen],
            [*bootstrap, f"{tmp_path}/2", "--listen", listen],
            [*bootstrap, f"{tmp_path}/3", "--http", f"127.0.0.1:{port}"],
        )
    for what, hint in told:
        assert str(port) in what
        assert "port" in hint


def test_flags_that_cannot_be_understood():
    told = two_lines_each(
        [PEER, "run", "--memory", "much"],
        [PEER, "run", "--sandbox", "docker"],
        [PEER, "run", "--serve-models", "some"],
        [PEER, "fetch", "http://example.org/file"],
    )
    for word, (what, _) in zip(("memory", "sandbox", "serve_models", "link"), told, strict=True):
        assert word in what


def test_a_data_folder_that_cannot_be_used(tmp_path, joined):
    (tmp_path / "file").write_text("")
    what, _ = two_lines(PEER, "run", "--data", str(tmp_path / "file" / "below"), env=joined)
    assert str(tmp_path / "file") in what


def test_a_result_that_is_not_there_in_time(joined, tmp_path):
    (tmp_path / "own.py").write_text("import time\n\ndef wait():\n    time.sleep(60)\n")
    what, _ = two_lines(PEER, "submit", f"{tmp_path / 'own.py'}:wait", "--timeout", "0.5", env=joined)
    assert "0.5" in what


# Credits that do not suffice: a hive that gives none away.


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """A bootstrap that gives new accounts nothing, and one peer that wants to be paid."""
    folder = tmp_path_factory.mktemp("poor")
    command = ["-m", BOOTSTRAP, "run", "--json", "--data", str(folder / "bootstrap"), "--welcome-credits", "0"]
    with Program(command, environment()) as bootstrap:
        joins = {
            "HIVEMIND_P2P_BOOTSTRAP": bootstrap.ready()["addresses"][0],
            "HIVEMIND_P2P_PASSWORD": "a fine password",
            "HIVEMIND_P2P_REGISTER": "true",
        }
        peer = ["-m", PEER, "run", "--json", "--data", str(folder / "peer"), "--username", "lender", "--cpus", "1"]
        with Program(peer, environment(joins)) as lender:
            lender.ready()
            yield joins


def test_credits_that_do_not_suffice(poor):
    password = poor["HIVEMIND_P2P_PASSWORD"]
    with hm.connect(poor["HIVEMIND_P2P_BOOTSTRAP"], username="poor", password=password, register=True) as hive:
        job = hive.submit(pow, 2, 10)
        with pytest.raises(errors.InsufficientCreditsError):
            job.result(DEADLINE)
        assert hive.balance().available == hive.balance().held == 0
    what, hint = two_lines(PEER, "submit", "math:factorial", "5", env=poor | {"HIVEMIND_P2P_USERNAME": "poor"})
    assert "credits" in what
    assert "Earn" in hint


def test_a_caller_without_an_account_is_told_what_it_needs(poor):
    with hm.connect(poor["HIVEMIND_P2P_BOOTSTRAP"]) as hive:
        with pytest.raises((errors.PaymentRequiredError, errors.AccountRequiredError)) as caught:
            hive.submit(pow, 2, 10).result(DEADLINE)
        assert "username" in caught.value.hint


def test_a_model_that_nobody_hosts(poor):
    # The one peer there lends no place to models.
    with hm.connect(poor["HIVEMIND_P2P_BOOTSTRAP"]) as hive:
        link = hive.publish_model(TINY_PYTHON)
        with pytest.raises(errors.MissingLayersError, match="layers") as caught:
            hive.load_model(link, timeout=0.5)
        assert "--serve-models" in caught.value.hint


def test_welcome_credits_that_make_no_sense(tmp_path):
    command = [BOOTSTRAP, "run", "--data", str(tmp_path), "--welcome-credits"]
    for what, _ in two_lines_each(*([*command, amount] for amount in ("-1", "nan", "1e30"))):
        assert "--welcome-credits" in what


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for four MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here to make a small disk with")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def six_mib(tmp_path):
    (tmp_path / "six").mkdir()
    (tmp_path / "six" / "one.bin").write_bytes(bytes(range(256)) * 8192)
    (tmp_path / "six" / "two.bin").write_bytes(bytes(range(255)) * 16500)
    return tmp_path / "six"


def test_a_full_disk(hive, joined, small_disk, six_mib):
    link = hive.share(six_mib)
    env = joined | {"HIVEMIND_P2P_WAIT_FOR_ROOM": "0"}
    code, out, err = run(PEER, "fetch", link, "--to", str(small_disk), "--json", env=env)
    assert (code, out) == (1, "")
    # Before these come warnings of what else finds no room on that disk.
    *_, what, hint = err.splitlines()
    assert what.startswith("error: no room")
    assert "kept" in hint
    assert not (small_disk / "six").exists(), "what has the name is whole"
    # Begun again, it waits; with more room it goes on, and the content is whole in the end.
    command = ["-m", PEER, "fetch", link, "--to", str(small_disk), "--json"]
    with Program(command, environment(joined)) as fetch:
        until(lambda: "fetch_paused" in fetch.errors, "the fetch says that it waits")
        assert fetch.running
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        fetched = Path(json.loads(fetch.line())["path"])
        assert fetch.end() == 0
        assert "fetch_goes_on" in fetch.errors
    assert fetched == small_disk / "six"
    assert {file.name: file.read_bytes() for file in fetched.iterdir()} == {
        file.name: file.read_bytes() for file in six_mib.iterdir()
    }


def test_a_full_disk_has_a_class(hive, small_disk, six_mib):
    link = hive.share(six_mib)
    with hm.connect(hive.nodes.bootstrap_address, wait_for_room=0) as other, pytest.raises(errors.DiskFullError):
        other.fetch(link, small_disk)


def test_a_data_folder_on_a_full_disk(joined, small_disk):
    (small_disk / "filler").write_bytes(bytes(4 * 2**20))
    what, _ = two_lines(PEER, "run", "--data", str(small_disk / "node"), env=joined)
    assert str(small_disk) in what
    # With room again it starts: no empty key file stands in the way.
    (small_disk / "filler").unlink()
    with Program(["-m", PEER, "run", "--json", "--data", str(small_disk / "node")], environment(joined)) as peer:
        peer.ready()
