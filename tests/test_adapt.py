"""``nmg new-lm`` and ``nmg adapt``: models from nothing, further pre-trained with any masking."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from agents.adversarial import AdversarialMasking, AdversarySettings
from agents.strategies import make_strategy
from envs.further_pretraining import PretrainingSettings, further_pretrain
from envs.models import prepare
from envs.models.flat import descend
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model, load_seq2seq
from envs.models.new_model import ModelSize, new_model
from envs.models.prepare import PreparationSettings, held_out_split, train_masked_lm
from envs.models.states import TokenStates
from envs.spaces import pad_contexts
from envs.text.corpus import build_corpus
from nmg import probe
from nmg.cli import main
from nmg.maskings import VocabularyError, controls, load_policy
from tests.conftest import SENTENCES

SETTINGS = PretrainingSettings(epochs=2, batch=3, lr=1e-3, budget=0.3)


@pytest.fixture
def lm(tiny_masked_lm, tiny_tokenizer) -> LanguageModel:
    return LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)


@pytest.fixture
def corpus(tiny_tokenizer):
    return build_corpus(SENTENCES, tiny_tokenizer, 40)


def test_the_same_seed_gives_the_same_model(lm, corpus):
    weights, prints = lm.snapshot(), []
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        lm.restore(weights)
        settings = PretrainingSettings(epochs=1, batch=3, lr=1e-3, seed=seed)
        losses = further_pretrain(lm, corpus, make_strategy("random"), settings)
        prints.append((lm.fingerprint, tuple(losses)))
    assert prints[0] == prints[1] != prints[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_it_learns(lm, corpus):
    settings = PretrainingSettings(epochs=25, batch=7, lr=1e-2, budget=0.3)
    losses = further_pretrain(lm, corpus, make_strategy("random"), settings)
    assert losses[-1] < losses[0] - 0.8


def test_feedback_is_the_loss_at_what_was_masked(lm, corpus):
    """The policy hears of the tokens it masked, within the budget, and of no others."""

    class Listening:
        def __init__(self):
            self.heard = []

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.ones(observation["input_ids"].shape, np.int8), state

        def feedback(self, observation, mask, token_losses):
            self.heard.append((observation, mask, token_losses))

    policy, watched, steps = Listening(), [], []
    losses = further_pretrain(
        lm,
        corpus,
        policy,
        SETTINGS,
        progress=lambda phase, step, total: steps.append((step, total)),
        watch=lambda *seen: watched.append(seen),
    )
    assert len(policy.heard) == len(watched) == len(steps) == 2 * 3
    assert steps[-1] == (6, 6)
    for observation, mask, token_losses in policy.heard:
        assert (mask.sum(1) == observation["budget"][:, 0]).all()
        assert (mask <= observation["maskable"]).all()
        assert ((token_losses > 0) == (mask > 0)).all()
    means = [float(heard[2][heard[1] > 0].mean()) for heard in policy.heard]
    assert losses == pytest.approx([np.mean(means[:3]), np.mean(means[3:])], rel=1e-5)


def test_an_adversary_learns_on_the_way(lm, corpus, tiny_tokenizer):
    adversary = AdversarialMasking(len(tiny_tokenizer), AdversarySettings(16, 1, 2))
    before = {name: value.clone() for name, value in adversary.module.state_dict().items()}
    further_pretrain(lm, corpus, adversary, SETTINGS)
    after = adversary.module.state_dict()
    assert any((after[name] != before[name]).any() for name in before)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("budget", 0.0), ("batch", 0)])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        PretrainingSettings(**{name: value})


@pytest.fixture
def folder(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES * 3))
    small = ["--width", "16", "--layers", "1", "--heads", "2", "--length", "48"]

    def new(architecture, *more):
        out = tmp_path / architecture
        arguments = ["--corpus", str(tmp_path / "corpus.txt"), "--output", str(out), *small]
        code = main(["new-lm", "--architecture", architecture, "--vocab-size", "330", *arguments])
        assert code == 0, capsys.readouterr().err
        return out

    new.corpus = tmp_path / "corpus.txt"
    return new


def test_new_models_load(folder):
    assert load_language_model(str(folder("roberta"))).max_length == 48
    assert load_seq2seq(str(folder("t5"))).max_length == 48


@pytest.mark.parametrize("strategy", ["idf", "entropy", "adversarial"])
def test_adapt_saves_a_model_that_goes_on(folder, tmp_path, capsys, strategy):
    model, out = folder("bert"), tmp_path / "adapted"
    common = ["--corpus", str(folder.corpus), "--epochs", "2", "--batch", "4", "--window", "40"]
    code = main(
        ["adapt", "--model", str(model), "--strategy", strategy, "--output", str(out), *common]
    )
    assert code == 0, capsys.readouterr().err
    assert "nats" in capsys.readouterr().out
    record = json.loads((out / "adapt.json").read_text())
    assert record["masking"] == strategy
    assert len(record["losses"]) == 2
    assert set(record["preferences"][0]) == {"step", "rarity", "difficulty", "frequent", "tokens"}
    first, adapted = load_language_model(str(model)), load_language_model(str(out))
    assert first.fingerprint != adapted.fingerprint
    if strategy == "adversarial":
        again = tmp_path / "again"
        arguments = ["adapt", "--model", str(out), "--policy", str(out), "--output", str(again)]
        assert main(arguments + common) == 0, capsys.readouterr().err
        known = TokenStates(adapted).vocabulary
        for saved in (out, again):
            about = json.loads((saved / "masking" / "adversary.json").read_text())
            assert about["vocabulary"] == known
        assert (
            main(["mask", "--model", str(out), "--policy", str(out), "--text", SENTENCES[0]]) == 0
        )
        assert "[" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["random", "adversarial"])
def test_the_forecast_of_an_adaptation_leaves_no_trace(
    folder, tmp_path, capsys, monkeypatch, strategy
):
    model, prints = folder("bert"), []
    common = ["--corpus", str(folder.corpus), "--epochs", "3", "--batch", "4", "--window", "40"]
    for out in (tmp_path / "tried", tmp_path / "untried"):
        arguments = ["--model", str(model), "--strategy", strategy, "--output", str(out)]
        assert main(["adapt", *arguments, *common]) == 0, capsys.readouterr().err
        prints.append(load_language_model(str(out)).fingerprint)
        told = capsys.readouterr().out
        contexts = int(told.split(" contexts to train on")[0].split()[-1])
        assert f"Forecast: {3 * -(-contexts // 4)} steps" in told
        assert "Took" in told
        monkeypatch.setattr(probe, "seconds_a_step", lambda trial, most: 1.0)
    assert prints[0] == prints[1]


def test_a_head_is_prepared_and_found_again_whatever_the_forecast_tried(
    folder, tmp_path, capsys, monkeypatch
):
    model, prints = folder("bert"), []
    common = ["--corpus", str(folder.corpus), "--batch", "4", "--window", "40"]
    steps = ["--head-steps", "3", "--steps", "30"]
    for out in (tmp_path / "tried", tmp_path / "untried"):
        arguments = ["prepare-lm", "--model", str(model), "--output", str(out), *common, *steps]
        assert main(arguments) == 0, capsys.readouterr().err
        told = capsys.readouterr().out
        assert "Forecast: 33 steps" in told
        assert "Took" in told
        quality = json.loads((out / "quality.json").read_text())
        assert f"after:  {quality['loss']:.2f} nats, {quality['accuracy']:.1f}% right" in told
        prints.append(load_language_model(str(out)).fingerprint)
        monkeypatch.setattr(probe, "seconds_a_step", lambda trial, most: 1.0)
    assert prints[0] == prints[1]


def test_the_loss_is_measured_on_texts_that_are_not_trained_on(tiny_tokenizer):
    corpus = build_corpus(SENTENCES * 6, tiny_tokenizer, 40)
    training, held_out = held_out_split(corpus, seed=1)
    parts = [{id(context) for context in part} for part in (training, held_out)]
    assert parts[0].isdisjoint(parts[1])
    assert parts[0] | parts[1] == {id(context) for context in corpus}
    assert len(held_out) == len(corpus) // 20


def test_the_rate_rises_and_falls_to_zero(lm, corpus, monkeypatch):
    rates = []

    def watched(flat, optimizer, loss, clip):
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(prepare, "descend", watched)
    settings = PreparationSettings(steps=50, head_steps=0, batch=1, window=40, lr=1.0)
    train_masked_lm(lm, corpus, settings, lambda *given: None)
    assert rates[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    falling = 0.5 * (1 + np.cos(np.pi * np.arange(47) / 47))
    assert rates[3:] == pytest.approx(falling.tolist())


def test_a_head_without_weights_of_its_own_has_no_steps_of_its_own(bpe_tokenizer, monkeypatch):
    """BART's is its token embedding, and a bias that is not trained."""
    model = new_model("bart", "seq2seq", bpe_tokenizer, ModelSize(16, 1, 2, 64))
    lm, rates, losses = LanguageModel("bart", model, bpe_tokenizer), [], []

    def watched(flat, optimizer, loss, clip):
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(float(loss.detach()))
        descend(flat, optimizer, loss, clip)

    monkeypatch.setattr(prepare, "descend", watched)
    settings = PreparationSettings(steps=20, head_steps=30, batch=7, window=40, lr=1e-2)
    corpus, told = build_corpus(SENTENCES, bpe_tokenizer, 40), []
    train_masked_lm(lm, corpus, settings, lambda *given: told.append(given[1:]))
    assert min(rates) >= 0
    assert told[-1] == (20, 20)
    assert np.mean(losses[-5:]) < losses[0]


