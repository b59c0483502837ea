"""Where settings come from: flags, then ``HIVEMIND_P2P_*``, then ``config.toml``, then the defaults.

This is the one module that reads environment variables and TOML. ``config.toml`` lies in the user's config folder
(``HIVEMIND_P2P_CONFIG`` names another one) and holds the same names as the flags, with ``_`` for ``-``:

    bootstrap = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."
    username = "ada"
    memory = "8GiB"
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hivemind_p2p import defaults
from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.types import Prices, parse_bytes

PREFIX = "HIVEMIND_P2P_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a peer can be told. See the flags of ``hivemind-peer run --help``.

    Attributes:
        bootstrap: The multiaddr of the hive's bootstrap, with its ``/p2p/`` part.
        username: The account that pays and earns; None for a peer without one.
        password: Its password.
        register: Make the account if there is none of this name.
        data: The folder of the node's state; None for a temporary one that goes with the peer.
        identity: A key file; None for ``<data>/identity.key``.
        hive_key: The key file of a private hive; None for a hive that is open to everybody.
        listen: Multiaddrs to listen on.
        name: What others see beside the peer id.
        lend: Whether tasks are taken.
        cpus: Cores lent to tasks; 0 for as many as the machine has.
        memory: Bytes lent to tasks and stages; 0 for half of the machine's.
        gpus: GPUs lent to tasks; -1 for all that there are. None unless one says so: see docs/en/sandbox.md.
        location: Where it is, in words of one's own, for tasks that ask for a place.
        software: What it has, for tasks that ask for it.
        serve_models: ``none``, ``any`` to host stages of whatever the hive publishes, or the links of the models to
            host, with spaces between them.
        task_network: Whether tasks that ask for it may use this machine's network, its own services included.
        sandbox: ``auto``, ``bubblewrap``, ``landlock`` or ``none``.
        unsafe: Whether tasks may run without walls where no walls can be had.
        schedule: The hours in which tasks are taken, such as ``mon-fri 20:00-07:00``; empty for always.
        only_when_idle: Whether tasks are taken only while other programs leave the machine alone.
        drain_seconds: For how long a peer that is told to end finishes what it runs; 0 for not at all.
        threads: Torch threads a stage computes with.
        prices: What this peer asks.
        upload_limit: Bytes a second of contents that are sent to others, all together; 0 for no limit.
        download_limit: Bytes a second of contents that are fetched, all together; 0 for no limit.
        upload_slots: Peers that each content is given to at a time.
        content_connections: Peers with which each content is exchanged at a time.
        storage: Bytes that fetched contents may take in the data folder; 0 for as many as there are.
        wait_for_room: Seconds for which a fetch waits on a full disk for room.
        relay: Whether calls are relayed for peers that cannot be called directly.
        upnp: Whether a peer that lends asks its router for a port when it cannot be called otherwise.
    """

    bootstrap: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    register: bool = False
    data: Path | None = None
    identity: Path | None = None
    hive_key: Path | None = None
    listen: tuple[str, ...] = (defaults.LISTEN_ADDRESS,)
    name: str = ""
    lend: bool = False
    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0
    location: str = ""
    software: tuple[str, ...] = ()
    serve_models: str = "none"
    task_network: bool = False
    sandbox: str = "auto"
    unsafe: bool = False
    schedule: str = ""
    only_when_idle: bool = False
    drain_seconds: float = 60.0
    threads: int = 1
    prices: Prices = field(default_factory=Prices)
    upload_limit: int = 0
    download_limit: int = 0
    upload_slots: int = 8
    content_connections: int = 128
    storage: int = 0
    wait_for_room: float = 600.0
    relay: bool = False
    upnp: bool = True


_NAMES = {item.name for item in fields(Settings)} - {"prices"}
_CHOICES = {"sandbox": ("auto", "bubblewrap", "landlock", "none")}


def config_file() -> Path:
    """The config file that `load` reads where it exists."""
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        return Path(named)
    import platformdirs

    return platformdirs.user_config_path("hivemind_p2p") / "config.toml"


