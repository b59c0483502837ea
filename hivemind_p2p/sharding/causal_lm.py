"""A model over the hive as an object of the transformers library: its layers run elsewhere, everything else is here.

Participants: the library's ``generate`` with all that it offers (logits processors, stopping criteria, streamers, beam
search, assisted decoding); the stages, in client mode, which give back logits and hidden states.

Goals: whatever the library does with a model of its own it does with this one, and comes to the same.

Non-goals: training (nothing here has a gradient); speed over slow links: every step goes to the caller and back, where
`RemoteModel.generate` goes around the ring.

Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import AutoConfig, Cache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast

from hivemind_p2p.errors import ConfigurationError
from hivemind_p2p.proto import sharding_pb2 as pb
from hivemind_p2p.sharding import checkpoint
from hivemind_p2p.sharding.description import Description
from hivemind_p2p.sharding.fed_texts import FedTexts


@dataclass(frozen=True, slots=True)
class Bridge:
    """Leads from the thread that the library runs in to the loop that the hive lives in.

    Args:
        call: Runs an async function there, and waits for what it returns.
        soon: Runs a function there, soon.
        open_texts: Texts in client mode: of which mode, and how long they are likely to get; called there.
    """

    call: Callable[[Callable[[], Awaitable[Any]]], Any]
    soon: Callable[[Callable[[], None]], None]
    open_texts: Callable[[pb.Mode, int], FedTexts]


Column: TypeAlias = "int | None"
"""A token id, or padding."""


class HiveCache(Cache):  # type: ignore[misc]
    """The rows of a batch so far. What the library would keep as keys and values, the stages keep for these texts.

    Args:
        bridge: Leads to the hive.
        room: Tokens that a row is likely to come to.
    """

    def __init__(self, bridge: Bridge, room: int = 0) -> None:
        super().__init__(layers=[])
        self.rows: list[list[Column]] = []
        self._bridge = bridge
        self._room = room
        self._texts: dict[int, FedTexts] = {}
        # However it goes out of use, the stages are let go.
        self._closing = weakref.finalize(self, _close, bridge, self._texts)
        self._closing.atexit = False

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the library's signature
        """Columns so far, padding counted."""
        return len(self.rows[0]) if self.rows else 0

    def get_max_length(self, layer_idx: int | None = None) -> int:  # noqa: ARG002 - the library's signature
        """There is no limit but the model's own."""
        return -1

    @property
    def batch_size(self) -> int:
        """Rows."""
        return len(self.rows)

    @property
    def is_initialized(self) -> bool:
        """Whether there are any rows."""
        return bool(self.rows)

    def extend(self, new: Sequence[Sequence[Column]]) -> None:
        """Adds columns to every row."""
        if not self.rows:
            self.rows = [[] for _ in new]
        if len(new) != len(self.rows):
            raise ValueError(f"the cache holds {len(self.rows)} rows, and {len(new)} came")
        for row, columns in zip(self.rows, new, strict=True):
            row.extend(columns)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams go on from others' texts."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        self.rows = [list(self.rows[index]) for index in indices.tolist()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Has each row so many times."""
        self.rows = [list(row) for row in self.rows for _ in range(repeats)]

    def crop(self, tokens_to_remove: int) -> None:
        """Takes back the last columns: as many as the negative number says."""
        if tokens_to_remove > 0:
            raise ValueError("crop takes a negative number: how many tokens to remove")
        if tokens_to_remove:
            self.rows = [row[:tokens_to_remove] for row in self.rows]

    def reset(self) -> None:
        """Forgets everything."""
        self.rows = []

    def compute(self, mode: pb.Mode, columns: int) -> list[Any]:
        """What the stages make of the last columns' tokens.

        Args:
            mode: ``LOGITS`` or ``STATES``.
            columns: How many of the last columns.

        Returns:
            For each row what `FedText.rows` gives of the tokens in these columns; None for a row of padding alone.
        """
        wanted = [(_tokens(row), len(_tokens(row[len(row) - columns :]))) for row in self.rows]
        asked = [(text, count) for text, count in wanted if count]

        async def run() -> list[Any]:
            if mode not in self._texts:
                self._texts[mode] = self._bridge.open_texts(mode, self._room)
            return await self._texts[mode].rows(asked)

        found = iter(self._bridge.call(run) if asked else [])
        return [next(found) if count else None for _, count in wanted]

    def close(self) -> None:
        """Lets the stages go. If it is used again, they compute the texts anew."""
        _close(self._bridge, self._texts)


def _tokens(columns: Sequence[Column]) -> list[int]:
    return [column for column in columns if column is not None]


def _close(bridge: Bridge, texts: dict[int, FedTexts]) -> None:
    held = list(texts.values())
    texts.clear()
    for each in held:
        with contextlib.suppress(RuntimeError):  # the loop that the hive lived in has ended, and everything with it
            bridge.soon(each.close)


class HiveForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model whose layers are spread over the hive. Made by `to_transformers`.

    `forward` gives logits of any rows and, where asked for, hidden states behind each stage and the final norm.
    """

    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = False
    _supports_sdpa = True

    def __init__(self, config: Any, bridge: Bridge) -> None:
        super().__init__(config)
        self._bridge = bridge
        # The library asks where a model is and in what it computes; here it has no weights to look at.
        self.register_buffer("_place", torch.zeros((), dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where its outputs are."""
        found: torch.device = self._place.device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Of its outputs."""
        return torch.float32

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,  # noqa: ARG002 - the library's signature
        batch_size: int,  # noqa: ARG002
        max_cache_length: int,
    ) -> None:
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.new_cache(max_cache_length + 1)

    def new_cache(self, room: int = 0) -> HiveCache:
        """An empty cache, for texts that are likely to get so long."""
        return HiveCache(self._bridge, room)

    def forward(  # noqa: PLR0913, PLR0917 - the library's signature
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,  # noqa: ARG002 - they follow from the mask
        past_key_values: HiveCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **options: Any,  # noqa: ARG002
    ) -> Any:
        """Computes tokens on the stages.

        Args:
            input_ids: Shape (batch, new tokens).
            attention_mask: Shape (batch, cached and new tokens); 0 for padding, on either side.
            position_ids: Ignored: a token's position is how many tokens of its row, padding aside, come before.
            past_key_values: What a call before gave.
            inputs_embeds: Not possible: the embedding is the first stage's.
            labels: Shape of input_ids; for the loss.
            use_cache: Whether to give a cache back.
            output_hidden_states: Whether to give hidden states. As with a model of the library's own, entry n of
                ``hidden_states`` is what is behind n layers, and the last one what is behind the final norm; entries
                inside of a stage are None.
            logits_to_keep: Of how many last tokens to give logits, 0 for all; or of which.
            return_dict: Whether to give an object and not a tuple.
            **options: Ignored.

        Returns:
            Logits of shape (batch, kept tokens, vocabulary), float32, zero at padding, with what else was asked for.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ConfigurationError("a model over the hive takes token ids: its embedding is on another peer")
        cache = past_key_values if past_key_values is not None else self.new_cache()
        if not isinstance(cache, HiveCache):
            raise ConfigurationError("the cache is of another kind", hint="Use what the model gave, or new_cache().")
        new = _columns(input_ids, attention_mask)
        cache.extend(new)
        kept = self._kept(logits_to_keep, input_ids.shape[1], labels)
        try:
            count = input_ids.shape[1] if output_hidden_states else kept
            found = cache.compute(pb.STATES if output_hidden_states else pb.LOGITS, count)
        except BaseException:
            cache.crop(-input_ids.shape[1])
            raise
        logits = _together(found, 0, new, count)[:, count - kept :].to(self.device)
        if isinstance(logits_to_keep, Tensor):
            logits = logits[:, logits_to_keep - (input_ids.shape[1] - kept)]
        if past_key_values is None and not use_cache:
            cache.close()
        result = CausalLMOutputWithPast(
            loss=None if labels is None else ForCausalLMLoss(logits, labels, logits.shape[-1]),
            logits=logits,
            past_key_values=cache if use_cache or past_key_values is not None else None,
            hidden_states=self._states(found, new, count) if output_hidden_states else None,
        )
        return result if return_dict is not False else result.to_tuple()

    def _kept(self, wanted: int | Tensor, count: int, labels: Tensor | None) -> int:
        """Of how many last columns rows are computed."""
        if labels is not None or (isinstance(wanted, int) and wanted <= 0):
            return count
        if isinstance(wanted, Tensor):
            return count - int(wanted.min())
        return min(wanted, count)

    def _states(self, found: list[Any], new: list[list[Column]], count: int) -> tuple[Tensor | None, ...]:
        known = set.intersection(*(set(rows) for rows in found if rows is not None))
        layers = range(self.config.num_hidden_layers + 1)
        made = [_together(found, layer, new, count) if layer and layer in known else None for layer in layers]
        return tuple(None if each is None else each.to(self.device) for each in made)


def _together(found: list[Any], layer: int, new: list[list[Column]], count: int) -> Tensor:
    """The rows of all texts' last `count` columns as one tensor; zero at padding."""
    width = next((rows[layer].shape[1] for rows in found if rows is not None), 1)
    made = torch.zeros((len(new), count, width))
    for row, (columns, rows) in enumerate(zip(new, found, strict=True)):
        if rows is not None:
            real = [column is not None for column in columns[len(columns) - count :]]
            made[row, torch.tensor(real)] = torch.from_numpy(rows[layer])
    return made


def _columns(input_ids: Tensor, mask: Tensor | None) -> list[list[Column]]:
    """The new columns of each row."""
    rows = input_ids.tolist()
    if mask is None:
        return [list(row) for row in rows]
    if mask.dim() != 2:
        raise ConfigurationError(f"an attention mask has the shape (batch, length), not {tuple(mask.shape)}")
    real = mask[:, mask.shape[1] - input_ids.shape[1] :].tolist()
    return [
        [token if sees else None for token, sees in zip(row, seen, strict=True)]
        for row, seen in zip(rows, real, strict=True)
    ]


def to_transformers(described: Description, bridge: Bridge) -> HiveForCausalLM:
    """The object for a model.

    Args:
        described: The model.
        bridge: Leads to the hive that it is spread over.

    Raises:
        ConfigurationError: The library cannot read the model's config.
    """
    folder = described.folder
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config = config.get_text_config(decoder=True)
    except Exception as error:
        # A config is a stranger's: whatever the library raises on it, it cannot be read.
        raise ConfigurationError(f"the transformers library cannot read {described.name}'s config: {error}") from error
    config._attn_implementation = "eager"
    model = HiveForCausalLM(config, bridge)
    if (folder / checkpoint.GENERATION_CONFIG).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = described.pad
    model.eval()
    return model


__all__ = ["Bridge", "HiveCache", "HiveForCausalLM", "to_transformers"]
