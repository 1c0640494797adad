"""Replay: what goes in comes out, weighted as promised, in little memory."""

from dataclasses import replace

import numpy as np
import pytest
from stable_baselines3.common.buffers import DictReplayBuffer

from agents.contexts import Contexts
from agents.features import occurrences
from agents.replay_buffer import MaskReplayBuffer
from envs.spaces import action_space, observation_space


def some_contexts(number, length, first_id=0, seed=0):
    rng = np.random.default_rng(seed)
    real = np.arange(length) < rng.integers(length // 2, length + 1, number)[:, None]
    ids = np.where(real, rng.integers(4, 30, (number, length)), 0).astype(np.int32)
    words = np.where(real, np.arange(length), -1).astype(np.int32)
    names = np.arange(first_id, first_id + number)
    return Contexts(ids, real, words, real.copy(), names, np.full(number, 3))


def buffer_of(length, capacity=600, **options):
    return MaskReplayBuffer(capacity, length, **options)


def play(buffer, contexts, seed=0, player=0):
    rng = np.random.default_rng(seed)
    noise = np.where(contexts.maskable, rng.random(contexts.maskable.shape), -1)
    masks = (noise.argsort(1).argsort(1) >= noise.shape[1] - 3) & contexts.maskable
    log_probs = rng.standard_normal(masks.shape).astype(np.float32)
    # The credit names its token, so that a sampled entry can be checked.
    credits = np.where(masks, contexts.context_ids[:, None] * 100 + np.arange(masks.shape[1]), 0.0)
    credits[masks & (rng.random(masks.shape) < 0.3)] = np.nan
    values = np.zeros(len(contexts))
    buffer.add(contexts, masks, log_probs, credits, values, player)
    return masks, log_probs, credits


def test_sampled_tokens_are_those_that_were_added():
    buffer, contexts = buffer_of(13), some_contexts(20, 13)
    masks, log_probs, credits = play(buffer, contexts)
    assert buffer.tokens() == int((masks & ~np.isnan(credits)).sum())
    batch = buffer.sample_tokens(500)
    ids = batch.contexts.context_ids
    assert (batch.credits == ids * 100 + batch.positions).all()
    assert (batch.log_probs == log_probs[ids, batch.positions]).all()
    assert masks[ids, batch.positions].all()
    length = batch.contexts.input_ids.shape[1]
    assert (batch.contexts.input_ids == contexts.input_ids[ids, :length]).all()
    assert (batch.contexts.maskable == contexts.maskable[ids, :length]).all()
    assert len(set(zip(ids.tolist(), batch.positions.tolist(), strict=True))) == buffer.tokens()


def test_priority_is_softmax_of_surprise_over_root_of_repeats():
    buffer = buffer_of(4, priority=True)
    ids = np.array([[7, 7, 8, 9], [5, 5, 5, 5]], dtype=np.int32)
    all_true = np.ones((2, 4), dtype=bool)
    contexts = Contexts(ids, all_true, ids * 0, all_true, np.arange(2), np.full(2, 2))
    masks = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)
    credits = np.where(masks, np.array([[1.0], [0.5]]), np.nan)
    buffer.add(contexts, masks, np.zeros((2, 4)), credits, np.array([0.0, 0.0]))
    expected = np.array([np.e / np.sqrt(2), np.e, np.exp(0.5) / 2])
    expected /= expected.sum()
    batch = buffer.sample_tokens(30_000)
    key = batch.contexts.context_ids * 4 + batch.positions
    seen = np.array([(key == k).mean() for k in (0, 2, 4)])
    assert np.allclose(seen, expected, atol=0.01)
    buffer.update_surprise(batch.entries[key == 4][:1], np.array([20.0]))
    batch = buffer.sample_tokens(100)
    assert (batch.contexts.context_ids == 1).all()


@pytest.mark.parametrize("normalise", [True, False])
def test_credits_are_in_units_of_their_root_mean_square_where_wanted(normalise):
    buffer = buffer_of(13, normalise=normalise)
    masks, _, credits = play(buffer, some_contexts(20, 13))
    scale = np.sqrt(np.nanmean(credits[masks] ** 2)) if normalise else 1.0
    batch = buffer.sample_tokens(100)
    assert np.isclose(buffer.credit_scale(), scale)
    assert np.allclose(batch.credits * scale, batch.contexts.context_ids * 100 + batch.positions)


def test_memory_of_a_play_is_small_and_contexts_are_stored_once():
    length, tokens = 512, 25
    buffer = buffer_of(length, 50_000, contexts=50)
    contexts = some_contexts(10, length)
    noise = np.where(contexts.maskable, np.random.default_rng(0).random((10, length)), -1)
    masks = noise.argsort(1).argsort(1) >= length - tokens
    zeros = np.zeros((10, length))
    for _ in range(3):
        buffer.add(contexts, masks, zeros, zeros, np.zeros(10))
    dense = DictReplayBuffer(1, observation_space(length, 30_522), action_space(length))
    kept = [*dense.observations.values(), *dense.next_observations.values(), dense.actions]
    kept += [dense.rewards, dense.dones, dense.timeouts]
    assert sum(array.nbytes for array in kept) == 10_780  # as the documents say
    arrays, _ = buffer.state()
    plays = [array[:1] for name, array in arrays.items() if name.startswith("plays.")]
    assert sum(array.nbytes for array in plays) == 419
    assert (arrays["table.ids"] >= 0).sum() == 10
    assert buffer.tokens() == 3 * 10 * tokens


