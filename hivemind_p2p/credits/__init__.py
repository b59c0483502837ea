"""Prices, holds, vouchers and receipts: how work is paid without asking the bootstrap each time.

A payer asks the bootstrap once for a *hold*: credits set aside for one payee, certified by the bootstrap's signature,
which the payee checks offline. From then on payer and payee deal with each other alone: the worker signs a *receipt*
for each piece of work, the payer countersigns it and signs a *voucher* that says how much of the hold belongs to the
payee in all. A later voucher replaces an earlier one, so a lost message costs nothing. The payee hands its best
voucher to the bootstrap now and then, which settles it in one ledger transaction.

Rooms: `vouchers` and `receipts` (nouns and checks), `pricing` (how large a hold is), `payer_book` and `earner_book`
(the decisions of both sides), `wire` (signed messages), `journal` (vouchers that outlive a crash), `purse`, `till` and
`accounts` (the trio shells; `client` gathers them).
"""
