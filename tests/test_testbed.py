"""The generated domain: deals are pure, what is marked informative is, and masks matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import spaces
from envs.adaptation.jobs import ScoreJob
from envs.testbed import (
    SETTINGS,
    KnownMask,
    Testbed,
    TestbedWorld,
    best_mask,
    build_testbed,
    settings_named,
    worst_mask,
)
from envs.testbed.domain import MASK, Vocabulary, evenly
from envs.testbed.world import FAMILY_KEY
from envs.text.corpus import build_corpus

NAMES = tuple(SETTINGS)


def world_of(name: str, family: str = "train") -> TestbedWorld:
    """A world without its language model."""
    settings = settings_named(name)
    return TestbedWorld(settings, Vocabulary(settings.language), family)


def observe(world: TestbedWorld, deal, budget: float):
    return spaces.pad_contexts(
        deal.contexts, deal.context_ids, world.tokenizer, length=world.max_length, budget=budget
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_deal_depends_on_its_seed_alone(name) -> None:
    world = world_of(name)
    seed = np.random.SeedSequence(7, spawn_key=(3, 1))
    first, other, again = (
        world.deal(seed),
        world.deal(np.random.SeedSequence(8)),
        world_of(name).deal(seed),
    )
    assert all(
        np.array_equal(a.input_ids, b.input_ids)
        for a, b in zip(first.contexts, again.contexts, strict=True)
    )
    for part in ("train", "score"):
        for a, b in zip(getattr(first, part), getattr(again, part), strict=True):
            assert np.array_equal(a.input_ids, b.input_ids)
            assert (a.target, a.example) == (b.target, b.example)
    assert np.array_equal(first.context_ids, again.context_ids)
    assert not np.array_equal(first.context_ids, other.context_ids)


@pytest.mark.parametrize("name", NAMES)
def test_one_context_id_always_means_the_same_text(name) -> None:
    world = world_of(name)
    texts: dict[int, bytes] = {}
    for number in range(20):
        deal = world.deal(np.random.SeedSequence(number))
        assert deal.context_ids.dtype == np.int32
        for context, key in zip(deal.contexts, deal.context_ids, strict=True):
            assert texts.setdefault(int(key), context.input_ids.tobytes()) == (
                context.input_ids.tobytes()
            )
    assert len(texts) == 20 * world.settings.contexts


@pytest.mark.parametrize("name", NAMES)
def test_informative_tokens_are_the_keywords_and_as_many_as_said(name) -> None:
    world = world_of(name)
    settings, words = world.settings, world.vocabulary
    deal = world.deal(np.random.SeedSequence(1))
    for context, informative in zip(deal.contexts, deal.informative, strict=True):
        assert np.isin(context.input_ids, words.known_TK).sum() == settings.known_in_document
        assert np.isin(context.input_ids, words.new).sum() == settings.new_in_document
        keyword = np.isin(context.input_ids, words.known_TK) | np.isin(context.input_ids, words.new)
        assert np.array_equal(keyword, informative)
        assert informative[context.maskable].mean() == pytest.approx(settings.informative_share)
        assert not informative[~context.maskable].any()


@pytest.mark.parametrize("name", NAMES)
def test_contexts_and_features_are_what_the_tokenizer_makes_of_their_text(name) -> None:
    world = world_of(name)
    deal = world.deal(np.random.SeedSequence(2))
    context = deal.contexts[0]
    text = world.tokenizer.decode(context.input_ids[1:-1])
    (expected,) = build_corpus([text], world.tokenizer, window=world.settings.words)
    assert np.array_equal(context.input_ids, expected.input_ids)
    assert np.array_equal(context.word_ids, expected.word_ids)
    assert np.array_equal(context.maskable, expected.maskable)
    feature = deal.score[0]
    assert world.tokenizer(feature.example.text)["input_ids"] == feature.input_ids.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_score_documents_hold_only_new_keywords_that_no_labelled_document_has(name) -> None:
    world = world_of(name)
    words = world.vocabulary
    deal = world.deal(np.random.SeedSequence(3))
    labelled = {int(i) for feature in deal.train for i in feature.input_ids}
    scored = {int(i) for feature in deal.score for i in feature.input_ids}
    masked = {int(i) for context in deal.contexts for i in context.input_ids}
    assert not scored & set(words.known_TK.ravel().tolist())
    new = scored & set(words.new.tolist())
    assert new
    assert new <= masked
    assert not new & labelled


def test_the_families_share_no_new_keyword() -> None:
    used = {}
    for family in FAMILY_KEY:
        world = world_of("matched", family)
        deals = [world.deal(np.random.SeedSequence(number)) for number in range(10)]
        ids = {int(i) for deal in deals for c in deal.contexts for i in c.input_ids}
        coming_and_going = np.concatenate([world.vocabulary.new, world.vocabulary.changing])
        used[family] = ids & set(coming_and_going.tolist())
    assert used["train"]
    assert used["test"]
    assert not used["train"] & used["test"]


def test_a_new_keyword_changes_its_topic_between_deals() -> None:
    world = world_of("small")
    topics: dict[int, set[int]] = {}
    for number in range(20):
        for feature in world.deal(np.random.SeedSequence(number)).score:
            for i in feature.input_ids[np.isin(feature.input_ids, world.vocabulary.new)]:
                topics.setdefault(int(i), set()).add(feature.target[0])
    assert min(len(seen) for seen in topics.values()) > 1


def _document_counts(world: TestbedWorld, contexts) -> np.ndarray:
    """In how many contexts each word is, (V,), special tokens left out."""
    counts = np.zeros(world.vocab_size)
    for context in contexts:
        counts[np.unique(context.input_ids[context.maskable])] += 1
    return counts


def test_in_the_matched_setting_frequency_tells_nothing() -> None:
    world = world_of("matched")
    deals = [world.deal(np.random.SeedSequence(number)) for number in range(60)]
    # Within a deal every word is in equally many documents.
    counts = _document_counts(world, deals[0].contexts)
    assert set(counts[counts > 0].tolist()) <= {3, 4, 5}
    assert counts[world.informative_V & (counts > 0)].mean() == pytest.approx(4, abs=0.05)
    assert counts[~world.informative_V & (counts > 0)].mean() == pytest.approx(4, abs=0.05)
    # Over several deals, the rarest and the commonest words of a document hit as often as chance.
    rng = np.random.default_rng(0)
    for sign in (1, -1):
        hits = []
        for group in range(0, 60, 5):
            contexts = [context for deal in deals[group : group + 5] for context in deal.contexts]
            counts = _document_counts(world, contexts) + rng.random(world.vocab_size) / 2
            for context in contexts:
                order = np.where(context.maskable, sign * counts[context.input_ids], np.inf)
                rarest = context.input_ids[np.argsort(order)[:2]]
                hits.append(world.informative_V[rarest].mean())
        assert np.mean(hits) == pytest.approx(world.settings.informative_share, abs=0.05)
    lengths = {len(word) for word in world.tokenizer.get_vocab() if not word.startswith("[")}
    assert lengths == {6}
    places = np.concatenate([np.flatnonzero(informative) for informative in deals[0].informative])
    assert places.mean() == pytest.approx(world.settings.words / 2 + 0.5, abs=1.5)


@pytest.mark.parametrize(
    ("share", "low", "high"), [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.35, 0.65)]
)
def test_the_known_mask_has_the_share_asked_for(share, low, high) -> None:
    world = world_of("standard")
    deal = world.deal(np.random.SeedSequence(4))
    observation = observe(world, deal, world.settings.budget)
    mask, state = KnownMask(world, share, seed=1).predict(observation)
    assert state is None
    assert mask.dtype == np.int8
    assert (mask.sum(axis=1) == 2).all()
    assert not (mask.astype(bool) & ~observation["maskable"].astype(bool)).any()
    informative = world.informative_V[observation["input_ids"]]
    assert low <= informative[mask.astype(bool)].mean() <= high
    one, _ = KnownMask(world, share, seed=1).predict(
        {name: values[0] for name, values in observation.items()}
    )
    assert one.shape == mask[0].shape
    assert one.sum() == 2


def test_words_are_drawn_evenly() -> None:
    drawn = evenly(np.random.default_rng(0), np.arange(5), 13)
    counts = np.bincount(drawn, minlength=5)
    assert counts.sum() == 13
    assert counts.max() - counts.min() <= 1


def test_unknown_names_are_said_to_be_unknown() -> None:
    with pytest.raises(ValueError, match=r"no testbed setting 'hardest'.*standard"):
        settings_named("hardest")
    with pytest.raises(ValueError, match="'train' or 'test'"):
        world_of("small", "validation")


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Testbed:
    return build_testbed("small", cache_dir=tmp_path_factory.mktemp("cache"))


def assert_modes_of_new_files(folder: Path) -> None:
    """A cache may be shared: whoever may read a new folder and a new file there may read these."""
    (folder / "new").mkdir()
    (folder / "new" / "file").touch()
    for path in folder.rglob("*"):
        plain = folder / "new" / "file" if path.is_file() else folder / "new"
        assert path.stat().st_mode == plain.stat().st_mode, path


def test_the_language_model_is_kept_and_found_again(bed, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "testbed"
    assert not folder.exists()
    quick = replace(settings_named("small").language, steps=2)
    settings = replace(settings_named("small"), language=quick)
    made = build_testbed(settings, cache_dir=tmp_path)
    assert [path.name for path in folder.glob(".*")] == []
    assert_modes_of_new_files(folder)

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("envs.testbed.language_model.train_language_model", fail)
    found = build_testbed(settings, cache_dir=tmp_path)
    assert made.language_model.fingerprint == found.language_model.fingerprint
    assert found.language_model.mask_token_id == MASK


def test_the_registered_environment_has_its_settings_and_metrics(bed, monkeypatch) -> None:
    monkeypatch.setattr("envs.testbed.build_testbed", lambda: bed)
    env: Any = gymnasium.make("nmg:nmg/MaskTestbed-v0", settings=None, headline="accuracy")
    assert env.unwrapped.settings == bed.settings
    assert env.unwrapped.budget == bed.budget


def test_the_language_model_knows_which_words_are_worth_masking(bed) -> None:
    """A linear probe on the static embeddings, tested on words it was not fitted to."""
    words = np.arange(MASK + 1, bed.world.vocab_size)
    inputs = bed.language_model.embeddings(words).detach().numpy()
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    target = 2.0 * bed.world.informative_V[words] - 1
    fitted = np.random.default_rng(0).permutation(len(words)) % 2 == 0
    ridge = inputs[fitted].T @ inputs[fitted] + 0.1 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(ridge, inputs[fitted].T @ target[fitted])
    right = (inputs[~fitted] @ weights > 0) == (target[~fitted] > 0)
    assert right.mean() > 0.9


def test_the_best_mask_scores_better_than_random_and_worst(bed) -> None:
    from envs.references import UniformRandom

    scores: dict[str, list[float]] = {}
    policies = {
        "best": best_mask(bed.world),
        "random": UniformRandom(1),
        "worst": worst_mask(bed.world),
    }
    for number in range(4):
        deal = bed.world.deal(np.random.SeedSequence(100 + number))
        observation = observe(bed.world, deal, bed.budget)
        for name, policy in policies.items():
            mask_BL, _ = policy.predict(observation)
            masks = [row.astype(bool) for row in mask_BL]
            job = ScoreJob(deal.contexts, masks, deal.train, deal.score, bed.settings, number)
            scores.setdefault(name, []).append(bed.executor.submit(job).result().metrics["nll"])
    mean = {name: float(np.mean(values)) for name, values in scores.items()}
    assert mean["best"] < mean["random"] - 0.03
    assert mean["best"] < mean["worst"] - 0.03
