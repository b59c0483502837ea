"""What may stand under which key: a validator for each name space of keys.

The name space of a key is what stands before its first colon, or the whole key where there is none: `offers`,
`models`, `content:<infohash>`. Records of name spaces that nobody has registered are kept as they are, so that
programs can use the directory for things of their own; a registered name space holds only what its validator lets
pass, at every replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from hivemind_p2p.errors import RecordError
from hivemind_p2p.types import Record

Validator: TypeAlias = Callable[[Record], object]
"""Looks at a record whose signature is its signer's; raises `RecordError` unless it may be kept."""


def name_space(key: str) -> str:
    """The name space of a key."""
    return key.partition(":")[0]


class Validators:
    """The validators by name space.

    Args:
        by_name_space: Which validator looks at the records of which name space.
    """

    def __init__(self, by_name_space: Mapping[str, Validator] | None = None) -> None:
        self._by_name_space = dict(by_name_space or {})

    def check(self, record: Record) -> None:
        """Lets a record pass, or not. A tombstone (an empty value) always passes: it only takes away.

        Raises:
            RecordError: It is nothing that this name space holds.
        """
        validator = self._by_name_space.get(name_space(record.key))
        if validator is None or not record.value:
            return
        try:
            validator(record)
        except RecordError as error:
            raise RecordError(f"not a record for {record.key!r}: {error.message}") from error
