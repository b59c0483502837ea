"""One question to the bootstrap: a channel, a request, an answer, and a deadline around it all."""

from __future__ import annotations

import trio
from google.protobuf.message import Message

from hivemind_p2p.defaults import REQUEST_DEADLINE
from hivemind_p2p.errors import BootstrapUnreachableError, DeadlineExceededError, PeerUnreachableError
from hivemind_p2p.interfaces import MessageType, Network
from hivemind_p2p.types import PeerId


async def ask(
    network: Network,
    bootstrap: PeerId,
    protocol: str,
    request: Message,
    answer: type[MessageType],
    *,
    deadline: float = REQUEST_DEADLINE,
) -> MessageType:
    """Asks the bootstrap and returns its answer.

    Raises:
        BootstrapUnreachableError: It cannot be dialled.
        DeadlineExceededError: It took longer than `deadline` seconds.
        HivemindError: What it answered instead, as the class that it names.
    """
    try:
        with trio.fail_after(deadline):
            channel = await network.open(bootstrap, protocol, deadline=deadline)
            try:
                await channel.send(request)
                received, _ = await channel.receive(answer)
                return received
            finally:
                await channel.aclose()
    except trio.TooSlowError as error:
        raise DeadlineExceededError(
            f"the bootstrap {bootstrap} did not answer on {protocol} within {deadline:g} s",
            hint=BootstrapUnreachableError.default_hint,
        ) from error
    except BootstrapUnreachableError:
        raise
    except PeerUnreachableError as error:
        raise BootstrapUnreachableError(error.message) from error
