"""A loaded span as something that can be run on a pack of rows: the library's model, or some of its layers.

A body is the library's own model object with its lists shortened, never a loop of ours: what a family does around its
layers (rotary positions, several kinds of layers, norms) stays as it is.

Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from hivemind_p2p.errors import MissingLayersError
from hivemind_p2p.sharding.building import Built, drop_beginning, drop_norm, find_layers, narrow_config
from hivemind_p2p.sharding.packed import Pack, packed
from hivemind_p2p.types import LayerSpan


class Body:
    """Some layers, with the embedding and the head if these belong to them.

    Args:
        base: The library's base model, of these layers.
        head: The library's causal language model, whose base model is not used; None where there is no head.
        span: The layers.
        first: Whether it begins with the embedding.
        encoder: Whether its rows see both ways.
        offset: The number of the first layer, as the layers count themselves.
    """

    def __init__(
        self, base: Any, head: Any, span: LayerSpan, *, first: bool, last: bool, encoder: bool, offset: int = 0
    ) -> None:
        self.span, self.first, self.last, self.encoder = span, first, last, encoder
        self._base = base
        self._offset = offset
        self._whole = head
        self._head = None if head is None else _head_alone(head)

    @classmethod
    def of(cls, built: Built) -> Body:
        """All layers that were built."""
        head = built.module if built.module is not built.base else None
        return cls(built.base, head, built.span, first=built.first, last=built.last, encoder=built.encoder)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        found: torch.device = next(self._base.parameters()).device
        return found

    def hidden(self, pack: Pack, inputs: Tensor, positions: Tensor) -> Tensor:
        """The rows behind the last layer; behind the final norm, if this is the last stage.

        Args:
            pack: Whose rows they are.
            inputs: Token ids of shape (rows,) if it begins with the embedding, else shape (rows, width).
            positions: Of each row.
        """
        pack.offset = self._offset
        with packed(pack):
            if self.encoder:
                return self._encoded(pack.segments, inputs)
            given = {"input_ids" if self.first else "inputs_embeds": inputs.unsqueeze(0)}
            result = self._base(**given, position_ids=positions.unsqueeze(0), use_cache=False)
        rows: Tensor = result.last_hidden_state[0]
        return rows

    def _encoded(self, segments: Sequence[Any], inputs: Tensor) -> Tensor:
        """The embedding is computed text by text: how positions are counted there is the family's own."""
        if self.first:
            texts = [inputs[segment.start : segment.stop].unsqueeze(0) for segment in segments]
            hidden = torch.cat([self._base.embeddings(input_ids=text) for text in texts], dim=1)
        else:
            hidden = inputs.unsqueeze(0)
        holder, _ = find_layers(self._base, len(self.span))
        result = holder(hidden, attention_mask=None)
        rows: Tensor = result.last_hidden_state[0] if hasattr(result, "last_hidden_state") else result[0][0]
        return rows

    def logits(self, rows: Tensor) -> Tensor:
        """Of rows behind the final norm: shape (rows, vocabulary), float32."""
        assert self._head is not None, "only the last stage of a decoder has a head"
        head, given = self._head
        given.rows = rows.unsqueeze(0)
        try:
            result: Tensor = head(inputs_embeds=given.rows, use_cache=False).logits[0]
        finally:
            given.rows = None
        return result.float()

    def part(self, span: LayerSpan) -> Body:
        """Some of these layers, on the same weights.

        Raises:
            MissingLayersError: They are not among these.
        """
        if not self.span.start <= span.start < span.stop <= self.span.stop:
            raise MissingLayersError(f"layers {span} are not among the hosted layers {self.span}")
        first, last = self.first and span.start == self.span.start, self.last and span.stop == self.span.stop
        base = self._shortened(span, first=first, last=last)
        return Body(
            base,
            self._whole if last else None,
            span,
            first=first,
            last=last,
            encoder=self.encoder,
            offset=self._offset + span.start - self.span.start,
        )

    def _shortened(self, span: LayerSpan, *, first: bool, last: bool) -> Any:
        count = len(self.span)
        base = _shallow(self._base)
        holder, name = find_layers(base, count)
        if holder is not base:
            path = next(path for path, module in base.named_modules() if module is holder)
            holder = _shallow(holder)
            if "." in path:
                raise MissingLayersError(f"layers {self.span} are hosted as a whole, not {span} alone")
            setattr(base, path, holder)
        start = span.start - self.span.start
        setattr(holder, name, getattr(holder, name)[start : start + len(span)])
        for each in {id(part): part for part in (base, holder)}.values():
            each.config = copy.deepcopy(each.config)
            narrow_config(each.config, LayerSpan(start, start + len(span)), count)
        if not last:
            drop_norm(holder)
        if not first and not self.encoder:
            drop_beginning(holder)
        return base


class _Rows(BaseModelOutputWithPast):  # type: ignore[misc]
    """What a base model gives, whatever else the family's own head wants to pass on: there is none of that."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _Given(nn.Module):
    """Stands for the base model below a head: gives the rows that were computed already."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.rows: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> _Rows:
        """The rows."""
        return _Rows(last_hidden_state=self.rows)


def _head_alone(model: Any) -> tuple[Any, _Given]:
    """The library's causal language model on hidden states that are given."""
    head = _shallow(model)
    given = _Given(model.config)
    setattr(head, model.base_model_prefix, given)
    return head, given


def _shallow(module: Any) -> Any:
    """The same parts in a module of its own."""
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made


__all__ = ["Body"]
