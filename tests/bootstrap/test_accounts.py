from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_bootstrap import accounts
from hivemind_bootstrap.accounts import ATTEMPT_WINDOW, AttemptLimiter, PasswordKeeper, checked_username
from hivemind_p2p.errors import AuthenticationError, BusyError


def test_a_password_matches_only_itself():
    keeper = PasswordKeeper(time_cost=1, memory_cost=64)
    stored = keeper.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert "correct horse" not in stored
    assert keeper.matches(stored, "correct horse")
    assert not keeper.matches(stored, "correct horsf")
    assert not keeper.matches(None, "nobody's password")
    assert not keeper.matches("not a hash", "correct horse")


@given(st.text(max_size=40))
def test_a_username_has_the_form_or_is_refused(text):
    try:
        name = checked_username(text)
    except AuthenticationError:
        return
    assert name == text.strip().lower()
    assert 3 <= len(name) <= 32
    assert name.isascii()


def test_attempts_are_counted_by_window_and_key():
    limiter = AttemptLimiter()
    for _ in range(3):
        limiter.check("a", 3, 0.0)
        limiter.count("a", 0.0)
    with pytest.raises(BusyError) as caught:
        limiter.check("a", 3, 1.0)
    assert "Wait 59 seconds" in caught.value.hint
    limiter.check("b", 3, 1.0)
    limiter.check("a", 3, ATTEMPT_WINDOW)
    limiter.forget("a")
    limiter.check("a", 1, 1.0)


def test_the_limiter_remembers_a_bounded_number(monkeypatch):
    monkeypatch.setattr(accounts, "MOST_KEYS", 10)
    limiter = AttemptLimiter()
    for number in range(100):
        limiter.count(f"{number}", 0.0)
    assert len(limiter._windows) == 10