def test_steps_that_a_head_has_not_are_not_forecast(folder, tmp_path, capsys):
    arguments = ["--model", str(folder("bart")), "--output", str(tmp_path / "out")]
    arguments += ["--corpus", str(folder.corpus), "--steps", "2", "--head-steps", "5"]
    assert main(["prepare-lm", *arguments, "--batch", "4", "--window", "40"]) == 0
    assert "Forecast: 2 steps" in capsys.readouterr().out


def test_preparing_leaves_what_is_frozen_as_it_is(corpus, tiny_masked_lm, tiny_tokenizer):
    frozen = tiny_masked_lm.bert.embeddings.position_embeddings.weight.requires_grad_(False)
    lm, before = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer), frozen.clone()
    weights, settings = lm.snapshot(), PreparationSettings(steps=3, head_steps=1, batch=4, lr=1e-2)
    train_masked_lm(lm, corpus, settings, lambda *given: None)
    assert torch.equal(frozen, before)
    assert not torch.equal(lm.snapshot(), weights)


def test_a_step_is_timed_on_trials_that_are_long_enough(monkeypatch):
    """Steps of half a second after a first of ten."""
    clock, tried = [0.0], []
    monkeypatch.setattr(probe.time, "perf_counter", lambda: clock[0])

    def trial(steps, progress):
        tried.append(steps)
        for step in range(steps):
            clock[0] += 10.0 if step == 0 and len(tried) == 1 else 0.5
            progress("", step + 1, steps)

    assert probe.seconds_a_step(trial, 100, seconds=60.0) == 0.5
    assert tried == [2, 4, 8, 16, 32, 64]
    assert probe.seconds_a_step(trial, 5, seconds=60.0) == 0.5
    assert tried[6:] == [2, 4, 5]
    assert probe.seconds_a_step(trial, 1) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "none"], "Nothing can be learned"),
        (["--strategy", "idff"], "did you mean 'idf'"),
        (["--policy", "nowhere"], "nowhere"),
        (["--budget", "2"], "budget is 2"),
        (["--strategy", "difference"], "give a file of that by --reference"),
        (["--reference", "general.txt"], "only the strategy difference reads it"),
    ],
)
def test_errors_are_one_sentence(folder, tmp_path, capsys, arguments, message):
    model = folder("bert")
    where = ["--corpus", str(folder.corpus), "--output", str(tmp_path / "out")]
    code = main(["adapt", "--model", str(model), *where, *arguments])
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_training_that_diverged_is_not_saved(folder, tmp_path, capsys):
    output = tmp_path / "out"
    where = ["--corpus", str(folder.corpus), "--output", str(output)]
    options = ["--lr", "1e30", "--epochs", "3"]
    assert main(["adapt", "--model", str(folder("bert")), *where, *options]) == 2
    assert "The training diverged" in capsys.readouterr().err
    assert not output.exists()


