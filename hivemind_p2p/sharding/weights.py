"""Makes a loaded stage fast, and proves that it still computes the same.

What is done is told by structure, not by family: layers of Llama's shape become `LeanLayer`; every other linear layer,
the head included, gets the fastest `Kernel` there is. Before, the stage runs once on random hidden states, and each
layer's arguments and output are kept. After, each changed layer is given the same arguments. A layer whose output
differs by more than its number format explains gets its weights back and runs as the library wrote it.

Memory stays bounded: a layer's own weights are let go as soon as their copy in the kernel's layout stands, so the most
there is at once is the stage and one matrix.

Importing this module loads torch and transformers: load it lazily.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hivemind_p2p.errors import UnsupportedModelError
from hivemind_p2p.sharding.kernels import Int8, Kind, fuse, is_linear, kernel_for, restore
from hivemind_p2p.sharding.lean_layer import LeanLayer, Rotation, fits

QUANTISED = (None, "int8")
"""What weights can be quantised to."""

CHECK_TOKENS = 5
"""Rows of the random input; enough for positions, masks and the window of tiny models to show."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.01}
"""The largest difference, as a part of the output's length (2-norm), that another order of summing explains."""

INT8_TOLERANCE = 0.1
"""The same for int8 weights, which lose about a hundredth; more means outliers that one scale a channel cannot hold."""

RECORDING = "hivemind_recording"
"""The name under which the library finds the attention function that notes what it is called with."""

DOES_NOT_RUN = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What a model raises that is called in a way that it does not know."""

PASSED = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Optimised:
    """What was done to a stage.

    Attributes:
        kernel: The kernel's name; ``fastest`` where it was chosen by trying.
        lean_layers: Layers that run in our own short form.
        layers: All layers.
        kept: Names of layers that run as the library wrote them, since the fast form differed.
        difference: Of the whole stage's output on random input, as a part of its length.
    """

    kernel: str
    lean_layers: int
    layers: int
    kept: tuple[str, ...]
    difference: float


@dataclass(slots=True)
class _Call:
    """One layer's turn in the run on random input."""

    positional: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    attention: dict[str, Any] = field(default_factory=dict)


def optimise(module: Any, *, dtype: str, quantise: str | None = None) -> Optimised:
    """Rewrites a loaded stage in place.

    Args:
        module: The library's model; base model or with a head.
        dtype: What it computes in.
        quantise: ``int8`` for weights of one byte.

    Raises:
        UnsupportedModelError: Its weights cannot be quantised without changing what it computes.
    """
    if quantise not in QUANTISED:
        raise UnsupportedModelError(f"weights can be quantised to int8, not to {quantise}")
    number = getattr(torch, dtype)
    kind = kernel_for(next(module.parameters()).device.type, quantise)
    limit = INT8_TOLERANCE if quantise else TOLERANCE[number]
    layers = _layers(module)
    with torch.no_grad(), _recording(module) as calls:
        try:
            before = _run(module, layers, calls)
        except DOES_NOT_RUN:
            if quantise:
                raise UnsupportedModelError(
                    "this model cannot be run on hidden states, so int8 is not checked"
                ) from None
            return Optimised("none", 0, len(layers), tuple(str(index) for index in range(len(layers))), 0.0)
        kept = _rewrite_layers(layers, kind, calls, limit)
        _rewrite_rest(module, layers, kind)
        after = _run(module, layers, {})
        difference = _difference(after, before)
        if difference > limit * max(1, len(layers)) ** 0.5:
            _refuse(quantise, "the stage", difference)
            _put_all_back(module)
            kept = tuple(str(index) for index in range(len(layers)))
    lean = sum(isinstance(layer, LeanLayer) for layer in layers)
    return Optimised(_name(kind), lean, len(layers), kept, difference)


def _rewrite_layers(layers: nn.ModuleList, kind: Kind, calls: dict[int, _Call], limit: float) -> tuple[str, ...]:
    """Each layer in turn: lean where it fits, else with fast linear parts, else as it was."""
    rotation, kept = Rotation(), []
    for index in range(len(layers)):
        call = calls.pop(index)
        if fits(layers[index]) and _try_lean(layers, index, kind, rotation, call, limit):
            continue
        _replace_linears(layers[index], kind)
        difference = _repeat(layers[index], call)
        if difference > limit:
            _refuse("int8" if kind is Int8 else None, f"layer {index}", difference)
            _put_all_back(layers[index])
            kept.append(str(index))
    return tuple(kept)


