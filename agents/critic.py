"""A critic that explains scores as sums over masked tokens.

Runs of one episode share contexts, data and seeds; they differ in their masks. The model says

    score(run) = a(episode) + 1/n * sum over its masked tokens of  w . phi(token) + noise,

n being the number of tokens that the fullest mask of the episode has. (The sums come from outside,
where a word that a run masks again and again may count for less.) Centring within the episode
removes a(episode) and is the same as using all pairs of its runs: every run teaches, whoever made
it. w has a Gaussian prior and the noise variance an inverse-gamma one, so everything is closed
form (Bishop 2006, section 3.3-3.5): Bayesian linear regression from sums of squares, whose cost
does not grow with the number of episodes.

How strong the prior is and which tokens' properties may matter is decided by the evidence: each
*hypothesis* (kinds of input used, how fast the prior falls along the principal components,
strength) is weighted by its marginal likelihood. A posterior sample first draws a hypothesis, then
weights: "only rarity matters" is a small hypothesis that needs few episodes, and it is tried
before the large ones are given up.

Shapes: R runs, D components of a token, P = D + 1 (the last one counts masked tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STRENGTHS = np.logspace(-1.0, 3.0, 9)
"""Prior variance of a token's value, in units of the noise variance of a score."""
POWERS = (0.0, 0.5, 1.0, 2.0)
"""Prior variance of a component falls as its share of variance to this power."""
PRIOR_COUNT = 1.0
"""Shape of the inverse-gamma prior of the noise variance."""


@dataclass(frozen=True, eq=False)
class _Hypothesis:
    """One choice of components and prior scale, solved for all strengths at once."""

    used: np.ndarray
    scale: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    target: np.ndarray
    log_evidence: np.ndarray
    """One a strength."""
    rate: np.ndarray
    """Rate of the noise variance's posterior, one a strength."""

    def mean(self, weights_S: np.ndarray) -> np.ndarray:
        """Expected weights of the components used, summed over strengths with these weights."""
        strengths = STRENGTHS[:, None]
        shrink = weights_S @ (strengths / (1 + strengths * self.values))
        return self.scale * (self.vectors @ (shrink * self.target))


