"""hivemind_p2p: peer-to-peer compute for notebooks.

    import hivemind_p2p as hm

    with hm.local_hive(peers=3) as hive:
        print(hive.submit(pow, 2, 10).result())

General layout, from the bottom up; imports run downwards only:

    errors types interfaces config defaults identity telemetry    words and promises
    proto/                                                        what travels between peers
    net/                                                          streams, messages, handlers; libp2p lives here
    dht/  bt/  sharding/  tasks/  credits/                        the services, which never import each other
    worker/                                                       runs work on this machine, behind the sandbox
    offers  peer                                                  where the services are wired together
    portal  job  model  hive  local                               the synchronous face for scripts and notebooks
    cli  demo  notebook/                                          what people see

Importing this package loads neither torch nor libp2p: every name below is loaded on first use.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # what type checkers take for true; `typing` itself takes longer to import than all of this

if TYPE_CHECKING:
    from hivemind_p2p import errors
    from hivemind_p2p.async_hive import AsyncHive, open_hive
    from hivemind_p2p.current import current_hive
    from hivemind_p2p.ecosystem.joblib_backend import register_joblib
    from hivemind_p2p.ecosystem.remote import remote
    from hivemind_p2p.hive import Hive, connect
    from hivemind_p2p.identity import Identity
    from hivemind_p2p.job import Job, JobList
    from hivemind_p2p.local import local_hive
    from hivemind_p2p.model import Model
    from hivemind_p2p.sharding.results import ScoredText, ScoredToken
    from hivemind_p2p.tasks.options import Options
    from hivemind_p2p.tasks.plugins import task_type
    from hivemind_p2p.tasks.quorum import Quorum
    from hivemind_p2p.tasks.references import Reference
    from hivemind_p2p.tasks.registry import TaskType
    from hivemind_p2p.types import ByteRange, LayerSpan, Link, Needs, PeerId, Prices

__version__ = "0.1.0"

_HOMES = {
    "AsyncHive": "async_hive",
    "ByteRange": "types",
    "Hive": "hive",
    "Identity": "identity",
    "Job": "job",
    "JobList": "job",
    "LayerSpan": "types",
    "Link": "types",
    "Model": "model",
    "Needs": "types",
    "Options": "tasks.options",
    "PeerId": "types",
    "Prices": "types",
    "Quorum": "tasks.quorum",
    "Reference": "tasks.references",
    "ScoredText": "sharding.results",
    "ScoredToken": "sharding.results",
    "TaskType": "tasks.registry",
    "connect": "hive",
    "current_hive": "current",
    "local_hive": "local",
    "open_hive": "async_hive",
    "register_joblib": "ecosystem.joblib_backend",
    "remote": "ecosystem.remote",
    "task_type": "tasks.plugins",
}

__all__ = [
    "AsyncHive",
    "ByteRange",
    "Hive",
    "Identity",
    "Job",
    "JobList",
    "LayerSpan",
    "Link",
    "Model",
    "Needs",
    "Options",
    "PeerId",
    "Prices",
    "Quorum",
    "Reference",
    "ScoredText",
    "ScoredToken",
    "TaskType",
    "__version__",
    "connect",
    "current_hive",
    "errors",
    "local_hive",
    "open_hive",
    "register_joblib",
    "remote",
    "task_type",
]


def __getattr__(name: str) -> object:
    if name == "errors":
        return importlib.import_module("hivemind_p2p.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'hivemind_p2p' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hivemind_p2p.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
