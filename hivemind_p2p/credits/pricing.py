"""How large a hold a payer asks for.

A large hold means few questions to the bootstrap; a small one leaves credits for other workers. The figures are
chosen so that a new account (100 credits) keeps many workers busy at once.
"""

from __future__ import annotations

from hivemind_p2p.types import Credits

WORKS_AHEAD = 16
"""How many pieces of work of the present size a hold should last for."""

LARGEST_SHARE = 10
"""A hold takes at most one tenth of what is available, unless the work itself needs more."""


def hold_amount(needed: int, limit: int, available: int) -> Credits:
    """How much to set aside.

    Args:
        needed: What the work that waits right now needs, in millionths of a credit.
        limit: What one piece of it may cost.
        available: The account's balance. Where `needed` is above it the bootstrap will refuse, and say so.
    """
    return Credits(max(needed, min(WORKS_AHEAD * limit, available // LARGEST_SHARE)))
