"""The operator's application: the bootstrap peer of a hive.

It seeds the directory, keeps accounts and the ledger, settles vouchers, and shows a status page over HTTP. Its
Ed25519 key is what makes a hive a hive: peers trust the holds that it signs.

Rooms: `accounts` (who may log in), `ledger` and `settlement` (pure decisions about money), `database` (SQLite),
`accounts_service` and `credits_service` (the trio shells), `web/` (HTTP), `app` (everything wired together), `cli`.
"""
