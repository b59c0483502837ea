"""Activations in fewer bytes are off by no more than is said."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_p2p.errors import ProtocolError
from hivemind_p2p.sharding.quantise import (
    BFLOAT16_ERROR,
    BLOCK,
    ENCODINGS,
    INT8_ERROR,
    decode,
    encode,
    encoded_bytes,
)


@st.composite
def activations(draw: st.DrawFn) -> Any:
    """Rows of very different sizes, with outlier channels and zeros, as models have them."""
    import torch

    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden = torch.randn((rows, width), generator=generator) * 10.0 ** draw(st.integers(-6, 6))
    hidden[:, draw(st.integers(0, width - 1))] *= draw(st.sampled_from([0.0, 1.0, 1e4]))
    return hidden


@given(activations())
def test_every_encoding_keeps_its_bound(hidden: Any) -> None:
    import torch

    rows, width = hidden.shape
    back = {name: decode(encode(hidden, name), rows, width, name, "float32") for name in ENCODINGS}
    assert torch.equal(back["float32"], hidden)
    assert bool(((back["bfloat16"] - hidden).abs() <= hidden.abs() * BFLOAT16_ERROR).all())
    for start in range(0, width, BLOCK):
        block = hidden[:, start : start + BLOCK]
        off = (back["int8"][:, start : start + BLOCK] - block).abs().amax(dim=1)
        assert bool((off <= block.abs().amax(dim=1) * INT8_ERROR).all())


@given(st.integers(0, 5), st.integers(1, 300), st.sampled_from(ENCODINGS))
def test_the_length_is_known_before(rows: int, width: int, encoding: str) -> None:
    import torch

    payload = encode(torch.ones(rows, width), encoding) if rows else b""
    assert len(payload) == encoded_bytes(rows, width, encoding)


def test_int8_is_a_quarter_of_float32() -> None:
    assert encoded_bytes(1, 768, "int8") / encoded_bytes(1, 768, "float32") < 0.27


@given(st.binary(max_size=400), st.integers(0, 3), st.integers(1, 100), st.sampled_from((*ENCODINGS, "int3")))
def test_any_bytes_are_decoded_or_refused(payload: bytes, rows: int, width: int, encoding: str) -> None:
    try:
        back = decode(memoryview(payload), rows, width, encoding, "float32")
    except ProtocolError:
        return
    assert back.shape == (rows, width)


@given(st.binary(min_size=72, max_size=72))
def test_any_bytes_of_the_right_length(payload: bytes) -> None:
    """One row of 68 values with two scales would be 76; 64 with one is 68; 68 bytes of it are used here."""
    scale = struct.unpack_from("<f", payload, 64)[0]
    if scale >= 0 and scale < float("inf"):
        assert decode(memoryview(payload)[:68], 1, 64, "int8", "float32").shape == (1, 64)
        return
    with pytest.raises(ProtocolError, match="scale"):
        decode(memoryview(payload)[:68], 1, 64, "int8", "float32")


def test_bfloat16_stages_get_bfloat16() -> None:
    import torch

    hidden = torch.linspace(-2, 2, 130).view(2, 65).to(torch.bfloat16)
    for encoding in ENCODINGS:
        assert decode(encode(hidden, encoding), 2, 65, encoding, "bfloat16").dtype == torch.bfloat16
    assert torch.equal(decode(encode(hidden, "bfloat16"), 2, 65, "bfloat16", "bfloat16"), hidden)
