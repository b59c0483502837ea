"""A prompt, three peers, tokens; and a peer that is killed in the middle of a text."""

import warnings
from functools import cache

import psutil
import pytest

import hivemind_p2p as hm
from hivemind_p2p import errors
from tests.journeys.programs import DEADLINE, TINY_PYTHON, allocated, until
from tests.sharding import encoders, tiny

PROMPT = "def main("
NEW_TOKENS = 48


@cache
def _whole():
    """The tiny Python model in this process, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        return AutoModelForCausalLM.from_pretrained(TINY_PYTHON, dtype=torch.float32).eval()


def greedy(ids, new_tokens):
    """What the whole model writes in one process: rows of ids, the prompt included."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = torch.tensor(ids)
        written = _whole().generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=new_tokens, do_sample=False
        )
    return written.tolist()


@cache
def _tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TINY_PYTHON / "tokenizer.json"))


def encode(text):
    return list(_tokenizer().encode(text).ids)


@pytest.fixture(scope="module")
def hive():
    """Four peers of this module's own: the last tests kill them."""
    with hm.local_hive(peers=4) as hive:
        yield hive


@pytest.fixture(scope="module")
def link(hive):
    return hive.publish_model(TINY_PYTHON, stages=3)


@pytest.fixture(scope="module")
def model(hive, link):
    """The tiny Python model, once all four peers host some of its layers; some layers then have two hosts."""
    model = hive.load_model(link)
    until(lambda: len(set().union(*_hosts(hive, link).values())) == 4, "all peers host a span")
    return model


def _hosts(hive, link):
    """The peers that serve a model, by span."""
    hosts = {}
    for row in hive.peers():
        for stage in row.stages:
            if stage.link == link and stage.ready:
                hosts.setdefault(stage.span, set()).add(row.peer_id)
    return hosts


def test_ids_equal_those_of_the_whole_model(model):
    ids = encode(PROMPT)
    assert model.generate(ids, max_new_tokens=NEW_TOKENS) == greedy([ids], NEW_TOKENS)[0]


def test_text_in_text_out(model):
    (ids,) = greedy([encode(PROMPT)], NEW_TOKENS)
    expected = PROMPT + _tokenizer().decode(ids)[len(PROMPT) :]
    assert model.generate(PROMPT, max_new_tokens=NEW_TOKENS) == expected
    pieces = list(model.generate(PROMPT, max_new_tokens=NEW_TOKENS, stream=True))
    assert len(pieces) > NEW_TOKENS / 2
    assert PROMPT + "".join(pieces) == expected


def test_ids_one_by_one(model):
    ids = encode("import ")
    assert list(model.generate(ids, max_new_tokens=16, stream=True)) == greedy([ids], 16)[0][len(ids) :]


def test_a_tensor_of_shape_batch_length(model):
    import torch

    rows = [encode(PROMPT)[:4], encode("class Node(object):")[:4]]
    written = model.generate(torch.tensor(rows), max_new_tokens=12)
    assert written.dtype == torch.int64
    assert written.tolist() == greedy(rows, 12)


def test_the_same_seed_writes_the_same_text(model):
    options = {"max_new_tokens": 24, "temperature": 1.0, "top_k": 50}
    first = model.generate(PROMPT, seed=7, **options)
    assert model.generate(PROMPT, seed=7, **options) == first
    assert any(model.generate(PROMPT, seed=seed, **options) != first for seed in (8, 9, 10))


def test_leaving_a_stream_early_ends_the_generation(model):
    for number, _ in enumerate(model.generate(PROMPT, max_new_tokens=1000, stream=True)):
        if number == 5:
            break
    # The next one is not held up by what was left.
    assert model.generate(encode(PROMPT), max_new_tokens=4) == greedy([encode(PROMPT)], 4)[0]


def test_a_prompt_that_does_not_fit(model):
    with pytest.raises(errors.PromptTooLongError, match="1024"):
        model.generate(PROMPT, max_new_tokens=1024)


def test_each_peer_fetched_only_the_pieces_of_its_own_layers(hive, model):
    whole = (TINY_PYTHON / "model.safetensors").stat().st_size
    taken = [
        sum(path.stat().st_blocks * 512 for path in (hive.nodes.folder / name / "content").rglob("model.safetensors"))
        for name in ("peer-1", "peer-2", "peer-3", "peer-4")
    ]
    assert all(0.1 * whole < size < 0.65 * whole for size in taken), (taken, whole)
    # The caller has config and tokenizer, and of the weights nothing but the header.
    assert allocated(hive.nodes.folder / "you" / "content") < 0.2 * whole