def test_a_table_is_no_plain_text(folder, tmp_path, capsys):
    table = tmp_path / "rows.csv"
    table.write_text("words,label\n" + "".join(f"the river number {n},a\n" for n in range(40)))
    where = ["--output", str(tmp_path / "out"), "--epochs", "1"]
    model = str(folder("bert"))
    begin = ["adapt", "--model", model, *where]
    assert main([*begin, "--corpus", str(table)]) == 2
    assert f"--dataset {table}" in capsys.readouterr().err
    columns = ["--task", "classification", "--columns", "words", "label"]
    assert main([*begin, "--dataset", str(table), *columns]) == 0
    prepared = ["--output", str(tmp_path / "prepared"), "--head-steps", "1", "--steps", "1"]
    prepare = ["prepare-lm", "--model", model, *prepared]
    assert main([*prepare, "--corpus", str(table)]) == 2
    assert f"nmg corpus --output FILE.txt --file {table}" in capsys.readouterr().err


def test_an_adversary_has_an_untrained_control(folder, tmp_path):
    lm = load_language_model(str(folder("bert")))
    adversary = AdversarialMasking(len(lm.tokenizer))
    adversary.save(tmp_path / "policy")
    states = TokenStates(lm)
    loaded = load_policy(tmp_path / "policy", states, len(lm.tokenizer))
    assert isinstance(loaded, AdversarialMasking)
    observation = pad_contexts(
        build_corpus(SENTENCES, lm.tokenizer, 40).contexts,
        np.arange(len(SENTENCES)),
        lm.tokenizer,
        budget=0.2,
    )
    found = controls("x", tmp_path / "policy", loaded, states, len(lm.tokenizer), observation)
    assert set(found) == {"x: untrained", "x: shuffled"}
    with pytest.raises(VocabularyError, match="vocabulary of"):
        load_policy(tmp_path / "policy", states, 7)


def test_an_adversary_of_another_tokenizer_is_refused(folder, tmp_path, capsys):
    """Of the same size: the ids would be other words, silently."""
    model, policy = folder("bert"), tmp_path / "policy"
    lm = load_language_model(str(model))
    AdversarialMasking(len(lm.tokenizer), vocabulary="another").save(policy)
    assert main(["mask", "--model", str(model), "--policy", str(policy), "--text", "a"]) == 2
    error = capsys.readouterr().err
    assert "another tokenizer" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("lacking", ["settings", "vocab_size"])
def test_a_damaged_adversary_is_one_sentence(folder, tmp_path, capsys, lacking):
    model, policy = folder("bert"), tmp_path / "policy"
    lm = load_language_model(str(model))
    AdversarialMasking(len(lm.tokenizer)).save(policy)
    about = json.loads((policy / "adversary.json").read_text())
    del about[lacking]
    (policy / "adversary.json").write_text(json.dumps(about))
    assert main(["mask", "--model", str(model), "--policy", str(policy), "--text", "a"]) == 2
    error = capsys.readouterr().err
    assert f"{policy / 'adversary.json'} is damaged" in error
    assert lacking in error
    assert error.count("\n") == 1
