"""What a peer uses of this folder: `Purse` pays, `Till` earns, `AccountClient` asks the bootstrap about the account."""

from __future__ import annotations

from hivemind_p2p.credits.accounts import AccountClient, AccountTotal, Balance, LedgerOverview, StatementRow
from hivemind_p2p.credits.purse import Purse, PurseStatistics
from hivemind_p2p.credits.till import Till, TillStatistics

__all__ = [
    "AccountClient",
    "AccountTotal",
    "Balance",
    "LedgerOverview",
    "Purse",
    "PurseStatistics",
    "StatementRow",
    "Till",
    "TillStatistics",
]