def test_generations_are_paid(hive, model):
    before = hive.promised
    model.generate(PROMPT, max_new_tokens=8)
    assert hive.promised > before


def test_a_batch_of_different_lengths_is_paid_and_nothing_is_held_up(model):
    prompts = [PROMPT, "class Node:", "x", "import os, sys, re, json"]
    alone = [model.generate(prompt, max_new_tokens=12) for prompt in prompts]
    # Bills of many sizes: what a host still counts as open afterwards would make it refuse the next batch.
    for _ in range(3):
        assert model.generate(prompts, max_new_tokens=12) == alone


def test_log_probabilities_and_several_readers(model):
    scored = model.generate(PROMPT, max_new_tokens=8, log_probabilities=3)
    assert scored.text == model.generate(PROMPT, max_new_tokens=8)
    assert all(token.likeliest[0].id == token.id for token in scored.tokens), "greedy"
    stream = model.generate(PROMPT, max_new_tokens=8, stream=True)
    other = stream.reader()
    assert PROMPT + "".join(stream) == PROMPT + "".join(other) == scored.text


def test_the_transformers_library_writes_with_it(model):
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    given = tokenizer(PROMPT, return_tensors="pt")
    options = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False}
    over_the_hive = model.to_transformers()
    assert torch.equal(over_the_hive.generate(**given, **options), _whole().generate(**given, **options))
    states = over_the_hive(**given, output_hidden_states=True).hidden_states
    expected = _whole()(**given, output_hidden_states=True).hidden_states
    seen = [layers for layers, state in enumerate(states) if state is not None]
    assert seen[-1] == 6, "behind the last stage, and behind each other one wherever it ends"
    assert len(seen) > 1
    for layers in seen:
        torch.testing.assert_close(states[layers], expected[layers].detach(), atol=1e-3, rtol=1e-3)


def test_vectors_by_an_encoder_with_settings_of_its_own(hive, tmp_path_factory):
    folder = encoders.describe(encoders.save("minilm", tmp_path_factory.mktemp("encoder") / "minilm"))
    model = hive.load_model(hive.publish_model(folder, stages=2))
    found = model.embed(["some text", "x"])
    rows = encoders.hidden("minilm", model.encode("some text")).mean(dim=0).numpy()
    assert found[0] == pytest.approx(rows / (rows @ rows) ** 0.5, abs=1e-5)
    assert model.embed("x") == pytest.approx(found[1], abs=1e-6)
    with pytest.raises(errors.UnsupportedModelError, match="encoder"):
        model.generate("x")


@pytest.mark.parametrize("family", ["llama"])
def test_random_weights_made_here(hive, tmp_path_factory, family):
    folder = tiny.save(family, tmp_path_factory.mktemp("random") / family)
    model = hive.load_model(hive.publish_model(folder, stages=3))
    prompt = [5, 17, 60, 3]
    assert model.generate(prompt, max_new_tokens=40) == tiny.expected(family, prompt, 40)


def test_a_folder_that_is_no_checkpoint(hive, tmp_path):
    with pytest.raises(errors.CheckpointError):
        hive.publish_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(errors.CheckpointError):
        hive.publish_model(tmp_path)


def test_a_link_that_holds_no_checkpoint(hive, tmp_path):
    (tmp_path / "poem.txt").write_text("no weights here")
    with pytest.raises(errors.CheckpointError):
        hive.load_model(hive.share(tmp_path), timeout=DEADLINE)


# A peer that dies: from here on peers are missing.


def _computed(hive):
    """What each peer has computed so far, in seconds."""
    return {
        peer.ready["peer_id"]: sum(psutil.Process(peer.pid).cpu_times()[:2]) for peer in hive.nodes.peers if peer.alive
    }


def _busiest(hive, hosts, before):
    after = _computed(hive)
    peer_id = max(hosts & set(after), key=lambda peer: after[peer] - before[peer])
    return next(peer for peer in hive.nodes.peers if peer.ready["peer_id"] == peer_id)


@pytest.mark.parametrize("left", [3, 2])
def test_a_peer_killed_in_the_middle_of_a_text(hive, model, left):
    # Of what the second one held some layers have no other host by then: those who are left have to take them over.
    ids = encode(PROMPT)
    expected = greedy([ids], 200)[0]
    before, text = _computed(hive), list(ids)
    for token in model.generate(ids, max_new_tokens=len(expected) - len(ids), stream=True):
        text.append(token)
        if len(text) == len(ids) + 20:
            _busiest(hive, set(before), before).kill()
    assert text == expected
    assert sum(peer.alive for peer in hive.nodes.peers) == left
