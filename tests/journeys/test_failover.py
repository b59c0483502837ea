"""Stages in processes of their own, killed or stopped in the middle of a text that goes on as it would have."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.identity import Identity
from hivemind_p2p.net.router import Router
from hivemind_p2p.net.transport import open_transport
from hivemind_p2p.sharding.caller import GenerationRun, Model, Patience
from hivemind_p2p.sharding.generation import GenerationState
from hivemind_p2p.sharding.sampling import SamplingOptions
from hivemind_p2p.types import LayerSpan, Offer, PeerId, PeerInfo, Prices, StageOffer
from tests.journeys import stage_node
from tests.sharding import tiny

PROMPT = [5, 40, 17, 3, 88, 61]
NEW = 60
SPANS = (LayerSpan(0, 2), LayerSpan(2, 4), LayerSpan(4, 5))
ROOT = Path(__file__).parents[2]


class Node:
    """One stage's process."""

    def __init__(self, number: int, folder: Path, span: LayerSpan) -> None:
        self.span = span
        command = [sys.executable, "-m", "tests.journeys.stage_node", str(number), str(folder)]
        self.process = subprocess.Popen(
            [*command, str(span.start), str(span.stop)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def read_info(self) -> None:
        """Waits until it listens."""
        peer, addresses = json.loads(self.line())
        self.info = PeerInfo(PeerId(peer), tuple(addresses))

    def tell(self, nodes: list[Node]) -> None:
        """Makes the others known to it."""
        everybody = [[node.info.peer_id, list(node.info.addresses)] for node in nodes]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(everybody) + "\n")
        self.process.stdin.flush()
        assert self.line() == "ready\n"

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> None:
        """Ends it, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class FixedOffers:
    """Everybody's offers, whoever lives."""

    def __init__(self, nodes: list[Node]) -> None:
        self._offers = tuple(
            Offer(
                peer=node.info,
                serves_models=False,
                prices=Prices(),
                stages=(StageOffer(stage_node.LINK, node.span, ready=True),),
            )
            for node in nodes
        )

    async def offers(self, *, fresh: bool = False) -> tuple[Offer, ...]:
        """All of them."""
        return self._offers


@contextmanager
def nodes_of(folder: Path, *spans: LayerSpan) -> Iterator[list[Node]]:
    """A process for each span."""
    tiny.save("llama", folder / "llama")
    with ExitStack() as stack:
        nodes = []
        for number, span in enumerate(spans, start=1):
            nodes.append(Node(number, folder / "llama", span))
            stack.callback(nodes[-1].end)
        for node in nodes:
            node.read_info()
        for node in nodes:
            node.tell(nodes)
        yield nodes


@asynccontextmanager
async def calling(nodes: list[Node]) -> AsyncIterator[Callable[[], GenerationRun]]:
    """A caller that can begin generations over these nodes."""
    caller = Identity(b"c" * 32)
    async with open_transport(caller, stage_node.LISTEN) as transport, trio.open_nursery() as nursery:
        network = Router(transport, nursery)
        for node in nodes:
            network.learn(node.info)
        model = Model(stage_node.LINK, tiny.LAYERS, 128, frozenset())

        def begin() -> GenerationRun:
            state = GenerationState(PROMPT, NEW)
            offers = FixedOffers(nodes)
            return GenerationRun(network, offers, None, model, state, SamplingOptions(), Patience(wait_for_hosts=0.5))  # type: ignore[arg-type]

        yield begin
        nursery.cancel_scope.cancel()


async def write(run: GenerationRun, happens: dict[int, Callable[[], None]]) -> list[int]:
    """The whole text; after so many new tokens something happens."""
    written: list[int] = []

    async def read(token: int) -> bool:
        written.append(token)
        happens.get(len(written), lambda: None)()
        return True

    with trio.fail_after(60):
        await run.run(read)
    return PROMPT + written


@pytest.fixture(autouse=True)
def _equals_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of peers that are as good, the one whose id comes first is taken."""
    monkeypatch.setattr("hivemind_p2p.sharding.routes.draw", lambda: b"")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_each_stage_dies_or_stops_once(how: signal.Signals, tmp_path: Path) -> None:
    whole = tiny.expected("llama", PROMPT, NEW)
    with nodes_of(tmp_path, *SPANS, *SPANS) as nodes:
        async with calling(nodes) as begin:
            for place in range(len(SPANS)):
                run = begin()
                victims = [node for node in nodes if node.span == SPANS[place] and node.process.poll() is None]
                # Of equals the route takes the one whose id comes first.
                victim = min(victims, key=lambda node: node.info.peer_id)
                assert await write(run, {15: partial(victim.process.send_signal, how)}) == whole
                assert run.attempts == 2
                victim.end()
                nodes.remove(victim)


async def test_two_deaths_in_one_text_and_then_nobody_is_left(tmp_path: Path) -> None:
    whole = tiny.expected("llama", PROMPT, NEW)
    with nodes_of(tmp_path, *SPANS, SPANS[0], SPANS[2]) as nodes:
        async with calling(nodes) as begin:
            firsts, lasts = ([node for node in nodes if node.span == span] for span in (SPANS[0], SPANS[2]))
            dying = [min(each, key=lambda node: node.info.peer_id) for each in (firsts, lasts)]
            run = begin()
            happens = {10: dying[0].process.kill, 30: dying[1].process.kill}
            assert await write(run, happens) == whole
            assert run.attempts == 3
            middle = next(node for node in nodes if node.span == SPANS[1])
            with pytest.raises(MissingLayersError, match="layers 2-3"):
                await write(begin(), {10: middle.process.kill})
