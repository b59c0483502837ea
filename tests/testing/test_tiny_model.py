"""The training of the tiny model, on a text that fits in a test, and the model that is committed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hivemind_p2p.testing import tiny_checkpoint, tiny_corpus, tiny_model
from hivemind_p2p.testing.tiny_recipe import QUICK, Recipe

COMMITTED = Path(__file__).parents[2] / "notebooks" / "models" / "tiny-python"

SMALL = Recipe(
    vocabulary_size=300,
    hidden_size=32,
    intermediate_size=64,
    layers=6,
    attention_heads=2,
    key_value_heads=1,
    window_tokens=32,
    batch_windows=4,
    most_steps=12,
)

SOURCE = '''\
class Counter:
    """Counts things, é and 蜂 among them."""

    def __init__(self, start=0):
        self.value = start

    def add(self, amount):
        self.value = self.value + amount
        return self.value
'''


@pytest.fixture(autouse=True)
def _same_threads_after():
    """The training sets torch's thread count for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus():
    return tiny_corpus.Corpus(training=(SOURCE,) * 20, held_out=(SOURCE,) * 2)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    lines = []
    training = tiny_model.Training(SMALL, corpus, folder, lines.append)
    training.report_interval = 0.0
    figures = training.run()
    return training, figures, folder, lines


def python_files(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


# --- the text ---


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("argparse.py", True),
        ("asyncio/tasks.py", True),
        ("test/test_os.py", False),
        ("unittest/test/support.py", False),
        ("site-packages/numpy/core.py", False),
        ("idlelib/run.py", False),
        ("encodings/cp037.py", False),
        ("_sysconfigdata__linux_x86_64-linux-gnu.py", False),
        ("this.py", False),
    ],
)
def test_generated_and_test_files_are_left_out(name, wanted):
    assert tiny_corpus.is_wanted(Path(name)) is wanted


def test_corpus_holds_every_wanted_file_once(tmp_path):
    names = [f"package/module{number}.py" for number in range(200)]
    python_files(tmp_path, [*names, "test/test_x.py"])
    corpus = tiny_corpus.read_corpus(tmp_path)
    assert sorted(corpus.training + corpus.held_out) == sorted(f"# {name}\n" for name in names)
    assert 0 < len(corpus.held_out) < 20
    assert corpus == tiny_corpus.read_corpus(tmp_path)


def test_a_folder_without_python_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="too few Python files"):
        tiny_corpus.read_corpus(tmp_path)


def test_standard_library_is_found():
    assert (tiny_corpus.standard_library_folder() / "argparse.py").is_file()


def test_tokenizer_reads_back_what_it_wrote(corpus):
    tokenizer = tiny_corpus.train_tokenizer(corpus.training, 300)
    text = "def f(ä):\n\treturn  '蜂'\x00 # \U0001f41d\n\n"
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = tiny_corpus.encode_texts(tokenizer, ["a", "b"])
    assert ids == [*tokenizer.encode("a").ids, 0, *tokenizer.encode("b").ids, 0]
    assert tokenizer.id_to_token(0) == tiny_corpus.END_OF_TEXT


# --- the training ---


def test_learning_rate_warms_up_then_falls_to_zero():
    factors = [tiny_model.learning_rate_factor(step / 1000) for step in range(1001)]
    peak = factors.index(max(factors))
    assert peak == round(1000 * tiny_model.WARM_UP_SHARE)
    assert max(factors) == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(0)
    assert tiny_model.learning_rate_factor(1.5) == pytest.approx(0)


def test_progress_follows_the_clock_or_the_steps():
    assert Recipe(minutes=2).progress(step=7, elapsed=30) == 0.25
    assert Recipe(minutes=2, most_steps=10).progress(step=5, elapsed=0) == 0.5


def test_an_epoch_shows_every_window_once():
    ids = torch.arange(1000)
    recipe = replace(SMALL, window_tokens=10, batch_windows=7)
    batches = tiny_model.training_batches(ids, recipe)
    starts = torch.cat([next(batches) for _ in range(14)])[:, 0]
    assert len(set(starts.tolist())) == len(starts) >= 98
    assert len(set((starts % 10).tolist())) == 1
    repeated = tiny_model.training_batches(ids, recipe)
    assert torch.equal(next(repeated), next(tiny_model.training_batches(ids, recipe)))


