"""What a caller knows of a model from its small files: config, tokenizer, special tokens, how long a text may be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.sharding import checkpoint, text, wire
from hivemind_p2p.sharding.pooling import MODULES
from hivemind_p2p.types import Link

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTEXTS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_DECODERS = ("ForCausalLM", "LMHeadModel")
_ENCODERS = ("ForMaskedLM", "ForPreTraining")


class Description:
    """A model in words and numbers, none of its weights.

    Args:
        link: Which content it is.
        folder: Where its small files lie.

    Attributes:
        config: `config.json` as it stands.
        layer_count: How many layers it has.
    """

    def __init__(self, link: Link, folder: Path) -> None:
        self.link = link
        self.folder = folder
        self.config = checkpoint.read_json(folder / checkpoint.CONFIG)
        self.layer_count = checkpoint.layer_count(self.config)
        self._cutting: Tokenizer | None = None
        generation = folder / checkpoint.GENERATION_CONFIG
        self._generation_config = checkpoint.read_json(generation) if generation.is_file() else {}

    @property
    def name(self) -> str:
        """The name that the link carries, or the model's type."""
        named = parse_qs(urlsplit(self.link).query).get("dn")
        return named[0] if named else str(self.config.get("model_type", self.link))

    @property
    def ends(self) -> tuple[int, ...]:
        """The token ids that end a text."""
        found = self._special("eos_token_id")
        values = found if isinstance(found, list) else [found]
        return tuple(value for value in values if type(value) is int)[: wire.MAX_ENDS]

    @property
    def pad(self) -> int:
        """The token id that fills up a row of a batch that ended early."""
        found = self._special("pad_token_id")
        return found if type(found) is int else next(iter(self.ends), 0)

    @property
    def context(self) -> int:
        """The longest text in tokens."""
        found = next((self.config[key] for key in _CONTEXTS if type(self.config.get(key)) is int), wire.MAX_ROOM)
        return int(min(found, wire.MAX_ROOM))

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        found = self.config.get("vocab_size")
        return found if type(found) is int else 2**32  # what the wire can carry

    @property
    def writes(self) -> bool:
        """Whether it is a decoder that was saved with its head, so that it can go on with a text."""
        names = self.config.get("architectures")
        return isinstance(names, list) and bool(names) and str(names[0]).endswith(_DECODERS)

    @property
    def encodes(self) -> bool:
        """Whether it is surely an encoder; hosts, which have the model library, know of the others."""
        names = self.config.get("architectures")
        name = str(names[0]) if isinstance(names, list) and names else ""
        return name.endswith(_ENCODERS) or (not self.writes and (self.folder / MODULES).is_file())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back. Raises CheckpointError where the checkpoint has none."""
        return text.load_tokenizer(self.folder / checkpoint.TOKENIZER)

    def encode(self, prompt: str) -> list[int]:
        """The token ids of a text, with the special tokens that the model puts around it."""
        return list(self.tokenizer.encode(prompt).ids)

    def encode_cut(self, prompts: Sequence[str], longest: int) -> list[list[int]]:
        """The same of several texts, whose ends are cut off where they are longer, special tokens counted."""
        if self._cutting is None:
            self._cutting = text.load_tokenizer(self.folder / checkpoint.TOKENIZER)
        self._cutting.enable_truncation(longest)
        return [list(found.ids) for found in self._cutting.encode_batch(list(prompts))]

    def check_ids(self, ids: list[int]) -> None:
        """Raises ConfigurationError if these are no token ids of this model."""
        if not ids:
            raise ConfigurationError("a prompt has at least one token")
        if any(type(token) is not int or token < 0 for token in ids):
            raise ConfigurationError("token ids are whole numbers from 0 up")
        if max(ids) >= self.vocabulary:
            # Every host would refuse it, and one after the other be given up as broken.
            raise ConfigurationError(f"the token id {max(ids)} is not in the vocabulary of {self.vocabulary}")

    def _special(self, name: str) -> Any:
        found = self._generation_config.get(name)
        return self.config.get(name) if found is None else found


__all__ = ["Description"]
