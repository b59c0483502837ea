"""``hivemind-peer swarm`` on a folder that a peer left, and on one that a peer uses."""

import json
import os

import pytest
from typer.testing import CliRunner

from hivemind_p2p import cli
from hivemind_p2p.bt.catalogue import Catalogue
from hivemind_p2p.bt.hashing import BLOCK
from hivemind_p2p.data_folder import owned_folder
from tests.bt.swarms import make_folder, manifest_of, some_bytes


@pytest.fixture
def data(tmp_path):
    """Two contents: one in the peer's own folder, of which a piece is missing, and one that the user shares."""
    catalogue = Catalogue(tmp_path / "data" / "content")
    own = make_folder(tmp_path / "somewhere" / "weights", {"data": some_bytes(4 * BLOCK)})
    manifest = manifest_of(own, BLOCK)
    location = tmp_path / "data" / "content" / manifest.infohash.hex()
    store = catalogue.add(manifest, location, now=1.7e9)
    store.prepare(manifest.files)
    for piece in (0, 1, 3):
        store.write(piece, some_bytes(4 * BLOCK)[piece * BLOCK :][:BLOCK])
    mine = make_folder(tmp_path / "mine" / "texts", {"one.txt": b"1", "two.txt": b"22"})
    stamps = {path.name: path.stat().st_mtime_ns for path in mine.iterdir()}
    catalogue.add(manifest_of(mine), mine.parent, now=1.7e9, shared=True, stamps=stamps)
    return tmp_path / "data"


@pytest.fixture
def swarm(data):
    def call(*arguments):
        result = CliRunner().invoke(cli.app, ["swarm", *arguments, "--data", str(data)])
        return result.exit_code, result.stdout, result.stderr

    return call


def listed(swarm):
    return {entry["name"]: entry for entry in map(json.loads, swarm("ls", "--json")[1].splitlines())}


def test_ls(swarm):
    code, out, err = swarm("ls")
    assert (code, err) == (0, "")
    assert "48.0 of 64.0 KiB" in out
    assert "in part" in out
    assert "shared" in out
    entries = listed(swarm)
    assert (entries["weights"]["held_pieces"], entries["weights"]["pieces"]) == (3, 4)
    assert entries["texts"]["held_bytes"] == 3


def test_names_links_and_hashes_are_understood(swarm):
    link = listed(swarm)["weights"]["link"]
    infohash = link.partition("1220")[2][:64]
    for text in ("weights", link, infohash, infohash[:6].upper()):
        assert swarm("pin", text)[0] == 0
        assert listed(swarm)["weights"]["pinned"]
        assert swarm("unpin", text)[:2] == (0, "unpinned weights\n")
        assert not listed(swarm)["weights"]["pinned"]
    code, out, err = swarm("pin", "nothing")
    assert (code, out) == (1, "")
    assert err.startswith("error: no content here is 'nothing'\nhint: ")


def test_verify_forgets_what_is_wrong(swarm, data, tmp_path):
    assert swarm("verify")[0] == 0
    (path,) = data.glob("content/*/weights/data")
    with path.open("r+b") as file:
        file.write(b"damage")
    os.truncate(path, 3 * BLOCK + 5)
    (tmp_path / "mine" / "texts" / "one.txt").write_bytes(b"2")
    code, out, _ = swarm("verify")
    assert code == 1
    assert "weights: 2 of 3 pieces wrong or gone, 32.0 KiB" in out
    assert "texts: 1 of 2 pieces wrong or gone, 1 B; share it again" in out
    assert listed(swarm)["weights"]["held_pieces"] == 1
    assert swarm("verify")[0] == 0, "told once"


def test_rm_takes_only_what_is_the_peers_own(swarm, data, tmp_path):
    code, out, _ = swarm("rm", "weights", "texts")
    assert code == 0
    assert "removed weights, 48.0 KiB freed" in out
    assert f"forgot texts; its files stay at {tmp_path / 'mine' / 'texts'}" in out
    assert (tmp_path / "mine" / "texts" / "one.txt").exists()
    assert not list(data.glob("content/*/weights"))
    assert swarm("ls")[1].startswith("there is no content in")


def test_a_peer_that_runs(swarm, data):
    with owned_folder(data, "peer"):
        assert "a peer runs on it" in swarm("ls")[1].replace("\n", "")
        assert swarm("pin", "weights")[0] == 0
        for command in ("verify", "rm"):
            code, _, err = swarm(command, "weights")
            assert code == 1
            assert "another peer uses the folder" in err
    assert listed(swarm)["weights"]["held_pieces"] == 3
