"""A folder's own settings make one vector of a text's rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hivemind_p2p.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from hivemind_p2p.sharding.pooling import read_recipe
from tests.sharding import encoders

ROWS = np.array([[1, 2], [5, -4], [3, 8]], np.float32)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True}, [1, 2]),
        ({"pooling_mode_mean_tokens": True}, [3, 2]),
        ({"pooling_mode_max_tokens": True}, [5, 8]),
        ({"pooling_mode_lasttoken": True}, [3, 8]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, [9 / 3**0.5, 6 / 3**0.5]),
        ({"pooling_mode_weightedmean_tokens": True}, [(1 + 10 + 9) / 6, (2 - 8 + 24) / 6]),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, [1, 2, 3, 2]),
        ({"pooling_mode": "max"}, [5, 8]),
        ({"pooling_mode": ["lasttoken", "cls"]}, [3, 8, 1, 2]),
    ],
)
def test_poolings(pooling: dict[str, object], expected: list[float], tmp_path: Path) -> None:
    encoders.describe(tmp_path, modules=("Transformer", "Pooling"), **pooling)
    recipe = read_recipe(tmp_path)
    np.testing.assert_allclose(recipe.pool(ROWS), expected, rtol=1e-6)
    assert recipe.last_only == (pooling == {"pooling_mode_lasttoken": True})


def test_without_settings_it_is_the_mean(tmp_path: Path) -> None:
    recipe = read_recipe(tmp_path)
    assert recipe.pool(ROWS).tolist() == [3, 2]
    assert recipe.prompt(None) == ""
    assert recipe.longest is None


def test_normalising_is_the_folders_or_as_one_likes(tmp_path: Path) -> None:
    recipe = read_recipe(encoders.describe(tmp_path))
    np.testing.assert_allclose(recipe.pool(ROWS), np.array([3, 2]) / 13**0.5, rtol=1e-6)
    assert recipe.pool(ROWS, normalise=False).tolist() == [3, 2]
    assert recipe.pool(np.zeros((2, 2), np.float32)).tolist() == [0, 0]
    plain = read_recipe(encoders.describe(tmp_path, modules=("Transformer", "Pooling")))
    np.testing.assert_allclose(plain.pool(ROWS, normalise=True), np.array([3, 2]) / 13**0.5, rtol=1e-6)


def test_a_dense_layer(tmp_path: Path) -> None:
    encoders.describe(tmp_path, modules=("Transformer", "Pooling", "Dense", "Normalize"))
    place = tmp_path / "2_Dense"
    place.mkdir()
    (place / "config.json").write_text('{"activation_function": "torch.nn.modules.activation.Tanh"}')
    weight, bias = np.array([[0.1, 0.2], [-0.3, 0.4], [0, 1]], np.float32), np.array([0.5, 0, -1], np.float32)
    save_file({"linear.weight": weight, "linear.bias": bias}, place / "model.safetensors")
    made = np.tanh(weight @ np.array([3, 2]) + bias)
    np.testing.assert_allclose(read_recipe(tmp_path).pool(ROWS), made / np.linalg.norm(made), rtol=1e-6)
    save_file({"linear.weight": weight}, place / "model.safetensors")
    made = np.tanh(weight @ np.array([3, 2]))
    np.testing.assert_allclose(read_recipe(tmp_path).pool(ROWS, normalise=False), made, rtol=1e-6)
    for wrong in ({"other": weight}, {"linear.weight": bias}, {"linear.weight": weight, "linear.bias": bias[:1]}):
        save_file(wrong, place / "model.safetensors")
        with pytest.raises(CheckpointError, match="no linear layer"):
            read_recipe(tmp_path)
    (place / "model.safetensors").write_bytes(b"x" * 9)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_recipe(tmp_path)
    (place / "config.json").write_text('{"activation_function": "my.own.Swish"}')
    with pytest.raises(UnsupportedModelError, match="Swish"):
        read_recipe(tmp_path)


def test_prompts_and_lengths(tmp_path: Path) -> None:
    encoders.describe(tmp_path, pooling_mode_mean_tokens=True, include_prompt=False)
    prompts = {"prompts": {"query": "query: ", "text": ""}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    recipe = read_recipe(tmp_path)
    assert (recipe.prompt(None), recipe.prompt("text"), recipe.longest) == ("query: ", "", 512)
    assert recipe.pool(ROWS, skip=1, normalise=False).tolist() == [4, 2]
    assert recipe.pool(ROWS, skip=3, normalise=False).tolist() == [3, 2], "a text that is all prompt"
    with pytest.raises(ConfigurationError, match="query, text"):
        recipe.prompt("code")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": true}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    recipe = read_recipe(tmp_path)
    assert recipe.longest == 128
    assert recipe.lower_case


@pytest.mark.parametrize(
    ("modules", "error"),
    [
        ('[{"path": "../elsewhere", "type": "a.Pooling"}]', CheckpointError),
        ('[{"path": "/etc", "type": "a.Pooling"}]', CheckpointError),
        ('[{"path": 3, "type": "a.Pooling"}]', CheckpointError),
        ('["x"]', CheckpointError),
        ("{}", CheckpointError),
        ("nonsense", CheckpointError),
        ('[{"path": "1_Pooling", "type": "a.Pooling"}]', CheckpointError),
        ('[{"path": "", "type": "a.Transformer"}, {"path": "1_CNN", "type": "a.CNN"}]', UnsupportedModelError),
    ],
)
def test_what_a_folder_cannot_ask_for(modules: str, error: type[Exception], tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(error):
        read_recipe(tmp_path)


def test_an_unknown_pooling(tmp_path: Path) -> None:
    encoders.describe(tmp_path, pooling_mode="vote")
    with pytest.raises(UnsupportedModelError, match="vote"):
        read_recipe(tmp_path)
