"""Linear layers that read their weights as fast as the memory gives them.

Decoding one token multiplies every matrix with one vector: each weight is read once, so a step cannot be faster than
the memory. `torch.nn.functional.linear` reaches half of that on common CPUs. Here are the ways that come nearer:

- `Packed`: oneDNN's blocked layout, for float32 and bfloat16 on CPUs. With AVX-512 twice as fast for one row, 2.5 times
  for eight, and for prompts too (see benchmarks/README.md).
- `Transposed`: float32 weights stored transposed; without AVX-512 the fastest for one row and wide outputs.
- `Plain`: weights as they are.
- `Int8`: one signed byte a weight and one scale an output channel; a quarter of float32's memory.

Each can give its weights back: what turns out not to fit is put back as it was.

Which of the first three is the fastest depends on the processor and on the shape: `kernel_choice.py` tries them out.

Importing this module loads torch: load it lazily.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hivemind_p2p.sharding.huge_pages import in_huge_pages

PACK_ROWS_HINT = 16
"""Rows that oneDNN is told to expect. Its layouts for 8 rows and more serve every number of rows best, one included;
the layout for one row is slower even there."""

INT8_ROWS = 8
"""Up to so many rows the int8 kernel is the fastest; beyond them the weights are widened for the one product."""


class Kernel(nn.Module):
    """What stands for one linear layer, or for several that take the same input.

    Attributes:
        outputs: How wide each of the layers is, in their order.
    """

    outputs: tuple[int, ...]
    bias: Tensor | None

    def weights(self) -> Tensor:
        """The matrix of shape (all outputs, inputs); for int8 nearly the one that was given."""
        raise NotImplementedError

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output plus what is added to it next."""
        result: Tensor = self(x) + residual
        return result


Kind: TypeAlias = Callable[[Tensor, Tensor | None, tuple[int, ...]], Kernel]
"""Makes a kernel from a matrix, a bias, and how wide each layer is."""


class Packed(Kernel):
    """Weights in the layout that oneDNN's kernels read."""

    def __init__(self, weight: Tensor, bias: Tensor | None, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs, self.bias = outputs, bias
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS_HINT)
        self._multiply: Any = torch.ops.mkldnn._linear_pointwise.default
        self._multiply_and_add: Any = torch.ops.mkldnn._linear_pointwise.binary

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        result: Tensor = self._multiply(x, self._packed, self.bias, "none", [], "")
        return result

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The product and the sum in one pass."""
        result: Tensor = self._multiply_and_add(x, residual, self._packed, self.bias, "add")
        return result

    def weights(self) -> Tensor:
        """The matrix, bit by bit the one that was given."""
        return self._packed.to_dense()


class Transposed(Kernel):
    """Float32 weights stored transposed: each product is a sum of rows that lie one after another."""

    def __init__(self, weight: Tensor, bias: Tensor | None, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs, self.bias = outputs, bias
        self._transposed = in_huge_pages(weight.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        result = x @ self._transposed
        return result if self.bias is None else result + self.bias

    def weights(self) -> Tensor:
        """The matrix that was given."""
        return self._transposed.t().contiguous()


SOME_ROWS = range(3, 9)
"""Rows for which weights times inputs is faster than inputs times weights."""


class Plain(Kernel):
    """Weights as they are; still one product where there were several."""

    def __init__(self, weight: Tensor, bias: Tensor | None, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs, self.bias = outputs, bias
        self._weight = in_huge_pages(weight)

    def forward(self, x: Tensor) -> Tensor:
        """The product. For some rows, the other way round is up to twice as fast."""
        if x.is_cpu and x.numel() // x.shape[-1] in SOME_ROWS:
            product = (self._weight @ x.reshape(-1, x.shape[-1]).t()).t().contiguous().view(*x.shape[:-1], -1)
            return product if self.bias is None else product + self.bias
        return nn.functional.linear(x, self._weight, self.bias)

    def weights(self) -> Tensor:
        """The matrix that was given."""
        return self._weight


class Int8(Kernel):
    """One signed byte a weight, symmetric around zero, one scale for each output."""

    def __init__(self, weight: Tensor, bias: Tensor | None, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs, self.bias = outputs, bias
        self._dtype = weight.dtype
        wide = weight.float()
        scales = (wide.abs().amax(dim=1) / 127).clamp_min(1e-12).to(torch.bfloat16)
        self._scales = scales
        self._bytes = (wide / scales.float().unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8)
        self._native = hasattr(torch, "_weight_int8pack_mm") and weight.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        """The product, in bfloat16 inside."""
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if self._native and rows.shape[0] <= INT8_ROWS:
            product = torch._weight_int8pack_mm(rows, self._bytes, self._scales)
        else:
            product = nn.functional.linear(rows, self._bytes.to(torch.bfloat16)) * self._scales
        result = product.to(x.dtype).view(*x.shape[:-1], product.shape[-1])
        return result if self.bias is None else result + self.bias

    def weights(self) -> Tensor:
        """The matrix as it is computed with."""
        return (self._bytes.float() * self._scales.float().unsqueeze(1)).to(self._dtype)


@cache
def has_packed(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch can multiply packed weights of this type on this processor.

    It is tried out: what oneDNN does for bfloat16 depends on the processor's instructions, and only the call says so.
    """
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not torch._C._has_mkldnn or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    try:
        Packed(torch.zeros(16, 16, dtype=dtype), None, (16,))(torch.zeros(1, 16, dtype=dtype))
    except RuntimeError:
        return False
    return True


def kernel_for(device: str, quantise: str | None) -> Kind:
    """The fastest kernel that there is.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        quantise: ``int8`` or None.
    """
    if quantise == "int8":
        return Int8
    if device != "cpu":
        return Plain
    from hivemind_p2p.sharding.kernel_choice import fastest

    return fastest


def fuse(linears: Sequence[nn.Module], kind: Kind) -> Kernel:
    """One kernel for layers that take the same input. Their own weights are let go.

    Raises:
        ValueError: Some have a bias and some have none, or one is no linear layer.
    """
    weights = [_matrix(linear) for linear in linears]
    biases: list[Tensor | None] = [getattr(linear, "bias", None) for linear in linears]
    if any(bias is None for bias in biases) != all(bias is None for bias in biases):
        raise ValueError("some of the layers have a bias and some have none")
    outputs = tuple(int(weight.shape[0]) for weight in weights)
    bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases if bias is not None])
    joined = weights[0] if len(weights) == 1 else torch.cat(weights)
    for linear in linears:
        linear._parameters["weight"] = None
    weights.clear()
    return kind(joined, bias, outputs)


def restore(kernel: Kernel, linears: Sequence[nn.Module]) -> None:
    """Gives layers that were fused their weights back."""
    for linear, weight in zip(linears, torch.split(kernel.weights(), list(kernel.outputs)), strict=True):
        given = weight.t() if _stored_transposed(linear) else weight
        linear.weight = nn.Parameter(given.contiguous(), requires_grad=False)


def is_linear(module: nn.Module) -> bool:
    """Whether a kernel can stand for it; subclasses may do something else besides."""
    return type(module) is nn.Linear or _stored_transposed(module)


def _matrix(linear: nn.Module) -> Tensor:
    if not is_linear(linear):
        raise ValueError(f"{type(linear).__name__} is no linear layer")
    weight: Any = linear.weight
    detached: Tensor = weight.detach()
    return detached.t().contiguous() if _stored_transposed(linear) else detached


def _stored_transposed(module: nn.Module) -> bool:
    """GPT-2's linear layers keep (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")
