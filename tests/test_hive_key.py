"""Key files of private hives: what one looks like, and clear words for whatever is not one."""

import stat
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import HiveKeyError
from hivemind_p2p.hive_key import FIRST_LINE, LONGEST_FILE, HiveKey, others_may_read, secret_of

SECRET = bytes(range(32))


@given(st.binary(min_size=32, max_size=32))
def test_what_is_written_is_read(secret):
    assert HiveKey.parse(HiveKey(secret).text()).secret == secret


def test_a_file_for_its_owner_only_that_says_what_it_is(tmp_path):
    path = tmp_path / "keys" / "hive.key"
    key = HiveKey.generate()
    key.write_new(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().splitlines()[0] == FIRST_LINE
    assert HiveKey.load(path).secret == secret_of(path) == key.secret
    assert not others_may_read(path)


def test_no_key_for_an_open_hive():
    assert secret_of(None) is None


def test_no_two_keys_are_the_same():
    assert HiveKey.generate().secret != HiveKey.generate().secret


def test_the_fingerprint_tells_keys_apart_and_nothing_else_is_shown():
    key = HiveKey(SECRET)
    assert key.fingerprint == HiveKey(SECRET).fingerprint != HiveKey(SECRET[::-1]).fingerprint
    assert len(key.fingerprint) == 8
    assert SECRET.hex()[:8] not in repr(key)
    assert key.fingerprint in repr(key)


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "hive.key"
    path.write_text("something")
    with pytest.raises(HiveKeyError, match="exists already"):
        HiveKey(SECRET).write_new(path)
    assert path.read_text() == "something"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HiveKeyError, match="cannot write"):
        HiveKey(SECRET).write_new(tmp_path / "file" / "hive.key")


def test_spaces_and_line_ends_do_not_matter():
    assert HiveKey.parse(f"\r\n{FIRST_LINE}  \r\n\r\n {SECRET.hex().upper()} \r\n").secret == SECRET


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no hive key"),
        ("hello", "no hive key"),
        (SECRET.hex(), "a peer's identity key"),
        (FIRST_LINE, "no second line of 64"),
        (f"{FIRST_LINE}\nnot hexadecimal", "no second line of 64"),
        (f"{FIRST_LINE}\n{SECRET.hex()}\n{SECRET.hex()}", "no second line of 64"),
        (f"{FIRST_LINE}\n{SECRET.hex()[:62]}", "has 62 hexadecimal digits, not 64"),
        (f"{FIRST_LINE}\n{SECRET.hex()}00", "has 66 hexadecimal digits, not 64"),
        (f"# hivemind_p2p hive key 2: new\n{SECRET.hex()}", "version 2"),
        (f"# hivemind_p2p hive key\n{SECRET.hex()}", r"version \?"),
    ],
)
def test_what_is_no_key_is_told_apart(text, words):
    with pytest.raises(HiveKeyError, match=words) as caught:
        HiveKey.parse(text, "mine.key")
    assert "mine.key" in caught.value.message
    assert SECRET.hex()[:16] not in caught.value.message


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text):
    with suppress(HiveKeyError):
        assert len(HiveKey.parse(f"{FIRST_LINE}\n{text}").secret) == 32


def test_a_file_that_is_missing_a_folder_too_long_or_binary(tmp_path):
    long, binary = tmp_path / "long", tmp_path / "binary"
    long.write_bytes(b"#" * (LONGEST_FILE + 1))
    binary.write_bytes(b"\xff\x00" * 40)
    for path, words in (
        (tmp_path / "missing", "there is no"),
        (tmp_path, "cannot read"),
        (long, "too long"),
        (binary, "no hive key"),
    ):
        with pytest.raises(HiveKeyError, match=words):
            HiveKey.load(path)


def test_a_file_that_others_can_read_is_told_and_taken(tmp_path):
    path = tmp_path / "hive.key"
    HiveKey(SECRET).write_new(path)
    path.chmod(0o640)
    with structlog.testing.capture_logs() as logs:
        structlog.configure(processors=structlog.get_config()["processors"])
        assert HiveKey.load(path).secret == SECRET
    structlog.reset_defaults()
    assert [line["event"] for line in logs] == ["hive_key_exposed"]
    assert others_may_read(path)


def test_a_secret_of_another_length():
    with pytest.raises(HiveKeyError, match="31"):
        HiveKey(SECRET[:31])


def test_the_settings_know_it(monkeypatch, tmp_path):
    from hivemind_p2p import config

    monkeypatch.setenv("HIVEMIND_P2P_CONFIG", str(tmp_path / "none.toml"))
    assert config.load().hive_key is None
    assert config.hive_key_of_the_environment() is None
    monkeypatch.setenv("HIVEMIND_P2P_HIVE_KEY", "~/hive.key")
    assert config.load().hive_key == config.hive_key_of_the_environment() == Path.home() / "hive.key"
