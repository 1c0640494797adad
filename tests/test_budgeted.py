"""The budgeted distribution against enumeration."""

from itertools import permutations

import numpy as np
import torch

from agents import budgeted


def enumerate_masks(probs, maskable, budget):
    """Exact probability of every mask when tokens are drawn one after the other."""
    tokens = [t for t in range(len(probs)) if maskable[t]]
    masks = {}
    for order in permutations(tokens, budget):
        left, chance = sum(probs[t] for t in tokens), 1.0
        for token in order:
            chance *= probs[token] / left
            left -= probs[token]
        key = tuple(sorted(order))
        masks[key] = masks.get(key, 0.0) + chance
    return masks


def test_sampling_without_replacement_has_the_enumerated_frequencies():
    scores, maskable = np.array([1.0, 0.0, -1.0, 0.5, 9.0]), np.array([1, 1, 1, 1, 0], bool)
    exact = enumerate_masks(np.exp(scores), maskable, 2)
    draws = 40_000
    noise_BL = np.random.default_rng(0).gumbel(size=(draws, 5))
    masks_BL = budgeted.sample(
        torch.tensor(scores).expand(draws, 5),
        torch.tensor(maskable).expand(draws, 5),
        torch.full((draws,), 2),
        noise_BL,
    )
    assert masks_BL.sum(1).unique().tolist() == [2]
    for mask, chance in exact.items():
        seen = masks_BL[:, list(mask)].all(1).double().mean().item()
        assert abs(seen - chance) < 4 * np.sqrt(chance * (1 - chance) / draws)


def test_token_log_probs_are_the_chances_of_the_first_draw():
    scores, maskable = [2.0, 0.0, -3.0, 5.0], [True, True, True, False]
    exact = enumerate_masks(np.exp(scores), maskable, 1)
    log_probs = budgeted.token_log_probs(torch.tensor([scores]), torch.tensor([maskable]))[0]
    for (token,), chance in exact.items():
        assert abs(log_probs[token].exp().item() - chance) < 1e-6
    assert log_probs[3] == -torch.inf
    entropy = budgeted.entropy(log_probs[None])[0].item()
    assert abs(entropy + sum(p * np.log(p) for p in exact.values())) < 1e-6


def test_budget_is_cut_to_the_maskable_tokens_and_a_score_of_zero_is_a_score():
    scores_BL = torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, -1.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    maskable_BL = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    masks_BL = budgeted.top_k(scores_BL, maskable_BL, torch.tensor([3, 2, 2]))
    assert masks_BL.int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    log_probs_BL = budgeted.token_log_probs(scores_BL, maskable_BL)
    assert not log_probs_BL.isnan().any()
    assert budgeted.entropy(log_probs_BL)[2] == 0
