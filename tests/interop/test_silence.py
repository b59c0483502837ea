"""A peer that is killed or stopped, over real sockets: whoever waits for it is told in time."""

import os
import signal
import subprocess
import sys

import pytest
import trio

from hivemind_p2p.identity import Identity
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.types import PeerId, PeerInfo

PROTOCOL = "/test/silence/1"
LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
PATIENCE = 30.0

SILENT = """
import trio
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.transport import open_transport

async def wait(stream):
    await stream.send_all(b"!")
    await trio.sleep_forever()

async def main():
    async with open_transport(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as transport:
        transport.set_handler("/test/silence/1", wait)
        print(transport.peer_id, transport.addresses[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture
def silent():
    """A peer in a process of its own that says one byte and then nothing."""
    with subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.PIPE, text=True) as process:
        try:
            peer, address = process.stdout.readline().split()
            yield process.pid, PeerInfo(PeerId(peer), (address,))
        finally:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_whoever_waits_is_told(silent, how, record_property):
    pid, peer = silent
    async with open_transport(Identity.generate(), LOOPBACK) as transport:
        transport.learn(peer)
        stream = await transport.open_stream(peer.peer_id, PROTOCOL)
        assert await stream.receive_some() == b"!"
        os.kill(pid, how)
        since = trio.current_time()
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        noticed = trio.current_time() - since
        record_property("noticed_after_s", round(noticed, 2))
        print(f"{how.name} noticed after {noticed:.2f} s")
        assert transport.statistics().connections == 0
        assert transport.statistics().died == (how == signal.SIGSTOP)