def test_windows_hold_targets_one_further_on(corpus):
    batch = next(tiny_model.training_batches(torch.arange(500), SMALL))
    assert batch.shape == (SMALL.batch_windows, SMALL.window_tokens + 1)
    assert torch.equal(batch[:, 1:], batch[:, :-1] + 1)


def test_every_parameter_has_one_optimizer():
    model = tiny_model.build_model(SMALL)
    muon, adam = tiny_model.build_optimizers(model, SMALL)
    given = [id(p) for o in (muon, adam) for group in o.param_groups for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters())
    assert model.get_input_embeddings().weight is adam.param_groups[0]["params"][0]


def test_loss_falls(run):
    training, figures, _, lines = run
    assert training.steps == figures.steps == SMALL.most_steps
    assert figures.tokens_seen == 12 * 4 * 32
    assert training.losses[0] == pytest.approx(math.log(300), rel=0.05)
    assert figures.training_loss == pytest.approx(figures.held_out_loss, abs=0.1)
    assert figures.held_out_loss < training.losses[0] - 0.5
    assert any("held-out" in line for line in lines)


def test_same_seed_gives_the_same_losses(run, corpus, tmp_path):
    first, *_ = run
    second = tiny_model.Training(SMALL, corpus, tmp_path, lambda line: None)
    batches = tiny_model.training_batches(second.training_ids, SMALL)
    for step in range(3):
        second.take_step(next(batches), tiny_model.learning_rate_factor(step / 12))
    assert second.losses == first.losses[:3]


def test_saved_folder_loads_and_says_what_was_trained(run):
    training, _, folder, _ = run
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    trained = training.model.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained[name].to(torch.bfloat16)), name
    text = "    def f(self):  # é\n"
    assert tokenizer(text).input_ids == training.tokenizer.encode(text).ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert training.model.dtype == torch.float32


def test_card_tells_figures_and_limits(run):
    _, figures, folder, _ = run
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert f"{figures.held_out_loss:.3f} nats" in card
    assert f"{figures.tokens_seen:,} tokens in all" in card
    assert "What it can't do" in card
    assert "PSF License" in card
    for prompt in tiny_model.SAMPLE_PROMPTS:
        assert f"```python\n{prompt}" in card


def test_a_folder_too_large_is_refused(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(tiny_checkpoint.MAXIMUM_FOLDER_BYTES)
    assert tiny_checkpoint.check_folder_size(tmp_path) == tiny_checkpoint.MAXIMUM_FOLDER_BYTES
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="choose a smaller hidden_size"):
        tiny_checkpoint.check_folder_size(tmp_path)


def test_command_line_reaches_the_training(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(tiny_corpus, "read_corpus", lambda folder: folder)
    monkeypatch.setattr(tiny_model, "train", lambda *arguments: calls.append(arguments))
    tiny_model.main(["--out", str(tmp_path), "--quick", "--minutes", "2"])
    tiny_model.main(["--out", str(tmp_path)])
    library = tiny_corpus.standard_library_folder()
    assert [call[:3] for call in calls] == [
        (tmp_path, library, replace(QUICK, minutes=2.0)),
        (tmp_path, library, Recipe()),
    ]


# --- the model that is committed ---


def test_committed_folder_is_small_and_complete():
    names = {path.name for path in COMMITTED.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert tiny_checkpoint.check_folder_size(COMMITTED) <= 8_000_000
    config = json.loads((COMMITTED / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] >= 6
    assert config["max_position_embeddings"] >= 1024


@pytest.fixture(scope="module")
def committed():
    model = AutoModelForCausalLM.from_pretrained(COMMITTED, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(COMMITTED)


def test_committed_model_writes_python(committed):
    text = tiny_checkpoint.continue_text(committed[0], committed[1].backend_tokenizer, "def main(", 60)
    assert text.startswith("def main(")
    written = text.removeprefix("def main(")
    assert "\n    " in written
    words = [word for word in ("self", "def ", "return", "import ", "if ", "raise", "for ") if word in written]
    assert len(words) >= 2, written


def test_committed_model_knows_python_from_noise(committed):
    model, tokenizer = committed
    line = "    def __init__(self, name):\n        self.name = name\n        return None\n"

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            return float(tiny_model.window_loss(model, ids))

    assert loss(line) < 3
    assert loss(line[::-1]) > loss(line) + 2
