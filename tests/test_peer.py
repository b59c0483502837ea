"""What the wiring decides itself: how a peer gets to its account."""

import pytest

from hivemind_p2p.errors import AccountExistsError, AuthenticationError
from hivemind_p2p.peer import _log_in


class FakeAccounts:
    """Accounts by name; `rival` is made between a failed login and the registration that follows it."""

    def __init__(self, passwords=(), rival=None):
        self.passwords = dict(passwords)
        self.rival = rival
        self.calls = []

    async def login(self, username, password):
        self.calls.append("login")
        if self.passwords.get(username) != password:
            if self.rival is not None:
                self.passwords[username] = self.rival
            raise AuthenticationError("wrong")

    async def register(self, username, password):
        self.calls.append("register")
        if username in self.passwords:
            raise AccountExistsError("taken")
        self.passwords[username] = password


async def test_an_account_that_there_is():
    accounts = FakeAccounts({"ada": "sesame"})
    await _log_in(accounts, "ada", "sesame", register=True)
    assert accounts.calls == ["login"]


async def test_an_account_is_made_where_that_is_wanted():
    accounts = FakeAccounts()
    await _log_in(accounts, "ada", "sesame", register=True)
    assert accounts.passwords == {"ada": "sesame"}
    with pytest.raises(AuthenticationError):
        await _log_in(FakeAccounts(), "ada", "sesame", register=False)


async def test_two_peers_of_a_new_user_at_once():
    accounts = FakeAccounts(rival="sesame")
    await _log_in(accounts, "ada", "sesame", register=True)
    assert accounts.calls == ["login", "register", "login"]


async def test_a_wrong_password_is_called_that():
    with pytest.raises(AuthenticationError):
        await _log_in(FakeAccounts({"ada": "sesame"}), "ada", "wrong", register=True)
