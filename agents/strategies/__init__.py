"""Masking strategies: scores or spans per token, then selection within the budget.

``make_strategy`` makes one by name; the classes take what they need directly.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.strategies.base import Observation, Strategy
from agents.strategies.collocations import Collocations, pmi_units
from agents.strategies.counts import (
    ContextLike,
    inverse_document_frequency,
    token_counts,
    word_idf,
)
from agents.strategies.entities import Entities, Punctuation, Salient
from agents.strategies.plain import Fragment, GeometricSpans, NoMask, RandomTokens, WholeWords
from agents.strategies.recurring import RecurringSpans
from agents.strategies.schedules import CosineDecay, CyclicDecay, LinearDecay, Masks, Scheduled
from agents.strategies.scored import (
    ByFunction,
    Keywords,
    Scored,
    Table,
    anchor_similarity,
    domain_anchors,
    rarity,
)
from agents.strategies.shuffled import ShuffledPolicy
from agents.strategies.wording import is_punctuation, keeps_case, name_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "STRATEGIES",
    "ByFunction",
    "Collocations",
    "CosineDecay",
    "CyclicDecay",
    "Entities",
    "Fragment",
    "GeometricSpans",
    "Keywords",
    "LinearDecay",
    "NoMask",
    "Punctuation",
    "RandomTokens",
    "RecurringSpans",
    "Salient",
    "Scheduled",
    "Scored",
    "ShuffledPolicy",
    "Strategy",
    "Table",
    "WholeWords",
    "make_strategy",
]


@dataclass(frozen=True)
class _Given:
    """What ``make_strategy`` was given; a strategy that needs a missing part says so."""

    name: str
    tokenizer: PreTrainedTokenizerBase | None
    contexts: Sequence[ContextLike] | None
    reference_contexts: Sequence[ContextLike] | None
    texts: Iterable[str] | None
    embeddings: np.ndarray | None
    entropy: Callable[[Observation], np.ndarray] | None
    policy: Masks | None
    observation: Observation | None
    seed: int

    def need(self, part: str) -> Any:
        value = getattr(self, part)
        if value is None:
            raise ValueError(
                f"The strategy {self.name!r} needs {part}, which is given in Python: "
                f"make_strategy({self.name!r}, {part}=...)."
            )
        return value

    def counts(self) -> np.ndarray:
        return token_counts(self.need("contexts"), len(self.need("tokenizer")))

    def idf(self, part: str = "contexts") -> np.ndarray:
        return inverse_document_frequency(self.need(part), len(self.need("tokenizer")))

    def names(self) -> frozenset[str] | None:
        if self.texts is None or keeps_case(self.need("tokenizer")):
            return None
        return name_words(self.texts)


def _difference(given: _Given, n_anchors: int = 20, **options: Any) -> Strategy:
    counts_V, tokenizer = given.counts(), given.need("tokenizer")
    special = set(tokenizer.all_special_ids)
    for token in np.flatnonzero(counts_V).tolist():
        # Marks that a domain is fond of ("%") set it apart, too, but only words are anchors.
        if token in special or is_punctuation(tokenizer.decode([token]).strip()):
            counts_V[token] = 0
    anchors = domain_anchors(counts_V, given.idf("reference_contexts"), n_anchors)
    if not len(anchors):
        raise ValueError(
            "The strategy 'difference' found no word of the domain that any reference context "
            "lacks; give more reference_contexts, of general text."
        )
    table_V = anchor_similarity(np.asarray(given.need("embeddings")), anchors)
    return Table(table_V, seed=given.seed, **{"sample": True, **options})


def _rare(given: _Given, power: float = 0.5, **options: Any) -> Strategy:
    return Table(rarity(given.counts(), power), seed=given.seed, **{"sample": True, **options})


def _pmi(given: _Given, **options: Any) -> Strategy:
    return Collocations(pmi_units(given.need("contexts"), **options), seed=given.seed)


def _entity(given: _Given, **options: Any) -> Strategy:
    options = {"names": given.names(), **options}
    return Entities(given.need("tokenizer"), seed=given.seed, **options)


def _salient(given: _Given, **options: Any) -> Strategy:
    options = {"names": given.names(), **options}
    return Salient(given.need("tokenizer"), seed=given.seed, **options)


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "none": lambda given: NoMask(),
    "random": lambda given: RandomTokens(given.seed),
    "whole_word": lambda given: WholeWords(given.seed),
    "span": lambda given, **options: GeometricSpans(seed=given.seed, **options),
    "mass": lambda given: Fragment(given.seed),
    "entity": _entity,
    "salient": _salient,
    "punctuation": lambda given, **options: Punctuation(
        given.need("tokenizer"), seed=given.seed, **options
    ),
    "recurring": lambda given, **options: RecurringSpans(
        given.need("tokenizer"), seed=given.seed, **options
    ),
    "idf": lambda given, **options: Table(given.idf(), seed=given.seed, **options),
    "common": lambda given, **options: Table(-given.idf(), seed=given.seed, **options),
    "rare": _rare,
    "keyword": lambda given, **options: Keywords(
        *word_idf(given.need("contexts")), seed=given.seed, **options
    ),
    "pmi": _pmi,
    "difference": _difference,
    "entropy": lambda given, **options: ByFunction(
        given.need("entropy"), seed=given.seed, **options
    ),
    "shuffled": lambda given: ShuffledPolicy(
        given.need("policy"), given.need("observation"), seed=given.seed
    ),
}
"""Name -> maker; the names of the command line."""


def strategy_key(name: str) -> str:
    """The key of ``STRATEGIES`` that a user means.

    Raises:
        ValueError: if there is none.
    """
    key = name.replace("-", "_")
    if key == "adversarial":
        raise ValueError(
            "'adversarial' masking learns while a model trains: nmg adapt and nmg test take it; "
            "the folder that nmg adapt leaves is a policy."
        )
    if key not in STRATEGIES:
        near = difflib.get_close_matches(key, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"There is no strategy {name!r}{hint} Known strategies: {', '.join(STRATEGIES)}."
        )
    return key


def make_strategy(
    name: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    contexts: Sequence[ContextLike] | None = None,
    reference_contexts: Sequence[ContextLike] | None = None,
    texts: Iterable[str] | None = None,
    embeddings: np.ndarray | None = None,
    entropy: Callable[[Observation], np.ndarray] | None = None,
    policy: Masks | None = None,
    observation: Observation | None = None,
    seed: int = 0,
    **options: Any,
) -> Strategy:
    """A masking strategy by its name. Give what is at hand; each takes what it needs.

    Args:
        name: a key of ``STRATEGIES``; ``-`` is read as ``_``.
        tokenizer: whose ids the contexts hold (entity, salient, punctuation, recurring, and the
            size of the vocabulary for idf, common, rare, difference).
        contexts: the domain's corpus (idf, common, rare, keyword, pmi, difference).
        reference_contexts: a general corpus (difference).
        texts: raw texts of the domain, from which an uncased tokenizer learns names
            (entity, salient).
        embeddings: token embeddings, (V, D) (difference).
        entropy: observation -> entropy of the language model's prediction at each token (entropy).
        policy: the policy whose mask rates are kept (shuffled).
        observation: contexts, entries (B, L), to measure that policy on (shuffled).
        seed: of the strategy's draws.
        options: further arguments of the class, e.g. ``p`` of span, ``sample`` of idf.

    Raises:
        ValueError: if the name is unknown or something it needs was not given.
    """
    key = strategy_key(name)
    given = _Given(
        name=key,
        tokenizer=tokenizer,
        contexts=contexts,
        reference_contexts=reference_contexts,
        texts=texts,
        embeddings=embeddings,
        entropy=entropy,
        policy=policy,
        observation=observation,
        seed=seed,
    )
    try:
        return STRATEGIES[key](given, **options)
    except TypeError as error:
        if not options or "argument" not in str(error):
            raise
        raise ValueError(
            f"The strategy {name!r} does not take one of the options {sorted(options)}: {error}"
        ) from error
