"""The adversary learns to mask what is hard to predict, and keeps its choice open."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from agents.adversarial import ABOUT, AdversarialMasking, AdversarySettings
from agents.mask_statistics import MaskStatistics, rank_correlation

VOCAB, LENGTH = 40, 16
FAST = AdversarySettings(width=16, layers=1, heads=2, learning_rate=1e-2)


def observe(rng, contexts=16):
    """Contexts of tokens 5..39 between two special ones, a quarter to be masked."""
    ids = rng.integers(5, VOCAB, size=(contexts, LENGTH)).astype(np.int32)
    ids[:, 0], ids[:, -1] = 2, 3
    maskable = (ids >= 5).astype(np.int8)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(maskable),
        "word_ids": np.where(maskable, np.arange(LENGTH), -1).astype(np.int32),
        "maskable": maskable,
        "context_id": np.arange(contexts, dtype=np.int32)[:, None],
        "budget": np.full((contexts, 1), 4, np.int32),
    }


def hard(ids):
    """A language model that finds even tokens harder, with noise of twice the difference."""
    return (ids % 2 == 0).astype(float)


def learn(adversary, steps, rng, losses=hard, noise=2.0):
    for _ in range(steps):
        seen = observe(rng)
        mask, _ = adversary.predict(seen)
        drawn = losses(seen["input_ids"]) + 3 + noise * rng.standard_normal(mask.shape)
        report = adversary.feedback(seen, mask, np.where(mask, drawn, 1e9))
    return report


def hard_share(adversary, deterministic, seed=9):
    seen = observe(np.random.default_rng(seed), 64)
    mask, _ = adversary.predict(seen, deterministic=deterministic)
    return float((seen["input_ids"][mask > 0] % 2 == 0).mean())


def test_masks_keep_to_the_budget_and_the_maskable_tokens():
    adversary = AdversarialMasking(VOCAB, FAST)
    seen = observe(np.random.default_rng(0))
    seen["budget"][0] = 99
    seen["maskable"][1] = 0
    for deterministic in (False, True):
        mask, state = adversary.predict(seen, "state", deterministic=deterministic)
        assert state == "state"
        assert mask.dtype == np.int8
        assert not mask[seen["maskable"] == 0].any()
        assert mask.sum(1).tolist() == [LENGTH - 2, 0, *[4] * 14]
    one = {name: values[2] for name, values in seen.items()}
    assert adversary.predict(one, deterministic=True)[0].tolist() == mask[2].tolist()


def test_it_learns_to_mask_what_is_hard():
    adversary = AdversarialMasking(VOCAB, FAST)
    assert hard_share(adversary, False) == pytest.approx(0.5, abs=0.1)
    learn(adversary, 250, np.random.default_rng(1))
    assert hard_share(adversary, True) > 0.95
    assert hard_share(adversary, False) > 0.65


def test_it_follows_the_language_model():
    """What was hard becomes easy: the module turns round."""
    adversary, rng = AdversarialMasking(VOCAB, FAST), np.random.default_rng(1)
    learn(adversary, 150, rng, noise=0.5)
    learn(adversary, 300, rng, lambda ids: -hard(ids), noise=0.5)
    assert hard_share(adversary, True) < 0.05


def test_its_gradient_is_scaled_down_to_the_norm():
    norms = []
    for most in (1e9, 1e-3):
        adversary = AdversarialMasking(VOCAB, replace(FAST, max_grad_norm=most))
        learn(adversary, 1, np.random.default_rng(0))
        gradients = [each.grad.flatten() for each in adversary.module.parameters()]
        norms.append(float(torch.cat(gradients).norm()))
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("floor", "low", "high"), [(0.9, 0.84, 0.94), (0.0, 0.0, 0.8)])
def test_the_entropy_keeps_to_its_floor(floor, low, high):
    """Even tokens are much harder: without a floor their half of the context takes all."""
    settings = AdversarySettings(16, 1, 2, 1e-2, entropy_floor=floor)
    adversary = AdversarialMasking(VOCAB, settings)
    rng = np.random.default_rng(1)
    report = learn(adversary, 150, rng, lambda ids: 9.0 * hard(ids), noise=0.1)
    assert low < report["entropy"] < high


def test_padding_and_seeds_change_nothing():
    adversary = AdversarialMasking(VOCAB, FAST, seed=3)
    learn(adversary, 20, np.random.default_rng(0))
    seen = observe(np.random.default_rng(1))
    wide = {
        name: np.pad(values, ((0, 0), (0, 7)), constant_values=-1 if name == "word_ids" else 0)
        for name, values in seen.items()
        if name not in ("context_id", "budget")
    } | {name: seen[name] for name in ("context_id", "budget")}
    mask, _ = adversary.predict(seen, deterministic=True)
    assert (adversary.predict(wide, deterministic=True)[0][:, :LENGTH] == mask).all()
    adversary.seed(5)
    first, _ = adversary.predict(seen)
    second, _ = adversary.predict(seen)
    adversary.seed(5)
    assert (adversary.predict(seen)[0] == first).all()
    assert (first != second).any()
    twin = AdversarialMasking(VOCAB, FAST, seed=3)
    learn(twin, 20, np.random.default_rng(0))
    assert (twin.predict(seen, deterministic=True)[0] == mask).all()


def test_saved_and_loaded_it_goes_on_as_if_never_stopped(tmp_path):
    adversary = AdversarialMasking(VOCAB, FAST)
    learn(adversary, 10, np.random.default_rng(0))
    adversary.save(tmp_path)
    again = AdversarialMasking.load(tmp_path)
    for each in (adversary, again):
        learn(each, 10, np.random.default_rng(1))
    seen = observe(np.random.default_rng(2))
    assert (adversary.predict(seen)[0] == again.predict(seen)[0]).all()
    weights = [each.module.state_dict() for each in (adversary, again)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adversary\.json is missing"):
        AdversarialMasking.load(tmp_path)
    AdversarialMasking(VOCAB, FAST).save(tmp_path)
    about = json.loads((tmp_path / ABOUT).read_text())
    (tmp_path / ABOUT).write_text(json.dumps(about | {"format": 9}))
    with pytest.raises(ValueError, match="format 9"):
        AdversarialMasking.load(tmp_path)
    (tmp_path / ABOUT).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        AdversarialMasking.load(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": None},
        {"settings": None},
        {"generator": None},
        {"vocab_size": None},
        {"settings": {"foo": 1}},
        {"settings": []},
        {"settings": asdict(FAST) | {"width": 32}},
        {"vocab_size": VOCAB + 1},
        {"vocab_size": "many"},
        {"generator": {"bit_generator": "PCG64"}},
    ],
)
def test_a_damaged_description_is_told_in_one_sentence(tmp_path, changed):
    AdversarialMasking(VOCAB, FAST).save(tmp_path)
    about = json.loads((tmp_path / ABOUT).read_text()) | changed
    kept = {name: value for name, value in about.items() if value is not None}
    (tmp_path / ABOUT).write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="damaged") as caught:
        AdversarialMasking.load(tmp_path)
    assert str(tmp_path / ABOUT) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_description_that_is_none(tmp_path):
    AdversarialMasking(VOCAB, FAST).save(tmp_path)
    (tmp_path / ABOUT).write_text("[1]")
    with pytest.raises(ValueError, match="damaged"):
        AdversarialMasking.load(tmp_path)


def test_another_tokenizer_of_the_same_size_is_refused(tmp_path):
    AdversarialMasking(VOCAB, FAST, vocabulary="one").save(tmp_path)
    assert AdversarialMasking.load(tmp_path, vocabulary="one").vocabulary == "one"
    assert AdversarialMasking.load(tmp_path).vocabulary == "one"
    with pytest.raises(ValueError, match="another tokenizer"):
        AdversarialMasking.load(tmp_path, vocabulary="another")
    about = json.loads((tmp_path / ABOUT).read_text())
    del about["vocabulary"]  # as it was saved before
    (tmp_path / ABOUT).write_text(json.dumps(about))
    assert AdversarialMasking.load(tmp_path, vocabulary="another").vocabulary == "another"


def test_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocabulary of 10 tokens"):
        AdversarialMasking(10, FAST).predict(observe(np.random.default_rng(0)))


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 50), rng.integers(0, 9, 50)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(rank_correlation(x, np.ones(50)))


def test_statistics_know_what_is_masked():
    """Token t occurs t times in the corpus; the rarest are masked, and the rarest are hardest."""
    counts = np.arange(300)
    ids = np.arange(300, dtype=np.int32)[None].repeat(10, axis=0)
    seen = {"input_ids": ids, "maskable": np.ones_like(ids)}
    rng = np.random.default_rng(0)
    rare, uniform = MaskStatistics(counts), MaskStatistics(counts)
    for _ in range(20):
        rare.add(seen, rng.random(ids.shape) < (300 - ids) / 400, 300.0 - ids)
        uniform.add(seen, rng.random(ids.shape) < 0.3, 300.0 - ids)
    assert rare.summary()["rarity"] > 0.95
    assert rare.summary()["difficulty"] > 0.95
    assert rare.summary()["frequent"] < 0.15
    assert uniform.summary()["rarity"] == pytest.approx(0, abs=0.2)
    assert uniform.summary()["frequent"] == pytest.approx(1 / 3, abs=0.02)
    assert uniform.summary()["tokens"] == uniform.masked_V.sum()


def test_random_masks_prefer_nothing_in_text_of_natural_frequencies():
    """Zipf's law: most types are seen a few times only, and the rare ones are hard."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 2001)
    counts = np.round(1e6 * weights / weights.sum())
    statistics = MaskStatistics(counts)
    for _ in range(50):
        ids = rng.choice(2000, size=(16, 16), p=weights / weights.sum())
        seen = {"input_ids": ids, "maskable": np.ones_like(ids)}
        statistics.add(seen, rng.random(ids.shape) < 0.15, np.log1p(ids))
    assert abs(statistics.summary()["rarity"]) < 0.25
    assert abs(statistics.summary()["difficulty"]) < 0.25
