"""A decoder layer in as few steps as it takes, for the shape that most families share.

The shape is Llama's: RMS norm, q, k and v projections, optional norms of each head's q and k, rotary positions,
attention, output projection, RMS norm, gated feed-forward. Llama, Qwen 2 and 3, Mistral and others have it. Whether a
layer has it is told by the names of its parts, and proven by its output: see `weights.optimise`.

The library's layer makes some 40 calls into torch for a token; this one about half. It keeps the library's signature
and calls the attention function that the config names, so that masks, caches and packed attention stay as they are.

Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hivemind_p2p.sharding.kernels import Kind, fuse, restore

LAYER_PARTS = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
ATTENTION_PARTS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})
MLP_PARTS = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})


class Rotation:
    """Rotary positions as two products instead of six; prepared once a step for all layers.

    Rotating by halves is ``x * cos + (-x2, x1) * sin``. With the sign moved into the sine, the
    swap of halves becomes a roll.
    """

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._cos = self._sin = torch.empty(0)

    def prepare(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of shape (batch, tokens, 1, width)."""
        if self._of is not sin:
            half = sin.shape[-1] // 2
            self._of, self._cos = sin, cos.unsqueeze(2)
            self._sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1).unsqueeze(2)
        return self._cos, self._sin


class LeanLayer(nn.Module):
    """Stands for one of the library's layers."""

    def __init__(self, layer: Any, kind: Kind, rotation: Rotation, attention_arguments: dict[str, Any]) -> None:
        """Takes the layer's weights over.

        Raises:
            ValueError: It is not of this shape.
        """
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._layer = (layer,)  # in a tuple: not a part, so that its emptied parts are not walked over
        self._rotation, self._arguments = rotation, attention_arguments
        self._width = int(attention.head_dim)
        self._first_norm, self._first_epsilon = _norm(layer.input_layernorm)
        self._second_norm, self._second_epsilon = _norm(layer.post_attention_layernorm)
        self._head_norms = [
            _norm(getattr(attention, name)) for name in ("q_norm", "k_norm") if hasattr(attention, name)
        ]
        self._activation = mlp.act_fn
        self.qkv = fuse([attention.q_proj, attention.k_proj, attention.v_proj], kind)
        self.output = fuse([attention.o_proj], kind)
        self.gate_up = fuse([mlp.gate_proj, mlp.up_proj], kind)
        self.down = fuse([mlp.down_proj], kind)
        self._heads = [outputs // self._width for outputs in self.qkv.outputs]
        self._attention, self._config = (attention,), attention.config
        if hasattr(layer, "attention_type"):
            self.attention_type = layer.attention_type

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """The layer's output, for the arguments that the library's model gives its layers."""
        if position_embeddings is None:
            raise ValueError("a layer needs the rotary positions")
        size = hidden_states.shape[-1:]
        normed = rms_norm(hidden_states, size, self._first_norm, self._first_epsilon)
        query, key, value = self._projected(normed, position_embeddings)
        attention = self._attention[0]
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, attention.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS[self._config._attn_implementation]
        mixed, _ = attend(attention, query, key, value, attention_mask, **self._arguments, **kwargs)
        hidden = self.output.add(mixed.reshape(*hidden_states.shape[:-1], -1), hidden_states)
        normed = rms_norm(hidden, size, self._second_norm, self._second_epsilon)
        gate, up = self.gate_up(normed).chunk(2, dim=-1)
        return self.down.add(self._activation(gate) * up, hidden)

    def put_back(self) -> Any:
        """The library's layer with its weights again."""
        layer = self._layer[0]
        attention, mlp = layer.self_attn, layer.mlp
        restore(self.qkv, [attention.q_proj, attention.k_proj, attention.v_proj])
        restore(self.output, [attention.o_proj])
        restore(self.gate_up, [mlp.gate_proj, mlp.up_proj])
        restore(self.down, [mlp.down_proj])
        return layer

    def _projected(self, normed: Tensor, positions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of shape (batch, heads, tokens, width)."""
        queries, keys, _ = self._heads
        batch, tokens, _ = normed.shape
        heads = self.qkv(normed).view(batch, tokens, -1, self._width)
        turned = heads[:, :, : queries + keys]
        if self._head_norms:
            of_query, of_key = self._head_norms
            turned = torch.cat(
                (
                    rms_norm(turned[:, :, :queries], (self._width,), *of_query),
                    rms_norm(turned[:, :, queries:], (self._width,), *of_key),
                ),
                dim=2,
            )
        cos, sin = self._rotation.prepare(*positions)
        turned = torch.addcmul(turned * cos, turned.roll(self._width // 2, -1), sin)
        turned, value = turned.transpose(1, 2), heads[:, :, queries + keys :].transpose(1, 2)
        return turned[:, :queries], turned[:, queries:], value


def fits(layer: nn.Module) -> bool:
    """Whether the layer's parts have the names of this shape; its output is still to be compared."""
    parts = dict(layer.named_children())
    if set(parts) != LAYER_PARTS:
        return False
    attention = {name for name, _ in parts["self_attn"].named_children()}
    mlp = {name for name, _ in parts["mlp"].named_children()}
    norms = (parts["input_layernorm"], parts["post_attention_layernorm"])
    return (
        attention in (ATTENTION_PARTS, ATTENTION_PARTS | HEAD_NORMS)
        and mlp == MLP_PARTS
        and hasattr(parts["self_attn"], "head_dim")
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
    )


def _norm(module: Any) -> tuple[Tensor, float]:
    if not hasattr(module, "variance_epsilon"):
        raise ValueError(f"{type(module).__name__} is not the usual RMS norm")
    return module.weight.detach(), float(module.variance_epsilon)
