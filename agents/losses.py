"""The actor's objective: expected value, exactly or from replayed tokens, and entropy.

Shapes: N contexts of a batch, one replayed token of each, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents import budgeted
from agents.features import TokenFeatures
from agents.policy import MaskingNetwork, network_inputs
from agents.replay_buffer import ReplayBatch
from agents.settings import AgentSettings


def masking_losses(
    network: MaskingNetwork,
    features: TokenFeatures,
    batch: ReplayBatch,
    value_weights_D: Tensor,
    settings: AgentSettings,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The weighted terms of the loss, and with a state value how wrong it was for each token.

    Args:
        network: whose loss.
        features: what describes the tokens.
        batch: contexts; with ``gradient="sampled"``, a masked token of each.
        value_weights_D: of the token values, for the decomposed critic.
        settings: which terms, and their weights.
    """
    ids_NL, real_NL = network_inputs(batch.contexts, value_weights_D.device)
    maskable_NL = torch.as_tensor(batch.contexts.maskable, device=ids_NL.device)
    phi_NLD = features(batch.contexts)
    log_probs_NL = budgeted.token_log_probs(network(phi_NLD, ids_NL, real_NL), maskable_NL)
    terms = {"entropy": -settings.entropy * budgeted.entropy(log_probs_NL).mean()}
    value_NL = (phi_NLD @ value_weights_D).clamp(max=settings.value_limit)
    value_NL = value_NL.masked_fill(~maskable_NL, 0.0)
    expected_N = expected_value(log_probs_NL, value_NL)
    if settings.gradient == "expected":
        return terms | {"policy": -expected_N.mean()}, None
    at_N1 = torch.as_tensor(batch.positions, device=ids_NL.device)[:, None]
    error_N = None
    if settings.critic == "decomposed":
        advantage_N = (value_NL.gather(1, at_N1).squeeze(1) - expected_N).detach()
    else:
        credit_N = torch.as_tensor(batch.credits, device=ids_NL.device)
        error_N = credit_N - network.state_value(phi_NLD, real_NL)
        terms["value"] = settings.value_weight * error_N.square().mean()
        advantage_N = error_N.detach()
    log_prob_N = log_probs_NL.gather(1, at_N1).squeeze(1)
    behaviour_N = torch.as_tensor(batch.log_probs, device=ids_NL.device)
    gain_N = sampled_gain(log_prob_N, behaviour_N, advantage_N, settings)
    return terms | {"policy": -gain_N.mean()}, error_N


def expected_value(log_probs_NL: Tensor, value_NL: Tensor) -> Tensor:
    """Value of the first token drawn, expected under the policy, (N,)."""
    return (log_probs_NL.exp() * value_NL).sum(dim=1)


def sampled_gain(
    log_prob_N: Tensor, behaviour_N: Tensor, advantage_N: Tensor, settings: AgentSettings
) -> Tensor:
    """What to maximise when tokens were drawn by an older policy, (N,).

    Args:
        log_prob_N: of the tokens under the policy.
        behaviour_N: of the tokens when they were drawn.
        advantage_N: how much better than expected they turned out, without gradient.
        settings: ``importance`` and its limit.
    """
    if settings.importance == "none":
        return log_prob_N * advantage_N
    ratio_N = (log_prob_N - behaviour_N).exp()
    limit = settings.importance_limit
    if settings.importance == "truncated":
        return ratio_N.detach().clamp(max=limit) * log_prob_N * advantage_N
    near_N = ratio_N.clamp(2 - limit, limit)
    return torch.minimum(ratio_N * advantage_N, near_N * advantage_N)
