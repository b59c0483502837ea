"""A stage that was made fast writes what it wrote before."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from hivemind_p2p.errors import UnsupportedModelError

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LEAN = ("LlamaConfig", "Qwen2Config", "Qwen3Config", "MistralConfig")
OTHERS = ("Gemma2Config", "Gemma3TextConfig", "Phi3Config", "MixtralConfig", "GPT2Config")
PROMPT = [5, 40, 17, 60, 3, 9, 33, 61, 7, 22]


def build(family: str, dtype: str = "float32") -> Any:
    import torch
    import transformers

    sizes = dict(SIZES)
    if family == "GPT2Config":
        sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
        sizes |= {"bos_token_id": None, "eos_token_id": None}
    if family in ("Gemma2Config", "Gemma3TextConfig", "Qwen3Config"):
        sizes["head_dim"] = 8
    if family in ("Gemma2Config", "Gemma3TextConfig", "MistralConfig"):
        sizes["sliding_window"] = 4  # shorter than the prompt
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, family)(**sizes)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6)  # untrained models repeat one token
        else:
            parameter.data.add_(torch.randn(parameter.shape) * 0.2)  # norms and biases that do something
    return model.to(getattr(torch, dtype))


def logits(model: Any, steps: int = 4) -> Any:
    """Of the prompt and of steps that use a cache."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        found = [model(torch.tensor([PROMPT]), past_key_values=cache, use_cache=True).logits[0]]
        found += [model(torch.tensor([[3 + n]]), past_key_values=cache, use_cache=True).logits[0] for n in range(steps)]
    return torch.cat(found)


@pytest.mark.parametrize("family", LEAN + OTHERS)
def test_the_fast_model_gives_the_logits_of_the_library(family: str) -> None:
    import torch

    from hivemind_p2p.sharding.weights import optimise

    model = build(family)
    before = logits(model)
    done = optimise(model, dtype="float32")
    assert done.kept == ()
    assert done.lean_layers == (3 if family in LEAN else 0)
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_within_its_rounding() -> None:
    from hivemind_p2p.sharding.weights import optimise

    model = build("LlamaConfig", "bfloat16")
    before = logits(model)
    optimise(model, dtype="bfloat16")
    assert distance(logits(model), before) < 0.05


@pytest.mark.parametrize("kernel", ["Transposed", "Plain"])
def test_without_onednn(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from hivemind_p2p.sharding import kernels, weights

    monkeypatch.setattr(weights, "kernel_for", lambda *_: getattr(kernels, kernel))
    model = build("Qwen3Config")
    before = logits(model)
    assert weights.optimise(model, dtype="float32").kernel == kernel
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


def test_a_layer_that_only_looks_like_the_shape_stays_the_librarys() -> None:
    """Its norm has the usual name and does something else: the comparison at load finds out, the weights come back."""
    import torch

    from hivemind_p2p.sharding.weights import optimise

    model = build("LlamaConfig")
    layer = model.model.layers[1]
    kind = type(layer.input_layernorm)
    other = type("OtherNorm", (kind,), {"forward": lambda self, x: 1.5 * kind.forward(self, x)})
    layer.input_layernorm.__class__ = other
    before = logits(model)
    done = optimise(model, dtype="float32")
    assert done.lean_layers == 2
    assert model.model.layers[1] is layer
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


def test_the_attention_that_was_chosen_is_chosen_afterwards() -> None:
    from hivemind_p2p.sharding.weights import optimise

    model = build("LlamaConfig")
    model.config._attn_implementation = "eager"
    optimise(model, dtype="float32")
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["LlamaConfig", "Gemma2Config", "GPT2Config"])
def test_int8_weights_change_little(family: str) -> None:
    from hivemind_p2p.sharding.weights import optimise

    model = build(family)
    before = logits(model)
    done = optimise(model, dtype="float32", quantise="int8")
    assert done.kernel == "Int8"
    assert 0 < distance(logits(model), before) < 0.1


def test_weights_that_one_byte_cannot_hold() -> None:
    from hivemind_p2p.sharding.weights import optimise

    model = build("LlamaConfig")
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data[:, 0] = 1e5  # one outlier in each output channel takes all the range
        layer.mlp.down_proj.weight.data[:, 0] = 1e5
        layer.input_layernorm.weight.data.mul_(1)
        layer.self_attn.v_proj.weight.data[:8].zero_()
        layer.mlp.gate_proj.weight.data[0].zero_()
    with pytest.raises(UnsupportedModelError, match="int8 weights change the output"):
        optimise(model, dtype="float32", quantise="int8")


def test_an_unknown_way_to_quantise() -> None:
    from hivemind_p2p.sharding.weights import optimise

    with pytest.raises(UnsupportedModelError, match="int3"):
        optimise(build("LlamaConfig"), dtype="float32", quantise="int3")


@pytest.mark.parametrize("kernel", ["Packed", "Transposed", "Plain"])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_kernels_multiply_and_give_their_weights_back(kernel: str, rows: int) -> None:
    import torch

    from hivemind_p2p.sharding import kernels

    if kernel == "Packed" and not kernels.has_packed():
        pytest.skip("this torch was built without oneDNN")
    torch.manual_seed(rows)
    linears = [torch.nn.Linear(24, width) for width in (16, 8)]
    wanted = [linear.weight.detach().clone() for linear in linears]
    x, residual = torch.randn(2, rows, 24), torch.randn(2, rows, 24)
    with torch.no_grad():
        expected = torch.cat([linear(x) for linear in linears], dim=-1)
        fused = kernels.fuse(linears, getattr(kernels, kernel))
        torch.testing.assert_close(fused(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fused.add(x, residual), expected + residual, atol=1e-5, rtol=1e-5)
        kernels.restore(fused, linears)
    assert all(torch.equal(linear.weight, weight) for linear, weight in zip(linears, wanted, strict=True))


def distance(found: Any, wanted: Any) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_large_matrix_gets_the_kernel_that_was_the_fastest(dtype: str) -> None:
    import torch

    from hivemind_p2p.sharding import kernel_choice

    weight = torch.randn(1024, 768).to(getattr(torch, dtype))
    x = torch.randn(4, 768).to(weight.dtype)
    with torch.inference_mode():
        kernel = kernel_choice.fastest(weight.repeat(2, 1), None, (1024, 1024))
        wanted = torch.nn.functional.linear(x.float(), weight.float()).repeat(1, 2)
        assert distance(kernel(x), wanted) < 0.02
        assert torch.equal(kernel.weights(), weight.repeat(2, 1))
        again = kernel_choice.fastest(weight.repeat(2, 1), None, (1024, 1024))
    assert type(again) is type(kernel), "it is tried once for each shape"


def test_huge_pages_hold_the_same_numbers() -> None:
    import torch

    from hivemind_p2p.sharding.huge_pages import PAGE_BYTES, in_huge_pages

    large, small = torch.randn(1025, 768), torch.randn(3, 3)
    moved = in_huge_pages(large)
    assert torch.equal(moved, large)
    assert moved.data_ptr() % PAGE_BYTES == 0 or moved is large
    assert in_huge_pages(small) is small