def _try_lean(layers: nn.ModuleList, index: int, kind: Kind, rotation: Rotation, call: _Call, limit: float) -> bool:
    own = {name: value for name, value in call.attention.items() if name not in call.named}
    try:
        lean = LeanLayer(layers[index], kind, rotation, own)
    except ValueError:
        return False
    difference = _repeat(lean, call)
    if difference <= limit:
        layers[index] = lean
        return True
    _refuse("int8" if kind is Int8 else None, f"layer {index}", difference)
    lean.put_back()
    return False


def _repeat(layer: nn.Module, call: _Call) -> float:
    """How far the layer's output is from what it was; infinite where it does not run at all."""
    try:
        return _difference(_first(layer(*call.positional, **call.named)), call.output)
    except DOES_NOT_RUN:
        return float("inf")


def _rewrite_rest(module: nn.Module, layers: nn.ModuleList, kind: Kind) -> None:
    """The head, and whatever else is linear outside the layers."""
    inside = {id(part) for part in layers.modules()}
    for parent in [part for part in module.modules() if id(part) not in inside]:
        for name, child in list(parent.named_children()):
            if is_linear(child):
                setattr(parent, name, _Standing(child, kind))


def _replace_linears(module: nn.Module, kind: Kind) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if is_linear(child):
                setattr(parent, name, _Standing(child, kind))


class _Standing(nn.Module):
    """A kernel in the place of one linear layer, which it can put back."""

    def __init__(self, linear: nn.Module, kind: Kind) -> None:
        super().__init__()
        self.linear = (linear,)
        self.kernel = fuse([linear], kind)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.kernel(x)
        return result


def _put_all_back(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _Standing):
                restore(child.kernel, [child.linear[0]])
                setattr(parent, name, child.linear[0])
            elif isinstance(child, LeanLayer):
                setattr(parent, name, child.put_back())


def _refuse(quantise: str | None, what: str, difference: float) -> None:
    """Quantised weights cannot be put back: the stage has to be loaded anew."""
    if quantise:
        raise UnsupportedModelError(
            f"int8 weights change the output of {what} by {min(difference, 9.99):.0%}: load this model without quantise"
        )


def _layers(module: Any) -> nn.ModuleList:
    """The list of layers: the longest list of modules that the base model has."""
    base = module.base_model
    lists = [part for part in base.modules() if isinstance(part, nn.ModuleList) and len(part)]
    depth = int(base.config.num_hidden_layers)
    found = [part for part in lists if len(part) == depth]
    if not found:
        return nn.ModuleList()
    return found[0]


def _run(module: Any, layers: nn.ModuleList, calls: dict[int, _Call]) -> Tensor:
    """The output on random hidden states, the same each time; fills in how each of the wanted layers was called."""
    generator = torch.Generator().manual_seed(0)
    parameter = next(module.base_model.parameters())
    hidden = torch.randn((1, CHECK_TOKENS, module.config.hidden_size), generator=generator)
    hooks = [
        layers[index].register_forward_hook(_noting(call), with_kwargs=True) for index, call in list(calls.items())
    ]
    try:
        result = module(inputs_embeds=hidden.to(parameter), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return result.logits if hasattr(result, "logits") else result.last_hidden_state  # type: ignore[no-any-return]


def _noting(call: _Call) -> Any:
    def note(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        call.positional, call.named, call.output = positional, named, _first(output)

    return note


@contextlib.contextmanager
def _recording(module: Any) -> Iterator[dict[int, _Call]]:
    """Calls to fill in, one a layer, while the library's layers use an attention function that notes its arguments."""
    layers = _layers(module)
    calls = {index: _Call() for index in range(len(layers))}

    def attend(part: Any, *tensors: Any, **named: Any) -> Any:
        call = calls.get(getattr(part, "layer_idx", -1))
        if call is not None and not call.attention:
            call.attention = {name: value for name, value in named.items() if isinstance(value, PASSED)}
        # A soft cap is left out, before and after alike: it is the attention function's, which is not changed here.
        return sdpa_attention_forward(part, *tensors, **{**named, "softcap": None})

    AttentionInterface.register(RECORDING, attend)
    AttentionMaskInterface.register(RECORDING, sdpa_mask)
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    names = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = RECORDING
    try:
        yield calls
    finally:
        for key, config in configs.items():
            config._attn_implementation = names[key]


def _name(kind: Kind) -> str:
    name: str = getattr(kind, "__name__", "")
    return name


def _difference(found: Tensor, wanted: Tensor) -> float:
    length = float(torch.linalg.vector_norm(wanted.float()))
    return float(torch.linalg.vector_norm((found - wanted).float())) / max(length, 1e-30)


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


__all__ = ["QUANTISED", "Optimised", "optimise"]