def data_folder() -> Path:
    """Where a peer that is run from the command line keeps its state unless told otherwise."""
    import platformdirs

    return platformdirs.user_data_path("hivemind_p2p")


def keep_torch_files_in(folder: Path) -> None:
    """Tells torch, before it is imported, where its compiler's cache goes.

    It makes that folder on import, used or not, among the temporary files, where it would stay behind.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def load(**flags: Any) -> Settings:
    """The settings; a flag that is None counts as not given.

    Raises:
        ConfigurationError: A value cannot be understood, or there is no such setting; the message says where it
            came from.
    """
    if unknown := sorted(set(flags) - {item.name for item in fields(Settings)}):
        raise ConfigurationError(f"there is no setting {unknown[0]!r}", hint=f"There are: {', '.join(sorted(_NAMES))}.")
    merged: dict[str, Any] = {}
    for source, values in (
        (str(config_file()), _from_file(config_file())),
        ("the environment", _from_environment(os.environ)),
        ("the arguments", {name: value for name, value in flags.items() if value is not None}),
    ):
        merged |= {name: _convert(name, value, source) for name, value in values.items()}
    return Settings(**merged)


def hive_key_of_the_environment() -> Path | None:
    """The key file that the environment names: for a bootstrap, which reads no config file."""
    named = _from_environment(os.environ).get("hive_key")
    return None if named is None else _path(named)


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {name: f"{PREFIX}{name.upper()}" for name in _NAMES}
    return {name: environment[variable] for name, variable in names.items() if environment.get(variable)}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    if unknown := sorted(set(values) - _NAMES):
        raise ConfigurationError(f"unknown setting in {path}: {', '.join(unknown)}")
    return values


def _convert(name: str, value: Any, source: str) -> Any:
    convert: Callable[[Any], Any] = _CONVERTERS.get(name, _text)
    try:
        converted = convert(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name} in {source}: {error.message}", hint=error.hint) from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} in {source} cannot be {value!r}") from error
    if name in _CHOICES and converted not in _CHOICES[name]:
        raise ConfigurationError(f"{name} in {source} is {value!r}; it can be {' or '.join(_CHOICES[name])}")
    if name == "serve_models" and converted not in ("none", "any"):
        _check_links(converted, source)
    return converted


def _check_links(value: str, source: str) -> None:
    if not value.split() or not all(link.startswith("magnet:?") for link in value.split()):
        raise ConfigurationError(
            f"serve_models in {source} is {value!r}; it can be none, any, or links of models",
            hint="A link is what publish_model gave: it begins with magnet:? and is quoted in a shell.",
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if _text(value).lower() not in known:
        raise ValueError(value)
    return known[value.lower()]


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(_text(part) for part in value)


def _path(value: Any) -> Path:
    return Path(value).expanduser()


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(value)
    return number


def _rate(value: Any) -> int:
    return parse_bytes(value.strip().removesuffix("/s") if isinstance(value, str) else value)


def _prices(value: Any) -> Prices:
    if not isinstance(value, Prices):
        raise TypeError(value)
    return value


def _gpus(value: Any) -> int:
    if int(value) < -1:
        raise ValueError(value)
    return int(value)


def _one_or_more(value: Any) -> int:
    if int(value) < 1:
        raise ValueError(value)
    return int(value)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "register": _truth,
    "lend": _truth,
    "data": _path,
    "identity": _path,
    "hive_key": _path,
    "listen": _list,
    "software": _list,
    "gpus": _gpus,
    "cpus": _positive,
    "memory": parse_bytes,
    "upload_limit": _rate,
    "download_limit": _rate,
    "upload_slots": _one_or_more,
    "content_connections": _one_or_more,
    "storage": parse_bytes,
    "wait_for_room": _positive,
    "drain_seconds": _positive,
    "threads": _one_or_more,
    "prices": _prices,
    "unsafe": _truth,
    "task_network": _truth,
    "only_when_idle": _truth,
    "relay": _truth,
    "upnp": _truth,
}
