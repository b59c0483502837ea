"""Flags before environment before file before defaults, and clear words for what cannot be understood."""

import os
from pathlib import Path

import pytest

from hivemind_p2p import config
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.types import Prices


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A config file of the test's own, which does not exist yet; and no variables from outside."""
    for name in [name for name in os.environ if name.startswith(config.PREFIX)]:
        monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    monkeypatch.setenv("HIVEMIND_P2P_CONFIG", str(path))
    return path


def test_nothing_said_means_the_defaults():
    assert config.load() == config.Settings()
    assert config.load().listen == ("/ip4/127.0.0.1/tcp/0",)


def test_flags_come_before_environment_before_file(file, monkeypatch):
    file.write_text('username = "file"\nname = "file"\ncpus = 3\n')
    monkeypatch.setenv("HIVEMIND_P2P_USERNAME", "environment")
    monkeypatch.setenv("HIVEMIND_P2P_NAME", "environment")
    settings = config.load(username="flag", name=None)
    assert (settings.username, settings.name, settings.cpus) == ("flag", "environment", 3.0)


def test_every_kind_of_value_from_the_environment(monkeypatch):
    values = {
        "REGISTER": "yes",
        "LEND": "0",
        "DATA": "/somewhere",
        "LISTEN": "/ip4/127.0.0.1/tcp/1, /ip6/::1/tcp/2",
        "CPUS": "1.5",
        "MEMORY": "8GiB",
        "THREADS": "2",
        "SANDBOX": "none",
        "UPLOAD_SLOTS": "3",
        "CONTENT_CONNECTIONS": "40",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"HIVEMIND_P2P_{name}", value)
    assert config.load() == config.Settings(
        register=True,
        lend=False,
        data=Path("/somewhere"),
        listen=("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"),
        cpus=1.5,
        memory=8 * 2**30,
        threads=2,
        sandbox="none",
        upload_slots=3,
        content_connections=40,
    )


def test_every_kind_of_value_from_the_file(file):
    file.write_text('register = true\nlisten = ["/ip4/127.0.0.1/tcp/1"]\nmemory = "1KiB"\nidentity = "~/key"\n')
    settings = config.load()
    assert (settings.register, settings.listen, settings.memory) == (True, ("/ip4/127.0.0.1/tcp/1",), 1024)
    assert settings.identity == Path.home() / "key"


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("HIVEMIND_P2P_USERNAME", "")
    assert config.load().username is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CPUS", "many"),
        ("CPUS", "-1"),
        ("CPUS", "nan"),
        ("CPUS", "inf"),
        ("MEMORY", "much"),
        ("THREADS", "0"),
        ("THREADS", "two"),
        ("REGISTER", "perhaps"),
        ("SANDBOX", "docker"),
        ("SERVE_MODELS", "some"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(f"HIVEMIND_P2P_{variable}", value)
    with pytest.raises(ConfigurationError) as caught:
        config.load()
    assert variable.lower() in caught.value.message
    assert "the environment" in caught.value.message
    assert repr(value) in caught.value.message


@pytest.mark.parametrize(
    "text", ["username = 3", "listen = 3", "listen = [3]", "data = 3", "register = 1", "cpus = []"]
)
def test_a_wrong_type_in_the_file_is_named(file, text):
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        config.load()
    assert str(file) in caught.value.message
    assert text.split(" ")[0] in caught.value.message


@pytest.mark.parametrize("text", ["usrname = 'ada'", "prices = 3", "[table]\na = 1"])
def test_a_setting_that_there_is_not(file, text):
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="unknown setting"):
        config.load()


@pytest.mark.parametrize("content", [b"username = ", b"\xff\xff", b"= 3"])
def test_a_file_that_is_no_toml(file, content):
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot read"):
        config.load()


def test_a_folder_instead_of_a_file(file):
    file.mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        config.load()


def test_a_setting_of_connect_that_there_is_not():
    with pytest.raises(ConfigurationError, match="bootstarp"):
        config.load(bootstarp="/ip4/127.0.0.1/tcp/1")


def test_prices_come_from_a_program_only(monkeypatch):
    assert config.load(prices=Prices(per_task=7)).prices.per_task == 7
    with pytest.raises(ConfigurationError, match="prices in the arguments"):
        config.load(prices=7)
    monkeypatch.setenv("HIVEMIND_P2P_PRICES", "7")
    assert config.load().prices == Prices()


def test_the_password_is_not_shown():
    assert "sesame" not in repr(config.load(username="ada", password="sesame"))


def test_folders_of_this_user(monkeypatch):
    monkeypatch.delenv("HIVEMIND_P2P_CONFIG")
    assert config.config_file().name == "config.toml"
    assert "hivemind_p2p" in str(config.config_file())
    assert "hivemind_p2p" in str(config.data_folder())


def test_torch_keeps_its_files_where_it_is_told_unless_somebody_told_it_before(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    config.keep_torch_files_in(tmp_path / "torch")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "torch")
    config.keep_torch_files_in(tmp_path / "other")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "torch")


@pytest.mark.parametrize("value", ["none", "any", "magnet:?xt=a magnet:?xt=b"])
def test_models_are_served_by_word_or_link(value):
    assert config.load(serve_models=value).serve_models == value


@pytest.mark.parametrize("value", ["", "all", "any magnet:?xt=a", "http://a"])
def test_what_is_no_link_is_refused(value):
    with pytest.raises(ConfigurationError, match="none, any, or links"):
        config.load(serve_models=value)
