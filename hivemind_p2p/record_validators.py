"""What the hive's own records must look like, at every replica: the directory's name spaces and their validators.

The directory knows nothing of offers, models or contents; whoever makes a `DirectoryService` for a hive hands it
these. A replica that refuses nonsense spares all readers from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hivemind_p2p import defaults, offers
from hivemind_p2p.bt.wire import decode_record
from hivemind_p2p.errors import RecordError
from hivemind_p2p.types import Record

CONTENT = "content"
"""The name space of the sources of contents: `content:` and the infohash in hexadecimal."""

_CONTENT_KEY = re.compile(r"content:[0-9a-f]{64}")


def record_validators() -> Mapping[str, Callable[[Record], object]]:
    """The validators by name space, as `DirectoryService` takes them."""
    return {defaults.OFFERS_KEY: _offer, defaults.MODELS_KEY: _models, CONTENT: _source}


def _offer(record: Record) -> None:
    _only_key(record, defaults.OFFERS_KEY)
    offers.decode(record)


def _models(record: Record) -> None:
    from hivemind_p2p.sharding.wire import decode_models

    _only_key(record, defaults.MODELS_KEY)
    decode_models(record)


def _source(record: Record) -> None:
    if not _CONTENT_KEY.fullmatch(record.key):
        raise RecordError(f"{record.key!r} names no content")
    decode_record(record.value)


def _only_key(record: Record, key: str) -> None:
    if record.key != key:
        raise RecordError(f"the name space {key!r} has one key only, not {record.key!r}")