class TokenValueCritic:
    """Bayesian value of masking a token, learned from the scores of whole masks.

    Args:
        share_D: relative variance of each component within its kind of input.
        group_D: kind of input of each component.
        covariance_DD: of the components over tokens.
    """

    def __init__(self, share_D: np.ndarray, group_D: np.ndarray, covariance_DD: np.ndarray) -> None:
        self.share_D, self.group_D, self.covariance_DD = share_D, group_D, covariance_DD
        size = len(share_D) + 1
        self.gram_PP = np.zeros((size, size))
        self.cross_P = np.zeros(size)
        self.power = 0.0
        self.rows = 0
        # Runs without a companion share one intercept, their mean.
        self.lone_P = np.zeros(size + 1)
        self.lone_rows = 0
        self._solution: tuple[list[_Hypothesis], np.ndarray] | None = None

    def observe(self, masked_RD: np.ndarray, count_R: np.ndarray, score_R: np.ndarray) -> None:
        """Learn from the runs of one episode.

        Args:
            masked_RD: components summed over the masked tokens of each run.
            count_R: masked tokens of each run.
            score_R: higher is better.
        """
        rows_RP = np.column_stack([masked_RD, count_R]) / max(float(count_R.max()), 1.0)
        if len(score_R) == 1:
            self._observe_lone(rows_RP[0], float(score_R[0]))
        else:
            x_RP, y_R = rows_RP - rows_RP.mean(axis=0), score_R - score_R.mean()
            self._accumulate(x_RP, y_R)
            self.rows += len(y_R) - 1
        self._solution = None

    def _observe_lone(self, x_P: np.ndarray, y: float) -> None:
        """Welford's update: the sums of squares about a mean that moves."""
        point = np.append(x_P, y)
        self.lone_rows += 1
        before = point - self.lone_P
        self.lone_P += before / self.lone_rows
        weight = np.sqrt((self.lone_rows - 1) / self.lone_rows)
        self._accumulate(weight * before[None, :-1], weight * before[None, -1])
        self.rows += self.lone_rows > 1

    def _accumulate(self, x_RP: np.ndarray, y_R: np.ndarray) -> None:
        self.gram_PP += x_RP.T @ x_RP
        self.cross_P += x_RP.T @ y_R
        self.power += float(y_R @ y_R)

    def mean(self) -> np.ndarray:
        """Expected weights, averaged over the hypotheses, (D,)."""
        hypotheses, weights_HS = self._solve()
        total = np.zeros(len(self.cross_P))
        for hypothesis, weights_S in zip(hypotheses, weights_HS, strict=True):
            total[hypothesis.used] += hypothesis.mean(weights_S)
        return total[:-1]

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Weights drawn from the posterior, (D,)."""
        hypotheses, weights_HS = self._solve()
        flat = int(rng.choice(weights_HS.size, p=weights_HS.reshape(-1)))
        number, strength = divmod(flat, len(STRENGTHS))
        hypothesis = hypotheses[number]
        variance = hypothesis.rate[strength] / rng.gamma(PRIOR_COUNT + self.rows / 2)
        s, only = STRENGTHS[strength], np.eye(len(STRENGTHS))[strength]
        spread = np.sqrt(variance * s / (1 + s * hypothesis.values))
        noise = hypothesis.vectors @ (spread * rng.standard_normal(len(spread)))
        total = np.zeros(len(self.cross_P))
        total[hypothesis.used] = hypothesis.mean(only) + hypothesis.scale * noise
        return total[:-1]

    def summary(self) -> dict[str, float]:
        """Figures for the log: noise of a score, spread over tokens of their expected value."""
        hypotheses, weights_HS = self._solve()
        rate = sum(float(w @ h.rate) for h, w in zip(hypotheses, weights_HS, strict=True))
        noise = np.sqrt(rate / (PRIOR_COUNT + self.rows / 2))
        mean_D = self.mean()
        spread = np.sqrt(max(mean_D @ self.covariance_DD @ mean_D, 0.0))
        return {"noise": float(noise), "value_spread": float(spread)}

    def _solve(self) -> tuple[list[_Hypothesis], np.ndarray]:
        if self._solution is None:
            hypotheses = [self._hypothesis(used, power) for used, power in self._choices()]
            evidence_HS = np.stack([h.log_evidence for h in hypotheses])
            weights_HS = np.exp(evidence_HS - evidence_HS.max())
            self._solution = hypotheses, weights_HS / weights_HS.sum()
        return self._solution

    def _choices(self) -> list[tuple[np.ndarray, float]]:
        """Each kind of input alone and all together, with each prior shape that differs."""
        kinds = np.unique(self.group_D)
        subsets = [self.group_D == kind for kind in kinds]
        if len(kinds) > 1:
            subsets.append(np.ones(len(self.group_D), dtype=bool))
        choices = []
        for subset in subsets:
            used = np.flatnonzero(subset & (self.share_D > 0))
            flat = len(used) == 0 or np.ptp(self.share_D[used]) == 0
            choices += [(used, power) for power in (POWERS[:1] if flat else POWERS)]
        return choices

    def _hypothesis(self, components: np.ndarray, power: float) -> _Hypothesis:
        scale = self.share_D[components] ** (power / 2)
        spread = np.diag(self.covariance_DD)[components] @ scale**2
        scale = np.append(scale / np.sqrt(max(spread, 1e-12)), 1.0)
        used = np.append(components, len(self.cross_P) - 1)
        gram = scale[:, None] * self.gram_PP[np.ix_(used, used)] * scale
        values, vectors = np.linalg.eigh(gram)
        values = np.maximum(values, 0.0)
        target = vectors.T @ (scale * self.cross_P[used])
        s = STRENGTHS[:, None]
        explained = (s * target**2 / (1 + s * values)).sum(axis=1)
        shape = PRIOR_COUNT + self.rows / 2
        # The prior of the noise is set to the size of the scores, so their unit does not matter.
        typical = self.power / max(self.rows, 1) or 1.0
        rate = 0.5 * (PRIOR_COUNT * typical + np.maximum(self.power - explained, 0.0))
        log_evidence = -0.5 * np.log1p(s * values).sum(axis=1) - shape * np.log(rate)
        return _Hypothesis(used, scale, vectors, values, target, log_evidence, rate)

    def state(self) -> dict[str, np.ndarray]:
        """The sums of squares and what they are about, as arrays."""
        return {
            "share": self.share_D,
            "group": self.group_D,
            "covariance": self.covariance_DD,
            "gram": self.gram_PP,
            "cross": self.cross_P,
            "power": np.array([self.power]),
            "lone": self.lone_P,
            "rows": np.array([self.rows, self.lone_rows]),
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> TokenValueCritic:
        """The critic that ``state`` was asked of."""
        critic = cls(*(arrays[name].copy() for name in ("share", "group", "covariance")))
        critic.gram_PP, critic.cross_P = arrays["gram"].copy(), arrays["cross"].copy()
        critic.power, critic.lone_P = float(arrays["power"][0]), arrays["lone"].copy()
        critic.rows, critic.lone_rows = (int(value) for value in arrays["rows"])
        return critic
