"""Strategies that give each token a score and mask the best or sample by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from agents.strategies.base import Batch, Observation, Spans, Strategy
from agents.strategies.counts import Word
from agents.strategies.selection import add_spans, gumbel, highest, uniform_draws


class Scored(Strategy):
    """Masks by a score per token; a subclass gives ``scores``.

    Args:
        words: mask whole words, by the mean score of their tokens.
        sample: draw without replacement, tokens weighing ``exp(score)``, instead of taking the
            highest scores. Ties of the highest scores are broken at random.
        seed: of the draws and the ties.
    """

    def __init__(self, *, words: bool = False, sample: bool = False, seed: int = 0) -> None:
        super().__init__(seed)
        self.words, self.sample = words, sample

    def scores(self, batch: Batch) -> np.ndarray:
        """A number per token, float (B, L); ``-inf`` where a token must stay."""
        raise NotImplementedError

    def choose(self, batch: Batch, deterministic: bool) -> np.ndarray:
        scores_BL = self.scores(batch)
        if np.isnan(scores_BL[batch.maskable_BL]).any():
            raise ValueError(f"{type(self).__name__} was given scores that are not numbers (NaN).")
        if self.words:
            return self._choose_words(batch, scores_BL, deterministic)
        if deterministic:
            return highest(batch, scores_BL)
        draws_BL = uniform_draws(batch, self._rng)
        if self.sample:
            return highest(batch, scores_BL + gumbel(draws_BL))
        return highest(batch, scores_BL, ties_BL=draws_BL)

    def _choose_words(self, batch: Batch, scores_BL: np.ndarray, deterministic: bool) -> np.ndarray:
        mask_BL = np.zeros_like(batch.maskable_BL)
        for mask_L, scores_L, view in zip(mask_BL, scores_BL, batch.views(), strict=True):
            means = span_means(scores_L, view.words)
            order = self._order(means, deterministic)
            order = order[means[order] > -np.inf]
            add_spans(mask_L, view, (view.words[0][order], view.words[1][order]))
        return mask_BL

    def _order(self, scores: np.ndarray, deterministic: bool) -> np.ndarray:
        if deterministic:
            return np.argsort(-scores, kind="stable")
        draws = self._rng.random(len(scores))
        if self.sample:
            return np.argsort(-(scores + gumbel(draws)))
        return np.lexsort((draws, -scores))


def span_means(scores_L: np.ndarray, spans: Spans) -> np.ndarray:
    """Mean score of each span (in reading order, none empty), (N,)."""
    starts, ends = spans
    if len(starts) == 0:
        return np.zeros(0)
    padded = np.append(scores_L, 0.0)
    bounds = np.stack([starts, ends], axis=1).ravel()
    low, high, total = (
        reduce(padded, bounds)[::2]
        for reduce in (np.minimum.reduceat, np.maximum.reduceat, np.add.reduceat)
    )
    # Equal scores must give equal means, or rounding would rank ties by the length of the word.
    return np.where(low == high, low, total / (ends - starts))


class Table(Scored):
    """Ranks tokens by a value per token id.

    ``idf`` is this with ``inverse_document_frequency``: the rarest tokens (Spärck Jones 1972);
    ``common`` is this with its negative: the most frequent ones, a control.

    Args:
        table_V: score of each token id, (V,).
        options: see ``Scored``.
    """

    def __init__(
        self,
        table_V: np.ndarray,
        *,
        words: bool = False,
        sample: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(words=words, sample=sample, seed=seed)
        self.table_V = np.asarray(table_V, float)

    def scores(self, batch: Batch) -> np.ndarray:
        return self.table_V[batch.input_ids_BL]


def rarity(counts_V: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Log-weights of sampling rare tokens more often, (V,), for ``Table(..., sample=True)``.

    Weights fall with the ``power`` of the corpus count; the square root is the choice of
    Conneau and Lample 2019 (XLM, section 3.3). Unseen tokens count as seen once.
    """
    return -power * np.log(np.maximum(counts_V, 1))


