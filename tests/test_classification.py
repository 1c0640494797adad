"""Classification: features, head, loss and metrics."""

import logging

import numpy as np
import pytest
import torch

from envs.tasks.classification import Classification
from envs.testbed.world import TopicClassification
from envs.text.examples import TextExample

EXAMPLES = [
    TextExample("1", "the film is good", "positive"),
    TextExample("2", "the end is sad , the music is sad and the film is sad", "negative"),
    TextExample("3", "great music", "positive"),
]
LABELS = ("negative", "positive")


@pytest.fixture
def task(tiny_tokenizer):
    return Classification(tiny_tokenizer, LABELS)


def packed_states(features, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = [len(feature) for feature in features]
    return torch.randn(sum(lengths), width, generator=generator), lengths


def test_features_are_the_tokenizers_ids_and_the_labels_number(task, tiny_tokenizer):
    features = task.features(EXAMPLES, training=True)
    assert [feature.target for feature in features] == [(1,), (0,), (1,)]
    assert [feature.example for feature in features] == EXAMPLES
    for feature, example in zip(features, EXAMPLES, strict=True):
        assert feature.input_ids.tolist() == tiny_tokenizer(example.text)["input_ids"]
        assert feature.input_ids.dtype == np.int32
        assert feature.token_type_ids.dtype == np.int8


def test_other_labels_or_pooling_have_scores_of_their_own(tiny_tokenizer, task):
    others = [
        Classification(tiny_tokenizer, (*LABELS, "neutral")),
        Classification(tiny_tokenizer, ("bad", "good")),
        Classification(tiny_tokenizer, LABELS, pooling="mean"),
        TopicClassification(tiny_tokenizer, LABELS),  # its head is another
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert Classification(tiny_tokenizer, LABELS).fingerprint == task.fingerprint


def test_token_types_are_zero_where_the_tokenizer_gives_none(bpe_tokenizer):
    (feature,) = Classification(bpe_tokenizer, LABELS).features(EXAMPLES[:1], training=True)
    assert not feature.token_type_ids.any()
    assert len(feature.token_type_ids) == len(feature)


def test_long_texts_are_cut_and_counted(tiny_tokenizer, caplog):
    task = Classification(tiny_tokenizer, LABELS, max_length=8)
    with caplog.at_level(logging.WARNING):
        features = task.features(EXAMPLES, training=False)
    assert max(map(len, features)) == 8
    assert "1 of 3 texts are longer than 8 tokens" in caplog.text
    for training, again in ((False, 0), (True, 1)):  # what is trained on is another matter
        caplog.clear()
        task.features(EXAMPLES, training=training)
        assert len(caplog.records) == again


def test_unknown_label_is_named(task):
    odd = TextExample("test-7", "the film", "neutral")
    with pytest.raises(ValueError, match=r"'test-7'.*'neutral'.*'negative', 'positive'"):
        task.features([*EXAMPLES, odd], training=False)


def test_bad_settings_are_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="at least two"):
        Classification(tiny_tokenizer, ["a", "a"])
    with pytest.raises(ValueError, match="pooling is 'max'"):
        Classification(tiny_tokenizer, LABELS, pooling="max")
    with pytest.raises(ValueError, match="max_length is 2"):
        Classification(tiny_tokenizer, LABELS, max_length=2)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_loss_equals_one_feature_at_a_time(tiny_tokenizer, pooling):
    task = Classification(tiny_tokenizer, LABELS, pooling=pooling)
    features = task.features(EXAMPLES, training=True)
    hidden, lengths = packed_states(features)
    head = task.head(8).eval()
    losses = []
    for states, feature in zip(hidden.split(lengths), features, strict=True):
        pooled = states[0] if pooling == "first" else states.mean(dim=0)
        losses.append(-torch.log_softmax(head(pooled), dim=0)[feature.target[0]])
    loss = task.loss(head, hidden, lengths, features)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    outputs = task.predict(head, hidden, lengths, features)
    assert [output.shape for output in outputs] == [(2,)] * 3
    assert task.evaluate(features, outputs)["nll"] == pytest.approx(loss.item(), rel=1e-5)


def test_evaluate_gives_every_promised_metric(task):
    features = task.features(EXAMPLES, training=False)
    outputs = [np.array(row, dtype=np.float32) for row in ([0, 2], [1, 0], [3, 0])]
    scores = task.evaluate(features, outputs)
    assert set(scores) == set(task.higher_is_better)
    assert scores["accuracy"] == scores["micro_f1"] == pytest.approx(200 / 3)
    assert scores["macro_f1"] == pytest.approx(200 / 3)
    expected = np.mean([np.log1p(np.exp(-2)), np.log1p(np.exp(-1)), np.log1p(np.exp(3))])
    assert scores["nll"] == pytest.approx(expected)


def test_head_is_drawn_from_the_global_generator(task):
    torch.manual_seed(5)
    first = task.head(8).state_dict()
    torch.manual_seed(5)
    again = task.head(8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not first["0.bias"].any()


def test_head_learns_the_labels(task):
    features = task.features(EXAMPLES, training=True)
    hidden, lengths = packed_states(features)
    torch.manual_seed(0)
    head = task.head(8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(head, hidden, lengths, features).backward()
        optimizer.step()
    outputs = task.predict(head.eval(), hidden, lengths, features)
    assert task.evaluate(features, outputs)["accuracy"] == 100.0
