"""Generation: features, and metrics with known answers."""

import logging
import math
import sys

import numpy as np
import pytest

from envs.tasks.generation import Generation, MissingExtraError, bleu, perplexity, rouge
from envs.text.examples import GenerationExample

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

EXAMPLES = [
    GenerationExample("1", "the river rises in the hills", ("the river flows to the sea", "sea")),
    GenerationExample("2", "who built the bridge", ("an engineer from arden",)),
]


def test_features_are_the_tokenizers_ids(bpe_tokenizer):
    task = Generation(bpe_tokenizer, prefix="where: ")
    features = task.features(EXAMPLES, training=True)
    for feature, example in zip(features, EXAMPLES, strict=True):
        source = bpe_tokenizer("where: " + example.source)["input_ids"]
        assert feature.source_ids.tolist() == source
        assert feature.target_ids.tolist() == bpe_tokenizer(example.targets[0])["input_ids"]
        assert feature.source_ids.dtype == feature.target_ids.dtype == np.int32
    assert task.decode([feature.target_ids for feature in features]) == [
        example.targets[0] for example in EXAMPLES
    ]


def test_long_texts_are_cut_and_counted(tiny_tokenizer, caplog):
    task = Generation(tiny_tokenizer, max_source_length=7, max_target_length=7)
    with caplog.at_level(logging.WARNING):
        features = task.features(EXAMPLES, training=False)
    assert max(len(f.source_ids) for f in features) == max(len(f.target_ids) for f in features) == 7
    assert "1 of 2 sources" in caplog.text
    assert "1 of 2 targets" in caplog.text


def test_examples_without_target_are_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="'7' has no target"):
        Generation(tiny_tokenizer).features([GenerationExample("7", "a", ())], training=True)


@pytest.mark.parametrize("metric", ["bleu", "rouge"])
def test_perfect_outputs_score_100(tiny_tokenizer, metric):
    task = Generation(tiny_tokenizer, metric=metric)
    features = task.features(EXAMPLES, training=False)
    losses = [np.full(len(f.target_ids), 0.5) for f in features]
    losses[0][:] = 0.25
    scores = task.evaluate(features, [f.target_ids for f in features], losses)
    assert set(scores) == set(task.higher_is_better)
    assert scores[task.headline] == pytest.approx(100.0)
    tokens = [len(f.target_ids) for f in features]
    nll = (0.25 * tokens[0] + 0.5 * tokens[1]) / sum(tokens)
    assert scores["nll"] == pytest.approx(nll)
    assert scores["perplexity"] == pytest.approx(math.exp(nll))


def test_bleu_known_answer():
    hypotheses = ["the river flows to the sea"]
    # In one reference or the other: 6 of 6 words, 5 of 5 pairs, 3 of 4 triples, 2 of 3 fours.
    references = [["the river runs to the sea", "a river flows to the sea"]]
    expected = 100 * (1 * (5 / 5) * (3 / 4) * (2 / 3)) ** 0.25
    assert bleu(hypotheses, references) == pytest.approx(expected)
    # Shorter than the reference: exp(1 - 7/6).
    shorter = bleu(hypotheses, [["the river flows to the sea slowly"]])
    assert shorter == pytest.approx(100 * math.exp(1 - 7 / 6))


def test_bleu_takes_different_numbers_of_references():
    hypotheses = ["the river flows to the sea", "an engineer built the old bridge"]
    references = [["something else", hypotheses[0]], [hypotheses[1]]]
    assert bleu(hypotheses, references) == pytest.approx(100.0)


def test_rouge_known_answer():
    scores = rouge(["the river flows south"], [["south flows the river", "nothing"]])
    assert scores["rouge1"] == pytest.approx(100.0)
    assert scores["rouge2"] == pytest.approx(100 / 3)  # "the river", of 3 bigrams
    assert scores["rougeL"] == pytest.approx(50.0)  # "the river", 2 of 4 words


def test_perplexity():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(1e6) == math.inf


def test_references_must_fit():
    with pytest.raises(ValueError, match="2 hypotheses for 1"):
        bleu(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="references of hypothesis 0 are 'a'"):
        rouge(["a"], ["a"])


def test_a_missing_package_is_named_before_anything_is_trained(monkeypatch, tiny_tokenizer):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingExtraError, match=r"'sacrebleu': pip install 'nmg\[generation\]'"):
        bleu(["a"], [["a"]])
    with pytest.raises(MissingExtraError, match="'sacrebleu'"):
        Generation(tiny_tokenizer, metric="bleu")
    Generation(tiny_tokenizer, metric="rouge")
