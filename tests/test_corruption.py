"""Corruption: only masked tokens change, in the promised shares, never into special tokens."""

from __future__ import annotations

import numpy as np
import pytest

from envs.text.corruption import corrupt

SPECIAL = (0, 2, 3, 9)
MASK = 9


def run(ids, mask, rule="bert", seed=0, special=SPECIAL, vocab=12):
    return corrupt(
        ids,
        mask,
        mask_token_id=MASK,
        vocab_size=vocab,
        special_ids=special,
        rule=rule,
        rng=np.random.default_rng(seed),
    )


@pytest.fixture
def ids() -> np.ndarray:
    return np.full((200, 500), 5, dtype=np.int32)


@pytest.mark.parametrize("rule", ["bert", "mask"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_labels_and_untouched_tokens(rule, dtype):
    ids = np.arange(1000, dtype=dtype).reshape(10, 100) % 12
    before = ids.copy()
    mask = np.random.default_rng(1).random(ids.shape) < 0.3
    corrupted, labels = run(ids, mask.astype(np.int8), rule)
    assert corrupted.dtype == labels.dtype == dtype
    np.testing.assert_array_equal(ids, before)
    np.testing.assert_array_equal(corrupted[~mask], ids[~mask])
    np.testing.assert_array_equal(labels[mask], ids[mask])
    assert (labels[~mask] == -100).all()
    assert not np.shares_memory(corrupted, ids)


def test_shares_of_the_bert_rule(ids):
    corrupted, _ = run(ids, np.ones(ids.shape, dtype=bool))
    values, counts = np.unique(corrupted, return_counts=True)
    share = dict(zip(values.tolist(), (counts / ids.size).tolist(), strict=True))
    ordinary = {1, 4, 5, 6, 7, 8, 10, 11}
    assert set(share) == ordinary | {MASK}
    # 8 ordinary ids: each gets an eighth of the random 10%; the id itself also the kept 10%.
    expected = dict.fromkeys(ordinary, 0.1 / 8) | {MASK: 0.8, 5: 0.1 + 0.1 / 8}
    for token, each in expected.items():
        assert share[token] == pytest.approx(each, abs=0.004)


def test_the_mask_rule_masks_everything(ids):
    corrupted, _ = run(ids, np.ones(ids.shape, dtype=bool), "mask")
    assert (corrupted == MASK).all()


def test_special_ids_at_the_ends_and_outside_the_vocabulary(ids):
    corrupted, _ = run(ids, np.ones(ids.shape, dtype=bool), special=(0, 1, 10, 11, 11, 40, -1))
    assert set(np.unique(corrupted)) == set(range(2, 10))


def test_equal_seeds_treat_shared_tokens_alike(ids):
    rng = np.random.default_rng(3)
    first, second = rng.random((2, *ids.shape)) < 0.5
    both = first & second
    one, _ = run(ids, first, seed=7)
    two, _ = run(ids, second, seed=7)
    np.testing.assert_array_equal(one[both], two[both])
    again, _ = run(ids, first, seed=7)
    np.testing.assert_array_equal(one, again)
    other, _ = run(ids, first, seed=8)
    assert (other != one).any()


def test_a_single_row_and_an_empty_mask():
    ids = np.array([1, 4, 5], dtype=np.int32)
    corrupted, labels = run(ids, np.zeros(3, dtype=np.int8))
    np.testing.assert_array_equal(corrupted, ids)
    assert (labels == -100).all()


def test_wrong_arguments():
    ids = np.array([1, 4, 5], dtype=np.int32)
    with pytest.raises(ValueError, match=r"shape \(2,\), the ids have \(3,\)"):
        run(ids, np.zeros(2))
    with pytest.raises(ValueError, match="no corruption rule 'none'"):
        run(ids, np.ones(3), "none")
    with pytest.raises(ValueError, match="special"):
        run(ids, np.ones(3), special=range(12))