def domain_anchors(
    domain_counts_V: np.ndarray, reference_idf_V: np.ndarray, n_anchors: int = 20
) -> np.ndarray:
    """Token ids that set a domain apart, by TF-ICF (Reed et al. 2006), as in Difference-Masking
    (Wilf et al. 2023).

    TF-ICF(t) = f(t) / sum of f * ln((1 + N) / (1 + n(t))): often in the domain, in few texts of
    the reference corpus. f counts tokens of the domain; n(t) of the N reference texts hold t.

    Args:
        domain_counts_V: token counts of the domain, (V,).
        reference_idf_V: inverse document frequency over the contexts of a general corpus, (V,).
        n_anchors: how many ids to return, best first; fewer if the domain has fewer types.
    """
    frequency_V = domain_counts_V / max(int(domain_counts_V.sum()), 1)
    score_V = frequency_V * reference_idf_V
    order = np.argsort(-score_V, kind="stable")[:n_anchors]
    return order[score_V[order] > 0]


def anchor_similarity(embeddings_VD: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Log of each token's cosine similarity to its nearest anchor, (V,), for ``Table``.

    With ``sample=True`` a token is masked in proportion to the similarity, as Difference-Masking
    does; tokens at right angles to all anchors, or beyond, count as 0.01.
    """
    norms_V1 = np.linalg.norm(embeddings_VD, axis=1, keepdims=True)
    unit_VD = embeddings_VD / np.maximum(norms_V1, 1e-12)
    nearest_V = (unit_VD @ unit_VD[anchors].T).max(1)
    return np.log(np.maximum(nearest_V, 0.01))


class ByFunction(Scored):
    """Masks the tokens a given function scores highest.

    For ``entropy``, the function is the entropy of the language model's prediction at each token
    (entropy-aware masking, arXiv 2605.28526): the model is most in doubt there.

    Args:
        function: observation -> scores of the shape of its ``input_ids``: it is handed what
            ``predict`` got, one observation or a batch.
        options: see ``Scored``.
    """

    def __init__(
        self,
        function: Callable[[Observation], np.ndarray],
        *,
        words: bool = False,
        sample: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(words=words, sample=sample, seed=seed)
        self.function = function

    def scores(self, batch: Batch) -> np.ndarray:
        scores_BL = np.atleast_2d(np.asarray(self.function(batch.observation), float))
        if scores_BL.shape != batch.input_ids_BL.shape:
            raise ValueError(
                f"The score function gave shape {scores_BL.shape} for tokens of shape "
                f"{batch.input_ids_BL.shape}; it must give one number for each token."
            )
        return scores_BL


class Keywords(Scored):
    """Whole words by tf-idf within their context, best first.

    Masking keywords instead of random words is the proposal of Golchin et al. 2023 ("Do not Mask
    Randomly", arXiv 2307.07160), who find them with KeyBERT; tf-idf needs no second model.

    Args:
        idf: inverse document frequency of each word (tuple of token ids).
        unseen: idf of a word that is not in ``idf``.
        sample: see ``Scored``.
        seed: of the draws and the ties.
    """

    def __init__(
        self,
        idf: Mapping[Word, float],
        unseen: float,
        *,
        sample: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(words=True, sample=sample, seed=seed)
        self.idf, self.unseen = idf, unseen

    def scores(self, batch: Batch) -> np.ndarray:
        scores_BL = np.zeros(batch.input_ids_BL.shape)
        for scores_L, view in zip(scores_BL, batch.views(), strict=True):
            words = view.word_types()
            counts = Counter(words)
            values = [counts[word] / len(words) * self.idf.get(word, self.unseen) for word in words]
            for start, end, value in zip(*view.words, values, strict=True):
                scores_L[start:end] = value
        return scores_BL
