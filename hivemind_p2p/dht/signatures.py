"""Checks the signatures of many records without holding up everything else.

A signature takes about 0.15 ms, so 256 of them are 40 ms in which no request would be answered. They are checked in
small steps, with the others' turn in between; that `records` remembers what it has checked makes the second look, when
the records are taken, cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from hivemind_p2p.dht import records
from hivemind_p2p.dht.messages import SignedBytes

CHECKED_AT_ONCE = 12
"""Signatures checked between two turns of the others: 2 ms."""


async def check_signatures(batch: Sequence[SignedBytes]) -> None:
    """Checks them all; returns at once where they are few."""
    if len(batch) <= CHECKED_AT_ONCE:
        return
    for index, record in enumerate(batch):
        if index % CHECKED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        records.check(record.body, record.signature)
