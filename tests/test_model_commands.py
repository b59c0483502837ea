"""The commands about models, over a stand-in for the hive: what they ask for, and what they print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hivemind_p2p import model_commands
from hivemind_p2p.cli import app
from hivemind_p2p.sharding.results import Likely, ScoredToken, scored_text

LINK = "magnet:?xt=urn:btmh:1220"


class Model:
    """Goes on with an exclamation mark, and makes vectors of lengths."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def generate(self, prompt: Any, **options: Any) -> Any:
        self.asked = options
        if options.get("stream"):
            return iter(["!", "?"])
        if options["log_probabilities"]:
            token = ScoredToken(7, "!", -0.25, (Likely(7, "!", -0.25),))
            return [scored_text(each, [1], [token]) for each in prompt]
        return [each + "!" for each in prompt]

    def embed(self, texts: list[str], **options: Any) -> Any:
        self.asked = options
        return np.array([[len(text), 0.5] for text in texts], np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """What the commands find in the hive."""
    found = Model()

    class Hive:
        def load_model(self, link: str, **_: Any) -> Model:
            assert link == LINK
            return found

    @contextmanager
    def connected(*_: Any, **__: Any) -> Iterator[Hive]:
        yield Hive()

    monkeypatch.setattr(model_commands, "connected", connected)
    return found


def run(*arguments: str, lines: str = "") -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, arguments, input=lines)
    assert result.exit_code == 0, result.output
    return result.output


def test_text_comes_as_it_is_made(model: Model) -> None:
    assert run("generate", LINK, "hello") == "hello!?\n"
    assert model.asked["max_new_tokens"] == 50


def test_every_option_reaches_the_model(model: Model) -> None:
    given = (
        "--max-new-tokens 3 --temperature 0.5 --top-k 4 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.2 --seed 5 "
        "--stop a --stop b --speculate --draft-model small --activations int8 --wait-for-hosts 2"
    )
    run("generate", LINK, "hello", *given.split())
    assert model.asked == {
        "stream": True,
        "max_new_tokens": 3,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "seed": 5,
        "stop": ["a", "b"],
        "log_probabilities": 0,
        "speculate": True,
        "draft_model": "small",
        "activations": "int8",
        "wait_for_hosts": 2.0,
    }


def test_several_prompts(model: Model) -> None:
    assert run("generate", LINK, "one", "two") == "one!\n\ntwo!\n\n"
    lines = run("generate", LINK, "one", "two", "--json").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "one!"}, {"text": "two!"}]


def test_log_probabilities(model: Model) -> None:
    assert run("generate", LINK, "one", "--log-probabilities", "2") == (
        "one!\n\n  -0.250  '!'  of '!' -0.250\n  -0.250  in all\n\n"
    )
    found = json.loads(run("generate", LINK, "one", "--log-probabilities", "2", "--json"))
    assert found["text"] == "one!"
    (token,) = found["tokens"]
    assert token["likeliest"] == [{"id": 7, "text": "!", "log_probability": -0.25}]


def test_vectors(model: Model, tmp_path: Path) -> None:
    assert run("embed", LINK, "abc", "d") == "[3.0, 0.5]\n[1.0, 0.5]\n"
    assert json.loads(run("embed", LINK, "abc", "--json")) == {"text": "abc", "vector": [3.0, 0.5]}
    assert (
        run("embed", LINK, "--prompt", "query", "--activations", "int8", lines="ab\n\n") == "[2.0, 0.5]\n[0.0, 0.5]\n"
    )
    assert model.asked == {"prompt": "query", "activations": "int8", "wait_for_hosts": None}
    out = tmp_path / "vectors.npy"
    assert "2 vectors of 2 numbers" in run("embed", LINK, "abc", "d", "--out", str(out))
    assert np.load(out).tolist() == [[3.0, 0.5], [1.0, 0.5]]
    assert json.loads(run("embed", LINK, "abc", "--out", str(out), "--json"))["shape"] == [1, 2]
