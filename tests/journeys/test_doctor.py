"""The doctor, as a person calls it: in a hive that works, and in the situations in which people need it.

The same situations for a private hive: what a stranger is told, by the doctor and by every other command.
"""

import json
import os
import socket
import stat

import pytest

from tests.journeys.programs import BOOTSTRAP, PEER, Program, environment, run, run_together

AHEAD = 3 * 3600
SKEWED = f"""
import sys, time
real = time.time
time.time = lambda: real() + {AHEAD}
from hivemind_bootstrap.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doctor")


def bootstrap(folder, name, *options, program=("-m", BOOTSTRAP)):
    return Program([*program, "run", "--json", "--data", str(folder / name), *options], environment())


@pytest.fixture(scope="module")
def hive(folder):
    """The address of a bootstrap."""
    with bootstrap(folder, "open") as program:
        yield program.ready()["addresses"][0]


@pytest.fixture(scope="module")
def key(folder):
    code, out, err = run(PEER, "new-hive-key", str(folder / "hive.key"), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["path"] == str(folder / "hive.key")
    return folder / "hive.key"


@pytest.fixture(scope="module")
def private(folder, key):
    """The address of the bootstrap of a private hive."""
    with bootstrap(folder, "private", "--hive-key", str(key)) as program:
        yield program.ready()["addresses"][0]


@pytest.fixture
def examined(tmp_path):
    """Runs the doctor; what it finds by check, and that it leaves nothing behind."""

    def examine(*arguments, env=None, code=None):
        place = tmp_path / f"{len(os.listdir(tmp_path))}"
        place.mkdir()
        options = ["--json", "--data", str(place / "data")] if "--data" not in arguments else ["--json"]
        ended, out, err = run(PEER, "doctor", *arguments, *options, env={"TMPDIR": str(place)} | (env or {}))
        assert err == ""
        assert os.listdir(place) == []
        told = json.loads(out)
        assert ended == (0 if told["ok"] else 1)
        if code is not None:
            assert ended == code, [each for each in told["findings"] if each["mark"] != "ok"]
        return {finding["check"]: finding for finding in told["findings"]}

    return examine


def test_everything_works(hive, examined):
    account = {"HIVEMIND_P2P_USERNAME": "ada", "HIVEMIND_P2P_PASSWORD": "a fine password"}
    assert run(PEER, "status", "--bootstrap", hive, env=account | {"HIVEMIND_P2P_REGISTER": "yes"})[0] == 0
    found = examined("--bootstrap", hive, env=account, code=0)
    for check in ("bootstrap", "clock", "directory", "account", "port", "reachability", "folder"):
        assert found[check]["mark"] == "ok", found[check]
    assert "100.000000 credits" in found["account"]["sentence"]
    assert not any(finding["mark"] in {"failure", "skipped"} for finding in found.values())


def test_the_report_for_people(hive, tmp_path):
    code, out, err = run(PEER, "doctor", "--bootstrap", hive, "--data", str(tmp_path / "data"), env={"COLUMNS": "80"})
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line and line[0] != " "][:3] == [
        "The hive",
        "The network",
        "This machine",
    ]
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[-1].startswith("Everything works")


def test_the_bootstrap_is_down(hive, examined):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = examined("--bootstrap", f"/ip4/127.0.0.1/tcp/{port}/p2p/{hive.split('/')[-1]}", code=1)
    assert "no bootstrap runs here" in found["bootstrap"]["sentence"]
    assert "hivemind-bootstrap run" in found["bootstrap"]["remedy"]
    assert {found[check]["mark"] for check in ("clock", "directory", "account", "reachability")} == {"skipped"}


def test_another_bootstrap_than_was_expected(hive, private, examined):
    other = f"{hive.rpartition('/')[0]}/{private.rpartition('/')[2]}"
    found = examined("--bootstrap", other, code=1)
    assert "Another bootstrap answers" in found["bootstrap"]["sentence"]
    assert f"…{hive[-6:]} instead of …{private[-6:]}" in found["bootstrap"]["sentence"]
    code, _, err = run(PEER, "status", "--bootstrap", other)
    assert code == 1
    assert "was expected" in err.splitlines()[0]
    assert "present address" in err.splitlines()[1]


def test_a_clock_that_is_off(folder, examined):
    with bootstrap(folder, "skewed", program=["-c", SKEWED]) as program:
        found = examined("--bootstrap", program.ready()["addresses"][0], code=1)
    assert "3 hours behind the hive's" in found["clock"]["sentence"]
    assert "automatic time" in found["clock"]["remedy"]
    assert found["directory"]["mark"] == "ok"  # it goes by the hive's clock


def test_a_port_that_is_taken_and_a_folder_that_cannot_be_written(hive, examined, tmp_path):
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = examined(
            "--bootstrap", hive, "--listen", f"/ip4/127.0.0.1/tcp/{port}", "--data", str(tmp_path / "file" / "data")
        )
    assert f"Port {port} is taken by" in found["port"]["sentence"]
    assert f"(process {os.getpid()})" in found["port"]["sentence"]
    assert f"--listen /ip4/127.0.0.1/tcp/{port + 1}" in found["port"]["remedy"]
    assert (found["folder"]["mark"], "--data ~/hivemind" in found["folder"]["remedy"]) == ("failure", True)


@pytest.mark.parametrize(("wanted", "mark"), [("auto", "warning"), ("bubblewrap", "failure")])
def test_no_sandbox(hive, examined, wanted, mark):
    found = examined("--bootstrap", hive, "--sandbox", wanted, env={"PATH": ""})
    assert found["sandbox"]["mark"] == mark
    landlock = wanted == "auto" and "Landlock" in found["sandbox"]["sentence"]  # where this interpreter lies open
    assert landlock or "not installed" in found["sandbox"]["sentence"]
    assert "apt install bubblewrap" in found["sandbox"]["remedy"]


def test_while_a_peer_runs_with_the_same_folder(hive, folder, examined):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"
    options = ["--bootstrap", hive, "--data", str(folder / "peer"), "--listen", listen]
    with Program(["-m", PEER, "run", "--json", "--memory", "1GiB", *options], environment()) as peer:
        peer.ready()
        found = examined(*options, code=0)
        assert "Your own peer is running" in found["port"]["sentence"]
        assert "A peer is running" in found["folder"]["sentence"]
        assert peer.running
        # The bootstrap still knows it: the doctor did not come as this peer.
        _, out, _ = run(PEER, "status", "--json", "--bootstrap", hive)
        assert len(json.loads(out)["peers"]) == 1


def test_no_hive_is_named_and_an_address_that_is_none(examined):
    assert "No hive is named" in examined(code=1)["bootstrap"]["sentence"]
    assert "cannot be understood" in examined("--bootstrap", "tcp://example", code=1)["bootstrap"]["sentence"]


# -- private hives -----------------------------------------------------------------------------------------------------


def test_a_key_file_is_its_owners_alone_and_never_overwritten(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    code, _, err = run(PEER, "new-hive-key", str(key))
    assert code == 1
    assert "exists already" in err
    assert key.read_text() == before


def test_members_get_in_by_flag_environment_or_program(private, key, examined):
    flag, variable = run_together(
        [PEER, "status", "--json", "--bootstrap", private, "--hive-key", str(key)],
        [PEER, "status", "--json"],
        env={"HIVEMIND_P2P_BOOTSTRAP": private, "HIVEMIND_P2P_HIVE_KEY": str(key)},
    )
    assert (flag[0], flag[2], variable[0], variable[2]) == (0, "", 0, "")
    found = examined("--bootstrap", private, "--hive-key", str(key), code=0)
    assert found["hive key"]["mark"] == "ok"
    assert found["directory"]["mark"] == "ok"
    import hivemind_p2p as hm

    with hm.connect(private, hive_key=key) as hive:
        assert list(hive.peers()) == []


@pytest.fixture(scope="module")
def other_key(folder):
    assert run(PEER, "new-hive-key", str(folder / "other.key"))[0] == 0
    return folder / "other.key"


def test_a_stranger_is_refused_and_told_why(private, hive, key, other_key):
    without, wrong, needless = (
        run(PEER, "status", "--bootstrap", address, *more)
        for address, more in (
            (private, []),
            (private, ["--hive-key", str(other_key)]),
            (hive, ["--hive-key", str(key)]),
        )
    )
    for (code, out, err), words, hint in (
        (without, "this hive is private", "Ask its operator for the key file and pass it with --hive-key"),
        (wrong, "this hive is private, and the key in use is not", "present key file"),
        (needless, "open to everybody", "Leave out --hive-key"),
    ):
        assert (code, out) == (1, "")
        first, second = err.splitlines()
        assert first.startswith("error: ")
        assert words in first
        assert hint in second


def test_the_doctor_tells_a_stranger_the_same(private, hive, key, other_key, examined):
    assert "This hive is private" in examined("--bootstrap", private, code=1)["bootstrap"]["sentence"]
    wrong = examined("--bootstrap", private, "--hive-key", str(other_key), code=1)
    assert "not (or no longer) its key" in wrong["bootstrap"]["sentence"]
    needless = examined("--bootstrap", hive, "--hive-key", str(key), code=1)
    assert "open to everybody" in needless["bootstrap"]["sentence"]


def test_a_key_file_that_is_none(private, tmp_path, examined):
    missing, wrong = tmp_path / "missing.key", tmp_path / "wrong.key"
    wrong.write_text("hello\n")
    for path, words in ((missing, "there is no hive key file"), (wrong, "is no hive key")):
        code, _, err = run(PEER, "status", "--bootstrap", private, "--hive-key", str(path))
        assert code == 1
        assert words in err.splitlines()[0]
        found = examined("--bootstrap", private, "--hive-key", str(path), code=1)
        assert words in found["bootstrap"]["sentence"]


def test_a_key_file_that_others_can_read_is_a_warning(private, key, tmp_path, examined):
    exposed = tmp_path / "hive.key"
    exposed.write_text(key.read_text())
    exposed.chmod(0o644)
    found = examined("--bootstrap", private, "--hive-key", str(exposed), code=0)
    assert found["hive key"]["mark"] == "warning"
    assert found["hive key"]["remedy"] == f"Run: chmod 600 {exposed}"