def test_old_plays_and_old_contexts_make_room():
    buffer = buffer_of(9, capacity=60, contexts=40)  # of 3 tokens of a play two have a credit
    for episode in range(6):
        play(buffer, some_contexts(15, 9, first_id=15 * episode, seed=episode), seed=episode)
    batch = buffer.sample_tokens(400)
    assert (batch.credits == batch.contexts.context_ids * 100 + batch.positions).all()
    assert set(batch.contexts.context_ids.tolist()) <= set(range(50, 90))
    assert 60 <= buffer.tokens() <= 90
    with pytest.raises(ValueError, match="raise replay_capacity"):
        play(buffer, some_contexts(200, 9, first_id=900))


@pytest.mark.parametrize("learners", [1, 2])
def test_uneven_masks_fill_the_capacity_all_the_same(learners):
    buffer = buffer_of(20, capacity=200 * learners, contexts=10_000, learners=learners)
    rng = np.random.default_rng(0)
    for episode in range(40):
        contexts = some_contexts(10, 20, first_id=10 * episode, seed=episode)
        for player in range(learners):
            wanted = np.where(np.arange(10), 1 + player, 8)  # the first mask is the widest
            noise = np.where(contexts.maskable, rng.random(contexts.maskable.shape), -1)
            masks = noise.argsort(1).argsort(1) >= 20 - wanted[:, None]
            credits = np.where(masks, contexts.context_ids[:, None] * 100 + np.arange(20), np.nan)
            buffer.add(contexts, masks, 0.0 * masks, credits, np.zeros(10), player)
            assert buffer.forgets or buffer.tokens() == 17 * (episode + 1)
    assert buffer.tokens() <= 250
    for player in range(learners):
        assert buffer.tokens(player) >= 200
        batch = buffer.sample_tokens(2000, player)
        assert (batch.credits == batch.contexts.context_ids * 100 + batch.positions).all()
        kept = sorted(set(batch.contexts.context_ids.tolist()))
        assert kept == list(range(kept[0], 400))  # the newest ones


def test_players_are_kept_apart():
    buffer = buffer_of(9)
    play(buffer, some_contexts(5, 9), player=0)
    play(buffer, some_contexts(5, 9, first_id=50), player=1)
    assert (buffer.sample_tokens(50, player=0).contexts.context_ids < 50).all()
    assert (buffer.sample_tokens(50, player=1).contexts.context_ids >= 50).all()
    assert (buffer.sample_contexts(50).contexts.context_ids < 50).all()


def test_restored_buffer_continues_with_the_same_samples():
    buffer, other = buffer_of(9, seed=3), buffer_of(9, seed=8)
    play(buffer, some_contexts(12, 9))
    other.load_state(*buffer.state())
    play(buffer, some_contexts(12, 9, first_id=6), seed=1)
    play(other, some_contexts(12, 9, first_id=6), seed=1)
    for _ in range(3):
        mine, theirs = buffer.sample_tokens(20), other.sample_tokens(20)
        assert (mine.entries == theirs.entries).all()
        assert (mine.contexts.input_ids == theirs.contexts.input_ids).all()


def test_word_ids_count_through_a_whole_document():
    contexts = some_contexts(5, 9)
    far = np.where(contexts.attention_mask, contexts.word_ids + 40_000, -1).astype(np.int32)
    buffer = buffer_of(9)
    play(buffer, replace(contexts, word_ids=far))
    batch = buffer.sample_contexts(50).contexts
    assert batch.word_ids.dtype == np.int32
    assert (batch.word_ids == far[batch.context_ids, : batch.word_ids.shape[1]]).all()


def test_a_state_with_narrower_word_ids_is_read():
    buffer, other = buffer_of(9), buffer_of(9)
    play(buffer, some_contexts(5, 9))
    arrays, rest = buffer.state()
    other.load_state(arrays | {"table.word_ids": arrays["table.word_ids"].astype(np.int16)}, rest)
    play(other, some_contexts(5, 9, first_id=5), seed=1)
    assert other.sample_contexts(50).contexts.word_ids.dtype == np.int32


def test_occurrences_counts_within_the_row():
    values = np.array([[3, 4, 3, 3], [4, 3, 0, 0]])
    counted = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
    assert occurrences(values, counted).tolist() == [[2, 1, 2, 0], [1, 1, 0, 0]]


def test_a_newer_text_with_an_older_one_s_id_takes_its_place():
    buffer, contexts = buffer_of(13), some_contexts(20, 13)
    play(buffer, contexts)
    other = some_contexts(20, 13, seed=5)
    one = other.rows(slice(3, 4))
    assert (one.input_ids != contexts.input_ids[3]).any()
    play(buffer, one, seed=1)
    restored = buffer_of(13)
    restored.load_state(*buffer.state())
    for memory in (buffer, restored):
        for batch in (memory.sample_tokens(2000), memory.sample_contexts(2000)):
            of_it = batch.contexts.context_ids == one.context_ids[0]
            length = batch.contexts.input_ids.shape[1]
            assert of_it.any()
            assert (batch.contexts.input_ids[of_it] == one.input_ids[0, :length]).all()
