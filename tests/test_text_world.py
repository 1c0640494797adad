"""The world of real text: who is held out, who is dealt, and that it is always the same."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import nmg  # noqa: F401  (registers the environments)
from envs.building import build_text_world
from envs.models.language_model import LanguageModel
from envs.tasks.classification import Classification
from envs.tasks.question_answering import QuestionAnswering
from envs.text.examples import GenerationExample, QuestionExample, TextExample
from envs.text.overlap import without_overlap
from envs.text_world import TextWorld, example_stratum, stratified_sample

PLACES = ("arden", "holt", "marl", "wick", "thorn", "leigh")


def seed(number: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(number)


def texts(count: int = 60) -> list[TextExample]:
    """Two thirds ``river``, one third ``bridge``."""
    kinds = ("river", "river", "bridge")
    return [
        TextExample(f"t{i}", f"The {kinds[i % 3]} of {PLACES[i % 6]} number {i}.", kinds[i % 3])
        for i in range(count)
    ]


def questions(contexts: int = 30, per_context: int = 3) -> list[QuestionExample]:
    """Some paragraphs in five articles, with a few questions each; some span several windows."""
    result = []
    for c in range(contexts):
        place = PLACES[c % 6]
        context = f"The town of {place} built bridge {c} in 19{c:02d}. " * (1 + c % 3)
        for q in range(per_context):
            answer = ((place, context.index(place)),)
            ident = f"c{c}q{q}"
            result.append(QuestionExample(ident, f"article {c % 5}", context, f"Who {q}?", answer))
    return result


def classification_world(tokenizer, **options) -> TextWorld:
    task = Classification(tokenizer, ("bridge", "river"), 32)
    options = {"window": 20, "contexts_per_episode": 8} | options
    return TextWorld(task, texts(), tokenizer, **options)


def question_world(tokenizer, **options) -> TextWorld:
    task = QuestionAnswering(tokenizer, 96, 16)
    options = {"window": 20, "contexts_per_episode": 5} | options
    return TextWorld(task, questions(), tokenizer, **options)


def ids(features) -> set[str]:
    return {feature.example.id for feature in features}


@pytest.mark.parametrize("make", [classification_world, question_world])
def test_what_is_scored_is_never_masked_nor_trained_on(tiny_tokenizer, make):
    world = make(tiny_tokenizer)
    scored = ids(world.deal(seed(0)).score)
    assert scored
    for number in range(10):
        deal = world.deal(seed(number))
        assert ids(deal.score) == scored
        assert not ids(deal.train) & scored
    held = {getattr(e, "text", None) or e.context for e in world.score_examples}
    assert not held & set(world.documents)


def test_what_belongs_together_is_held_out_together(tiny_tokenizer):
    marked = [
        TextExample(f"{n}-{k}", sentence.format(*marks), "bridge")
        for n in range(12)
        for k, marks in enumerate([("<< bridge >>", "river"), ("bridge", "[[ River ]]")])
        for sentence in [f"The {{}} number {n} over the {{}} is long."]
    ]
    task = Classification(tiny_tokenizer, ("bridge", "river"), 32)
    world = TextWorld(task, marked, tiny_tokenizer, window=20, held_out=0.3)
    sides = [
        {e.id.partition("-")[0] for e in part} for part in (world.examples, world.score_examples)
    ]
    assert all(sides)
    assert not sides[0] & sides[1]

    turns = [
        GenerationExample(f"{d}-{t}", f"turn {t} of dialogue {d}", ("so",), group=f"dialogue {d}")
        for d in range(10)
        for t in range(3)
    ]
    sentences = [
        TextExample(f"{n}-{s}", text, "bridge", group=f"abstract {n}")
        for n in range(10)
        for s, text in enumerate([f"the river {n} is long", f"bridge {n}", "All rights reserved."])
    ]
    for examples in (turns, sentences):
        world = TextWorld(task, examples, tiny_tokenizer, window=20, held_out=0.3)
        sides = [{e.group for e in part} for part in (world.examples, world.score_examples)]
        assert all(sides)
        assert not sides[0] & sides[1]
    # What other abstracts share with those is not trained on.
    assert sum(e.text.startswith("All") for e in world.examples) == 0


def test_documents_with_scored_text_are_not_masked(tiny_tokenizer):
    names = [" ".join(f"word{n}x{k}" for k in range(12)) for n in range(10)]
    examples = [TextExample(str(n), f"<< {name} >>.", "river") for n, name in enumerate(names)]
    apart = ["another text without any of these words, though it is a long one", "short"]
    documents = [
        *apart,
        *(f"Before it, {name.upper()}; and after." for name in names),
        *(name.partition(" ")[2] for name in names),
    ]
    task = Classification(tiny_tokenizer, ("bridge", "river"), 32)
    world = TextWorld(task, examples, tiny_tokenizer, window=20, held_out=0.3, documents=documents)
    held = {int(example.id) for example in world.score_examples}
    assert len(held) == 3
    kept = [*apart, *(d for i, d in enumerate(documents[2:]) if i % 10 not in held)]
    assert world.documents == kept


def test_scored_text_is_found_in_scripts_without_spaces():
    scored = ["机器学习改变了世界的面貌。", "きかいがくしゅうはすごい"]
    apart = ["今天天气很好。我们去公园散步吧。", "machine learning is 機械"]
    around = [f"他说「{scored[0]}」大家都同意。", f"「{scored[1]}」とかれはいった", scored[0][1:10]]
    assert without_overlap([*apart, *around], scored) == apart


def test_a_scored_text_of_fewer_than_eight_words_counts_only_as_a_whole_document():
    eight = "the flight from boston to denver was late"
    seven = eight.removesuffix(" late")
    for scored, kept in ((eight, [seven]), (seven, [f"so {seven} today"])):
        documents = [f"{scored.upper()}.", f"so {scored} today", seven]
        assert without_overlap([*documents, "apart"], [scored]) == [*kept, "apart"]


def test_fine_tuning_examples_are_those_of_the_sampled_contexts(tiny_tokenizer):
    world = question_world(tiny_tokenizer)
    deal = world.deal(seed(1))
    sampled = {world.documents[context.document] for context in deal.contexts}
    expected = {e.id for e in world.examples if e.context in sampled}
    assert ids(deal.train) == expected
    capped = question_world(tiny_tokenizer, examples_per_episode=4).deal(seed(1))
    assert len(ids(capped.train)) == 4
    assert ids(capped.train) < expected


def test_a_deal_is_pure_in_its_seed(tiny_tokenizer):
    world, other = (classification_world(tiny_tokenizer) for _ in range(2))
    first = world.deal(seed(3))
    world.deal(seed(4))
    for again in (world.deal(seed(3)), other.deal(seed(3))):
        assert np.array_equal(again.context_ids, first.context_ids)
        assert [f.example.id for f in again.train] == [f.example.id for f in first.train]
    assert not np.array_equal(world.deal(seed(4)).context_ids, first.context_ids)
    assert len(set(first.context_ids.tolist())) == 8


def test_one_context_id_is_always_one_text(tiny_tokenizer):
    world = question_world(tiny_tokenizer)
    seen: dict[int, bytes] = {}
    for number in range(20):
        deal = world.deal(seed(number))
        for ident, context in zip(deal.context_ids.tolist(), deal.contexts, strict=True):
            assert (
                seen.setdefault(ident, context.input_ids.tobytes()) == context.input_ids.tobytes()
            )
            assert len(context) <= world.max_length
    assert len(seen) > 10


def test_the_score_set_is_stratified_and_capped(tiny_tokenizer):
    whole = classification_world(tiny_tokenizer, held_out=0.25)
    assert Counter(e.label for e in whole.score_examples) == {"river": 10, "bridge": 5}
    capped = classification_world(tiny_tokenizer, held_out=0.25, score_examples=6)
    assert Counter(e.label for e in capped.score_examples) == {"river": 4, "bridge": 2}
    by_article = question_world(tiny_tokenizer, held_out=0.4, score_examples=20)
    counts = Counter(e.title for e in by_article.score_examples)
    assert sum(counts.values()) == 20
    assert len(counts) == 5
    assert max(counts.values()) <= 5


def test_a_fixed_labelled_subset(tiny_tokenizer):
    world = classification_world(tiny_tokenizer, labelled=9)
    deals = [world.deal(seed(number)) for number in range(3)]
    assert Counter(f.example.label for f in deals[0].train) == {"river": 6, "bridge": 3}
    assert ids(deals[0].train) == ids(deals[1].train) == ids(deals[2].train)


def test_an_unlabelled_corpus_of_another_origin(tiny_tokenizer):
    documents = [f"The protein number {i} binds the receptor." for i in range(12)]
    leaky = [*documents, *(example.text for example in texts())]
    world = classification_world(tiny_tokenizer, documents=leaky, examples_per_episode=7)
    held = {example.text for example in world.score_examples}
    assert set(documents) < set(world.documents)
    assert not held & set(world.documents)
    deal = world.deal(seed(0))
    assert len(deal.train) == 7
    assert ids(deal.train) != ids(world.deal(seed(1)).train)


def test_a_small_corpus_is_dealt_whole(tiny_tokenizer):
    world = classification_world(tiny_tokenizer, contexts_per_episode=500)
    assert len(world.deal(seed(0)).contexts) == world.contexts_per_episode == 54


def test_mistakes_are_named(tiny_tokenizer):
    with pytest.raises(ValueError, match="contexts_per_episode is 0"):
        classification_world(tiny_tokenizer, contexts_per_episode=0)
    with pytest.raises(ValueError, match=r"held_out is 1\.0"):
        classification_world(tiny_tokenizer, held_out=1.0)
    task = Classification(tiny_tokenizer, ("bridge", "river"), 32)
    with pytest.raises(ValueError, match=r"1 different text\(s\)"):
        TextWorld(task, [TextExample("a", "river", "river")] * 3, tiny_tokenizer)


def test_stratified_sample_is_proportional_and_fair():
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    counts = np.zeros(100)
    for number in range(400):
        chosen = stratified_sample(strata, 20, np.random.default_rng(number))
        assert len(set(chosen)) == 20
        shares = Counter(strata[i] for i in chosen)
        assert abs(shares["a"] - 12) <= 1
        assert abs(shares["b"] - 6) <= 1
        counts[chosen] += 1
    assert np.allclose(counts / 400, 0.2, atol=0.08)


@pytest.fixture
def model_folder(tmp_path: Path, tiny_masked_lm, tiny_tokenizer) -> Path:
    folder = tmp_path / "model"
    tiny_masked_lm.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


SMALL = {"contexts_per_episode": 3, "examples_per_episode": 6, "score_examples": 4, "window": 20}


def play_randomly(env: gym.Env) -> tuple[float, dict]:
    env.reset(seed=0)
    env.action_space.seed(0)
    terminated = False
    while not terminated:
        _, reward, terminated, _, info = env.step(env.action_space.sample())
    return reward, info


def test_registered_classification_environment_by_name(tmp_path, model_folder):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.dumps({"text": each.text, "label": each.label}) for each in texts()]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    env = gym.make(
        "nmg:nmg/MaskClassification-v0",
        dataset=str(folder / "train.jsonl"),
        model=str(model_folder),
        references={"random": "random", "none": "none"},
        settings=None,
        **SMALL,
    )
    assert env.unwrapped.settings.finetune_epochs == 5
    reward, info = play_randomly(env)
    scores = info["scores"]
    assert reward == scores["agent"]["accuracy"] - scores["random"]["accuracy"]
    assert info["cost"]["none"]["pretrain_tokens"] == 0 < info["cost"]["agent"]["pretrain_tokens"]
    again = gym.make(env.spec)
    assert play_randomly(again)[1]["scores"] == scores
    gymnasium_check_env(again.unwrapped, skip_render_check=True)
    sb3_check_env(again.unwrapped)


def test_registered_question_environment_by_name(tmp_path, model_folder):
    articles: dict[str, dict[str, list]] = {}
    for each in questions():
        answers = [{"text": t, "answer_start": s} for t, s in each.answers]
        question = {"id": each.id, "question": each.question, "answers": answers}
        articles.setdefault(each.title, {}).setdefault(each.context, []).append(question)
    data = [
        {"title": t, "paragraphs": [{"context": c, "qas": q} for c, q in paragraphs.items()]}
        for t, paragraphs in articles.items()
    ]
    file = tmp_path / "questions.json"
    file.write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
    env = gym.make(
        "nmg:nmg/MaskQA-v0",
        dataset=str(file),
        model=str(model_folder),
        reward="nll_gain",
        max_length=96,
        stride=16,
        **SMALL,
    )
    reward, info = play_randomly(env)
    scores = info["scores"]
    assert reward == scores["random"]["nll"] - scores["agent"]["nll"] != 0
    assert {"em", "f1"} <= set(scores["agent"])


def test_no_world_reads_the_test_split(tmp_path, tiny_tokenizer, tiny_masked_lm):
    rows = [{"text": example.text, "label": example.label} for example in texts()]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    for secret in ('{"text": "A film.", "label": "film"}', "{no data"):
        (tmp_path / "test.jsonl").write_text(secret)
        world, task = build_text_world("classification", tmp_path, lm)
        assert task.labels == ("bridge", "river")
        assert set(world.documents) <= {row["text"] for row in rows}


@pytest.mark.real
@pytest.mark.parametrize(
    ("task", "name"),
    [("qa", "squadshifts-new_wiki"), ("classification", "chemprot")],
)
def test_worlds_of_real_data(tiny_tokenizer, tiny_masked_lm, task, name):
    if "NMG_DATA" not in os.environ:
        pytest.skip("NMG_DATA is not set")
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    world, _ = build_text_world(
        task, name, lm, contexts_per_episode=20, examples_per_episode=50, score_examples=100
    )
    deal = world.deal(seed(0))
    assert len(deal.contexts) == 20
    assert len(ids(deal.train)) <= 50
    assert len(ids(deal.score)) == 100
    assert len({example_stratum(each) for each in world.score_examples}) >= 7
