"""A peer's own folder across restarts, and the commands that look after it."""

import json
from pathlib import Path

import hivemind_p2p as hm
from tests.journeys.programs import PEER, run

MIB = 2**20


def test_a_damaged_content_is_found_and_mended_and_a_pinned_one_stays(hive, joined, tmp_path):
    links = []
    for number in range(3):
        (tmp_path / f"data-{number}").write_bytes(bytes([number]) * MIB)
        links.append(hive.share(tmp_path / f"data-{number}"))
    data, address = tmp_path / "peer", hive.nodes.bootstrap_address
    with hm.connect(address, data=data, storage="2500KiB") as own:
        paths = [own.fetch(link) for link in links[:2]]
        own.pin(links[0])
        assert "2 contents, 2.0 MiB of 2.4 MiB" in repr(own.contents())
        assert own.statistics()["content"].stored_bytes == 2 * MIB
        # The folder is in use: what would change it says so.
        code, _, err = run(PEER, "swarm", "verify", "--data", str(data), env=joined)
        assert code == 1
        assert "another peer uses the folder" in err
        assert run(PEER, "swarm", "ls", "--data", str(data), env=joined)[0] == 0
    with paths[0].open("r+b") as file:
        file.seek(MIB // 2)
        file.write(b"damage")
    code, out, err = run(PEER, "swarm", "verify", "--data", str(data), "--json", env=joined)
    assert (code, err) == (1, "")
    told = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert told["data-0"]["wrong_pieces"] == 1
    assert told["data-1"]["wrong_pieces"] == 0
    assert told["data-0"]["pinned"]
    with hm.connect(address, data=data) as own:
        assert own.fetch(links[0]).read_bytes() == bytes(MIB)
        assert 0 < own.statistics()["content"].downloaded_bytes < MIB // 2
        own.remove(links[1])
        assert not paths[1].exists()
        assert [row.name for row in own.contents()] == ["data-0"]
    assert run(PEER, "swarm", "rm", "data-0", "--data", str(data), env=joined)[0] == 0
    assert not paths[0].exists()
    assert Path(tmp_path / "data-0").exists()
