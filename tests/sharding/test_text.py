"""Pieces of text as tokens come: their sum is the decoded whole, and no half characters are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hivemind_p2p.errors import CheckpointError
from hivemind_p2p.sharding.text import REPLACEMENT, TextStream, load_tokenizer


def _bytes() -> Tokenizer:
    """One token a byte."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _words() -> Tokenizer:
    """Words with a mark before them, as sentencepiece writes: the space before the first word is dropped."""
    vocabulary = {"\u2581a": 0, "\u2581bc": 1, "d": 2, "\u2581": 3, "<unk>": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


BYTES, WORDS = _bytes(), _words()


@given(st.text(max_size=30), st.text(max_size=30))
def test_pieces_sum_up_to_the_text(prompt: str, new: str) -> None:
    before = BYTES.encode(prompt).ids
    stream = TextStream(BYTES, before)
    pieces = [stream.push(token) for token in BYTES.encode(new).ids]
    assert all(REPLACEMENT not in piece for piece in pieces) or REPLACEMENT in new
    assert "".join(pieces) + stream.finish() == new


@given(st.lists(st.integers(0, 3), min_size=1), st.lists(st.integers(0, 3)))
def test_spaces_between_words_are_kept(prompt: list[int], new: list[int]) -> None:
    stream = TextStream(WORDS, prompt)
    text = "".join(stream.push(token) for token in new) + stream.finish()
    assert WORDS.decode(prompt) + text == WORDS.decode(prompt + new)


def test_half_a_character_is_held_back_until_the_other_half_comes() -> None:
    stream = TextStream(BYTES, [])
    assert [stream.push(token) for token in BYTES.encode("a\U0001f41dz").ids] == ["a", "", "", "", "\U0001f41d", "z"]


def test_half_a_character_at_the_end_is_shown_as_what_it_is() -> None:
    stream = TextStream(BYTES, [])
    assert stream.push(BYTES.encode("\u00e9").ids[0]) == ""
    assert stream.finish() == REPLACEMENT


def test_bytes_that_are_no_character_do_not_hold_the_text_back_for_ever() -> None:
    stream = TextStream(BYTES, [])
    token = BYTES.encode("\u00e9").ids[1]
    assert any(stream.push(token) for _ in range(20))


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_texts(new: str, stops: list[str]) -> None:
    stream = TextStream(BYTES, [], stops)
    shown = ""
    for token in BYTES.encode(new).ids:
        shown += stream.push(token)
        if stream.stopped:
            break
    shown += stream.finish()
    places = [new.index(stop) for stop in stops if stop in new]
    assert stream.stopped == bool(places)
    # The text ends at the first stop text that is complete; one that began earlier may still have been open.
    assert new.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not places:
        assert shown == new
    else:
        assert len(shown) <= max(places)


def test_a_tokenizer_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")
