"""What the actor minimises, exactly or from replayed tokens.

*Default*. With q(s, a) the decomposed critic's value of token a in context s,

    loss = - sum over a of pi(a|s) min(q(s, a) / sd(q), limit)  -  entropy * H(pi(.|s)).

*Paper*. With a token drawn with probability b(a|s), credited r, and V(s) expected of the context,

    loss = - min(pi(a|s) / b(a|s), c) * log pi(a|s) * (r - V(s)) + 1/4 (r - V(s))^2 - 0.01 H(pi),

where the ratio carries no gradient.

Shapes: N entries of a batch, each a context and perhaps a replayed token of it, U different
contexts among them, L tokens.
"""

from __future__ import annotations

import numpy as np
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
    """The weighted terms of the loss, and with a state value how far from it each credit was, (N,).

    Args:
        network: whose loss.
        features: what describes the tokens.
        batch: contexts; with ``gradient="sampled"``, a masked token of each.
        value_weights_D: of the token values, for the decomposed critic.
        settings: which terms, and their weights.
    """
    # Tokens of one context are replayed together: it is scored once.
    _, first_U, place_N = np.unique(
        batch.contexts.context_ids, return_index=True, return_inverse=True
    )
    contexts = batch.contexts.rows(first_U)
    ids_UL, real_UL = network_inputs(contexts, value_weights_D.device)
    device = ids_UL.device
    maskable_UL = torch.as_tensor(contexts.maskable, device=device)
    of_N = torch.as_tensor(place_N, device=device)
    phi_ULD = features(contexts)
    log_probs_UL = budgeted.token_log_probs(network(phi_ULD, ids_UL, real_UL), maskable_UL)
    terms = {"entropy": -settings.entropy * budgeted.entropy(log_probs_UL)[of_N].mean()}
    value_UL = (phi_ULD @ value_weights_D).clamp(max=settings.value_limit)
    value_UL = value_UL.masked_fill(~maskable_UL, 0.0)
    expected_N = expected_value(log_probs_UL, value_UL)[of_N]
    if settings.gradient == "expected":
        return terms | {"policy": -expected_N.mean()}, None
    at_N = torch.as_tensor(batch.positions, device=device)
    surprise_N = None
    if settings.critic == "decomposed":
        advantage_N = (value_UL[of_N, at_N] - expected_N).detach()
    else:
        credit_N = torch.as_tensor(batch.credits, device=device)
        error_N = credit_N - network.state_value(phi_ULD, real_UL)[of_N]
        terms["value"] = settings.value_weight * error_N.square().mean()
        advantage_N = error_N.detach()
        surprise_N = advantage_N.abs()
    log_prob_N = log_probs_UL[of_N, at_N]
    behaviour_N = torch.as_tensor(batch.log_probs, device=device)
    gain_N = sampled_gain(log_prob_N, behaviour_N, advantage_N, settings)
    return terms | {"policy": -gain_N.mean()}, surprise_N


def expected_value(log_probs_UL: Tensor, value_UL: Tensor) -> Tensor:
    """Value of the first token drawn, expected under the policy, (U,)."""
    return (log_probs_UL.exp() * value_UL).sum(dim=1)


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
