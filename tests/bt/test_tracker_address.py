import pytest
import trio

from hivemind_p2p.bt.tracker_address import DEADLINE, PROTOCOL, register_with_tracker, serve_tracker_address
from hivemind_p2p.errors import DeadlineExceededError, ProtocolError
from tests.bt.swarms import hive

INFOHASH = bytes(range(32))


@pytest.mark.parametrize(
    ("served", "told"),
    [("http://192.0.2.7:80/announce", "http://192.0.2.7:80/announce"), ("", None), ("file:///etc/passwd", None)],
)
async def test_a_content_is_registered_and_the_tracker_told(autojump_clock, tmp_path, served, told):
    registered = []
    async with hive(tmp_path) as members:
        (bootstrap, network, _), (peer, asker, directory) = members.peer(), members.peer()
        serve_tracker_address(network, lambda *asked: registered.append(asked) or served)
        asker.learn(await directory.find_peer(bootstrap.peer_id))
        assert await register_with_tracker(asker, bootstrap.peer_id, INFOHASH) == told
    assert registered == [(INFOHASH, peer.peer_id)]


async def test_a_bootstrap_that_does_not_know_the_question_or_stalls_is_told(autojump_clock, tmp_path):
    async with hive(tmp_path) as members:
        (bootstrap, network, _), (_, asker, directory) = members.peer(), members.peer()
        asker.learn(await directory.find_peer(bootstrap.peer_id))
        with pytest.raises(ProtocolError, match="does not speak"):
            await register_with_tracker(asker, bootstrap.peer_id, INFOHASH)

        async def stall(channel):
            await trio.sleep(10 * DEADLINE)

        network.serve(PROTOCOL, stall)
        with pytest.raises(DeadlineExceededError):
            await register_with_tracker(asker, bootstrap.peer_id, INFOHASH)


async def test_what_is_no_info_hash_is_refused(autojump_clock, tmp_path):
    async with hive(tmp_path) as members:
        (bootstrap, network, _), (_, asker, directory) = members.peer(), members.peer()
        serve_tracker_address(network, None)
        asker.learn(await directory.find_peer(bootstrap.peer_id))
        with pytest.raises(ProtocolError, match="32 bytes"):
            await register_with_tracker(asker, bootstrap.peer_id, b"short")
